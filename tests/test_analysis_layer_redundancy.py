"""Layer redundancy as a whole: planted truth, controls, resuming, the sign and the gaps of A against B, every figure."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

import analysis.layer_redundancy as subject
from analysis.contract import Run, Shape
from analysis.layer_redundancy import drawing, maps, tables, words
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics.removal import sweep, units
from models.progress import Quiet
from tests.conftest import REPO
from tests.operator_bench import model_of, text_for
from tests.test_metrics_removal import neox

PARAMS = subject.Params(removal_sequences=6, spectra_sequences=4, cka_batch=32, resamples=200)


def computed(model, params=PARAMS, progress=None, **text):
    return subject.compute((text_for(model, **{"n_sequences": 12, "length": 16, **text}),), params, progress or Quiet())


def run(label, result, params=PARAMS):
    return Run(label, f"demo/{label}", result, params, {})


def silenced(model, layer):
    for name in (model.layout.attn_output, model.layout.mlp_output):
        bias = model.blocks[layer].get_submodule(name).bias
        model.set_matrix(layer, name, torch.zeros_like(model.matrix(layer, name)), None if bias is None else torch.zeros_like(bias))
    return model


@pytest.fixture(scope="module")
def pair():
    a = model_of("gpt2", n_layers=5)
    b = a.copy("b")
    b.remove(frozenset({(2, "attn"), (2, "mlp"), (4, "attn")}))
    return [run("A", computed(a)), run("B", computed(b))]


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_a_silent_block_is_found_by_every_measure(family):
    r = computed(silenced(model_of(family, n_layers=4), 2))
    assert np.abs(r.score[:, 2]).max() < 1e-10 and np.abs(r.kl[:, 2]).max() < 1e-6
    assert r.angular[2, 3] < 1e-6 and r.cka[:, 2, 3] == pytest.approx(1, abs=1e-6) and r.cka_linear[:, 2, 3] == pytest.approx(1, abs=1e-6)
    assert np.allclose(r.spectra[:, :, 2], r.spectra[:, :, 3]) and r.agreement[0, 2] == pytest.approx(1)
    assert r.perplexity[0, 2] == pytest.approx(r.base_perplexity, rel=1e-6)
    others = [0, 1, 3]
    assert (r.score[:, others] > 1e-3).all() and (r.kl[:, others] > 1e-3).all() and (r.kl_low[:, others] > 0).all()
    one = run("A", r)
    assert words.cheapest(one) == words.most_similar(one) == 2
    assert subject.answer([one]).startswith("Removing **block 2** costs **less than 0.000001 nats per token**;")
    assert drawing.damage([one], 0, THEMES["light"]).layout.xaxis2.ticktext[0] == "≤ 0.0001"


def test_a_block_that_only_lengthens_the_stream_is_similar_and_still_costs():
    """Similarity is not damage: a block doubling the stream has Block Influence 0, yet everything after it weighs less."""
    model = model_of("llama", n_layers=3)
    model.blocks[1].register_forward_hook(lambda m, args, out: 2 * args[0])
    r = computed(model)
    assert abs(r.score[0, 1, 0]) < 1e-10 and r.kl[0, 1, 0] > 1e-3


def test_measured_numbers_are_the_sweep_and_the_plain_perplexity():
    model = model_of("gpt2")
    text = text_for(model, n_sequences=6, length=16)
    r = computed(model, n_sequences=6)
    sums = sweep(model, text.ids, text.keep, units(model))
    assert np.allclose(r.kl[..., 0].ravel(), sums.kl[:, 0].sum(-1) / text.keep.sum().item())
    assert ((r.kl_low <= r.kl) & (r.kl <= r.kl_high)).all()
    log_p = model.logits(text.ids, text.keep.long()).double().log_softmax(-1)[:, :-1].gather(2, text.ids[:, 1:, None])[..., 0][text.keep[:, 1:]]
    assert r.base_perplexity[0] == pytest.approx(float((-log_p.mean()).exp()), rel=1e-5)


def test_measured_part_may_be_smaller_than_a_batch():
    """Six sequences of the first batch of eight: the same as a corpus of those six."""
    model = model_of("gpt2")
    text = text_for(model, n_sequences=12, length=16)
    few = computed(model)
    sums = sweep(model, text.ids[:6], text.keep[:6], units(model))
    assert few.n_measured == 6 and few.n_sequences == 12
    assert np.allclose(few.kl[..., 0].ravel(), sums.kl[:, 0].sum(-1) / text.keep[:6].sum().item(), atol=1e-7)


def test_unrelated_tokens_through_a_blind_model_are_not_alike():
    """Negative control: states of independent random embeddings and of a block that writes noise over them."""
    model = model_of("gpt2", n_layers=2)
    noise = torch.Generator().manual_seed(0)
    model.blocks[1].register_forward_hook(lambda m, args, out: torch.randn(out.shape, generator=noise))
    r = computed(model, n_sequences=40, length=24)
    assert abs(r.cka[0, 0, 2]) < 0.05 and r.cka[0, 0, 1] > 0.05
    assert r.cka_linear[0, 0, 2] > r.cka[0, 0, 2]
    assert r.score[0, 1, 0] == pytest.approx(1, abs=0.1) and r.angular[1, 2] == pytest.approx(0.5, abs=0.05)


def test_a_model_of_silent_blocks_says_so():
    model = silenced(silenced(silenced(model_of("gpt2"), 0), 1), 2)
    one = run("A", computed(model))
    assert "too few for a rank correlation" in subject.answer([one])
    for card in subject.figures([one]):
        for draw in card.views.values():
            draw(THEMES["light"])


class Interrupted(Quiet):
    def __init__(self, after=None):
        self.after, self.kept, self.steps = after, None, []

    def step(self, i, n, message="", live=None):
        self.steps.append((i, n, message))
        if self.after is not None and len(self.steps) > self.after:
            raise KeyboardInterrupt

    def save(self, state, force=False):
        self.kept = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in state.items()}

    def saved(self):
        return self.kept


def test_resumed_run_is_bit_for_bit_the_whole_one():
    model, text = model_of("llama"), dict(n_sequences=20, length=16)
    params = dataclasses.replace(PARAMS, removal_sequences=20)
    whole = computed(model, params, **text)
    cut = Interrupted(after=15)
    with pytest.raises(KeyboardInterrupt):
        computed(model, params, cut, **text)
    assert cut.kept["batches"] == 1
    cut.after, cut.steps = None, []
    resumed = computed(model, params, cut, **text)
    for field in dataclasses.fields(subject.Result):
        assert np.array_equal(getattr(whole, field.name), getattr(resumed, field.name), equal_nan=True), field.name
    steps = [i for i, _, _ in cut.steps]
    assert steps == sorted(steps) and cut.steps[0][0] == 10 and cut.steps[-1][0] == cut.steps[-1][1] == 30
    assert any("removing attention of block 1 (2 of 3)" in m for _, _, m in cut.steps)


@pytest.mark.parametrize("remove,kinds", [("everything", 3), ("blocks", 1), ("nothing", 0)])
def test_what_is_removed_is_a_choice(remove, kinds):
    one = run("A", computed(model_of("gpt2"), dataclasses.replace(PARAMS, remove=remove)))
    assert np.isfinite(one.result.kl).all((1, 2)).sum() == kinds
    assert len(subject.headlines([one])) <= 4 and subject.answer([one])
    for card in subject.figures([one]):
        for draw in card.views.values():
            draw(THEMES["dark"])
    if not kinds:
        assert "was not measured" in subject.answer([one])


def test_parallel_blocks():
    r = computed(neox())
    assert r.parallel and (r.kl > 0).all() and np.isfinite(r.score).all()


def test_result_survives_the_store(tmp_path, pair):
    result = pair[1].result
    arrays, tables_, plain = encode(result)
    Store(tmp_path).put("0" * 64, arrays=arrays, tables=tables_, record={"plain": plain})
    back = decode(subject.Result, Store(tmp_path).get("0" * 64))
    for field in dataclasses.fields(result):
        assert np.array_equal(getattr(result, field.name), getattr(back, field.name), equal_nan=True)


def test_result_of_a_variant_keeps_the_original_indices(pair):
    b = pair[1].result
    assert b.blocks.tolist() == [0, 1, 3, 4] and b.n_layers == 5
    assert np.isnan(b.kl[1, 3]).all() and np.isnan(b.score[1, 3]).all() and np.isfinite(b.kl[2, 3]).all()  # attention of block 4
    assert b.kl[0, 3] == pytest.approx(b.kl[2, 3], abs=1e-6)  # with its attention gone, the block is its MLP


def constant(r, level):
    """The result with its distances and CKA replaced by one level."""
    off = level * (1 - np.eye(r.n_blocks + 1))
    return dataclasses.replace(r, angular=off, cka=np.full_like(r.cka, level), cka_linear=np.full_like(r.cka_linear, level))


def test_difference_is_b_minus_a_and_empty_where_b_lacks_a_block(pair):
    a, b = (run(x.label, constant(x.result, level)) for x, level in zip(pair, (0.3, 0.1)))
    z = np.array(maps.cka_difference(a, b, "cka", THEMES["light"]).data[1].z, float)
    gone = 3  # “after block 2”, with emb first
    assert np.isnan(z[gone]).all() and np.isnan(z[:, gone]).all()
    rest = np.delete(np.delete(z, gone, 0), gone, 1)
    assert rest == pytest.approx(-0.2)  # B has less
    spans = np.array(maps.span_difference(a, b, THEMES["light"]).data[0].z, float)  # [length − 1, first block]
    assert np.isnan(spans[:, 2]).all() and spans[0, 1] == pytest.approx(-0.2)
    assert np.isnan(spans[1, 1]) and spans[2, 1] == pytest.approx(-0.2)  # 1–2 ends in the gone block, 1–3 goes across it
    turned = np.array(maps.span_difference(b, a, THEMES["light"]).data[0].z, float)
    assert turned[0, 1] == pytest.approx(0.2)


def hand_made(pair):
    """Results whose numbers are written here: A's block 1 is cheapest and 3 most similar; B lacks block 2."""
    a, b = pair[0].result, pair[1].result
    kl_a, score_a = np.full_like(a.kl, 0.5), np.full_like(a.score, 0.2)
    kl_a[0, :, 0], score_a[0, :, 0] = [2.0, 0.021, 0.4, 0.094, 0.339], [0.4, 0.1, 0.3, 0.05, 0.2]
    kl_b = np.full_like(b.kl, 0.5)
    kl_b[0, :, 0] = [3.0, 0.042, 0.047, 0.6]
    kl_b[0, 1, 0] = 0.2
    low, high = kl_a.copy(), kl_a.copy()
    low[0, 1, 0], high[0, 1, 0] = 0.018, 0.024
    return [run("A", dataclasses.replace(a, kl=kl_a, kl_low=low, kl_high=high, score=score_a)), run("B", dataclasses.replace(b, kl=kl_b, kl_low=kl_b, kl_high=kl_b))]


def test_the_answer_by_hand(pair):
    text = subject.answer(hand_made(pair)).replace("\u2060", "")
    assert text.startswith("Removing **block 1** costs **0.0210 nats per token** (95 % interval 0.0180–0.0240); the median block costs 0.339. "
                           "Cosine similarity would have removed block 3, which costs 0.0940 (over 5 blocks ρ = 0.90, shuffled ")
    assert text.endswith("In B, which lacks block 2 and attention of block 4, the cheapest is block 3 at 0.0470 (in A 0.0940).")


def test_headlines_by_hand(pair):
    cheapest, median, rho, ratio = subject.headlines(hand_made(pair))
    assert (cheapest.value, cheapest.low, cheapest.high) == ("1", 0.018, 0.024) and median.value == 0.339
    assert rho.value == pytest.approx(0.9) and rho.low < rho.value < rho.high and "n = 5" in rho.note
    assert ratio.value == pytest.approx(np.median([3 / 2, 0.2 / 0.021, 0.047 / 0.094, 0.6 / 0.339])) and ratio.low == pytest.approx(0.5)


def test_first_tokens_are_a_choice_of_view_only(pair):
    late = [run(x.label, x.result, dataclasses.replace(PARAMS, tokens="after-first")) for x in pair]
    assert words.scope(late[0]) == 1
    shown = drawing.damage(late, 0, THEMES["light"]).data[0].x
    assert np.array_equal(shown, pair[0].result.score[0, :, 1]) and not np.array_equal(shown, pair[0].result.score[0, :, 0])


@pytest.mark.parametrize("n_runs", (1, 2))
def test_every_figure_draws_in_every_look_and_carries_its_data(pair, n_runs):
    runs = pair[:n_runs]
    cards = subject.figures(runs)
    assert [c.name for c in cards] == ["similarity_and_damage", "score_against_damage", "spans", "cka", "joint_ranking", "spectra"]
    for card in cards:
        assert isinstance(card.data, pa.Table) and card.data.num_rows > 0
        assert card.reading.endswith(".") and card.caption.endswith(".") and card.alt.endswith(".") and card.height <= 700
        for draw in card.views.values():
            for theme in THEMES.values():
                figure = draw(theme)
                assert figure.data and figure.layout.template.layout.font.size == 12 and not figure.layout.title.text
    by_name = {c.name: c.data for c in cards}
    blocks = [len(r.result.blocks) for r in runs]
    assert by_name["similarity_and_damage"].num_rows == sum(blocks) * 3 * 2
    assert by_name["spans"].num_rows == sum(n * (n + 1) // 2 for n in blocks)
    assert by_name["cka"].num_rows == 2 * sum((n + 1) ** 2 for n in blocks)
    assert by_name["joint_ranking"].num_rows == 2 * sum(blocks) and by_name["spectra"].num_rows == 8 * sum(n + 1 for n in blocks)
    assert set(by_name["spans"]["run"].to_pylist()) == {r.label for r in runs}


def test_removed_is_said_in_the_figures(pair):
    texts = lambda figure: " ".join(a.text for a in figure.layout.annotations)
    assert "removed in B" in texts(drawing.damage(pair, 0, THEMES["light"])) and "removed<br>in B" in texts(maps.ranking(pair, False, THEMES["light"]))
    assert "removed in B" in texts(maps.cka_difference(*pair, "cka", THEMES["light"]))
    assert "removed" not in texts(drawing.damage(pair[:1], 0, THEMES["light"]))


def test_joint_ranks_by_hand():
    ranks = tables.joint_ranks(np.array([[0.3, np.nan, 0.1], [0.2, 0.1, 0.5]]))
    assert np.array_equal(ranks, [[4, np.nan, 1], [3, 2, 5]], equal_nan=True)


def test_cost_grows_with_what_is_asked():
    shape = Shape(6, 160, 640, 8, 1000, 2_000_000)
    cost = lambda **given: subject.cost(shape, 16_384, dataclasses.replace(subject.Params(), **given))
    assert cost(remove="nothing") < cost(remove="blocks") < cost() < cost(removal_sequences=128)
    one_pass = 16_384 * shape.block_flops * 6
    assert one_pass < cost(remove="nothing") < 1.5 * one_pass


DEMO = REPO / "demo" / "models" / "storyteller-a"


@pytest.mark.skipif(not (DEMO / "model.safetensors").is_file(), reason="the demo model is not there")
def test_on_the_demo_model(home):
    """The numbers that a newcomer sees, against the masked model; through the store, twice, the second time read back."""
    from analysis import run as door
    from metrics.divergence import KL, token_divergence

    given = ("demo/storyteller-a", None, "demo/stories:4x48", {"removal_sequences": 4, "spectra_sequences": 2, "resamples": 200})
    (request,) = door.requests("layer_redundancy", *given)
    door.execute(request.to_json())
    r = door.load(request).result
    bench = door.lab(home)
    model, tokens = bench.model(request.variants[0]), bench.tokens(request.variants[0], request.corpus)
    ids = torch.from_numpy(tokens.ids)
    assert r.n_tokens == ids.numel() == 4 * 48 and r.base_perplexity[0] < 100
    masked = model.copy("masked")
    masked.remove(frozenset({(1, "attn")}))
    flat = lambda m: m.logits(ids).flatten(0, 1)
    kl = token_divergence(flat(model), flat(masked), torch.full((ids.numel(),), -1))[:, KL]
    assert r.kl[1, 1, 0] == pytest.approx(float(kl.double().mean()), abs=1e-5)
    assert np.nanmax(r.kl[0, :, 0]) > 3 * np.nanmin(r.kl[0, :, 0]) > 0  # in a trained model blocks differ
