"""Sign codes of language models: planted units, exact identities, controls that come out empty, A against B, every figure."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import analysis.hash_codes as subject
from analysis.contract import Run, Shape
from analysis.hash_codes import attention, coding, probing, sparsity, tables, words
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from jobs.progress import keep, kept
from metrics import codes
from models.corpus import Tokens
from models.progress import Quiet
from models.refusal import Refused
from tests.operator_bench import Text, model_of, text_for

PARAMS = subject.Params(units=96, keys=3, sparsity_sequences=4, attention_sequences=2)


class Labelled(Text):
    """A text whose sequences have labels."""

    labels: dict = {}

    @property
    def tokens(self):
        return Tokens(self.ids.numpy(), self.keep.numpy(), self.labels, {})


def labelled(model, labels=None, **how):
    text = text_for(model, **how)
    out = Labelled(text.subject, text.ids, text.keep)
    out.ids[:, 0] = 0  # BOS
    out.labels = labels or {}
    return out


def computed(model, params=PARAMS, labels=None, **how):
    return subject.compute((labelled(model, labels, **how),), params, Quiet())


def run(label, result, params=PARAMS):
    return Run(label, f"demo/{label}", result, params, {})


@pytest.fixture(scope="module")
def pair():
    """A random model and the same with one MLP removed and another's weights moved a little."""
    labels = {"strand": np.array(["x", "y"] * 12)}
    a = model_of("llama", n_layers=4)
    b = a.copy("b")
    b.remove(frozenset({(1, "mlp")}))
    b.set_matrix(2, a.layout.mlp_input, a.matrix(2, a.layout.mlp_input) * 1.0 + 0.02 * torch.randn(24, 16, generator=torch.Generator().manual_seed(0)))
    return [run(name, computed(m, labels=labels, n_sequences=24)) for name, m in (("A", a), ("B", b))]


# planted


def planted(n_sequences=48):
    """Half of the first MLP's units are on if and only if the token is in the upper half of the vocabulary; the label is that of the last token."""
    model = model_of("gpt2", n_layers=2)
    mark = torch.zeros(32, 16)
    mark[:, 0] = torch.where(torch.arange(32) < 16, -40.0, 40.0)
    model.set_parameters({"transformer.wte.weight": model.module.transformer.wte.weight + mark})
    w = model.matrix(0, "mlp.c_fc").clone()
    w[:32] = 0
    w[:32, 0] = 1.0
    bias = model.module.transformer.h[0].mlp.c_fc.bias.clone()
    bias[:32] = 0
    model.set_matrix(0, "mlp.c_fc", w, bias)
    block = model.module.transformer.h[0]
    block.ln_2.weight[0], block.ln_2.bias[0] = 1.0, 0.0
    text = labelled(model, n_sequences=n_sequences)
    last = text.ids.gather(1, text.keep.sum(1, keepdim=True) - 1)[:, 0]
    text.labels = {"half": np.where(last.numpy() < 16, "lower", "upper")}
    return model, text


def test_wired_units_are_read_by_both_probes_and_found_by_neighbours():
    model, text = planted()
    r = subject.compute((text,), replace(PARAMS, unit="last token", layer=0), Quiet())
    assert r.label == "half" and r.classes == ("lower", "upper")
    for reader in ("k-NN", "linear"):
        assert words.probe(r, "sign codes", reader, layer=0)["accuracy"] == 1.0
    assert set(r.on_fraction[0, 0, :32].round(6)) == {r.on_fraction[0, 0, 0].round(6)} and 0.3 < r.on_fraction[0, 0, 0] < 0.7
    of = lambda s, p: text.ids[s, p] >= 16
    n = r.neighbours
    own = of(n["sequence"][0, 0], n["position"][0, 0])
    assert all(of(s, p) == own for s, p in zip(n["sequence"][0, 1:], n["position"][0, 1:]))
    assert words.probe(r, "shuffled labels")["low"] < 0.5 + 0.2 and words.probe(r, "shuffled labels")["accuracy"] < 0.8


def test_labels_that_mean_nothing_are_read_at_chance():
    """Negative control: labels drawn by lot, many units; every source's interval reaches chance."""
    labels = {"coin": np.random.default_rng(3).choice(["heads", "tails"], 60)}
    r = computed(model_of("gpt2"), replace(PARAMS, units=600), labels, n_sequences=60)
    rows = [row for row in r.probes.to_pylist() if row["source"] != "most frequent class"]
    assert len(rows) == 3 * 4 * 2 + 3 * 2 + 2
    assert all(0.35 < row["accuracy"] < 0.65 for row in rows), [(row["source"], row["accuracy"]) for row in rows]


def test_a_passage_that_stands_in_the_text_is_its_own_nearest():
    model = model_of("llama")
    text = labelled(model)
    words_ = model.tokenizer.decode(text.ids[5, 1:9].tolist())
    r = subject.compute((text,), replace(PARAMS, passage=words_, units=2000), Quiet())
    n = r.neighbours
    assert (n["distance"][:, 1] == 0).all() and (n["sequence"][:, 1] == 5).all() and (n["position"][:, 1] == 8).all()
    assert np.nanmax(n["share"][:, 1]) == 0 and (n["distance"][:, 2] > 0).all() and (np.diff(n["distance"][:, 1:], axis=1) >= 0).all()


@pytest.mark.parametrize("unit", ("token", "last token", "sequence"))
def test_the_row_looked_at_is_not_among_its_neighbours(unit):
    r = computed(model_of("gpt2"), replace(PARAMS, unit=unit, row=3))
    assert (r.neighbours["sequence"][:, 0] == 3).all() and (r.neighbours["sequence"][:, 1:] != 3).all()
    assert r.unit == unit and r.n_units == (96 if unit == "token" else 20)


# exact


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_codes_are_the_signs_of_what_the_model_computes(family):
    model = model_of(family)
    text = labelled(model)
    seen = {}
    handles = [model.site(1, name)[0].register_forward_hook(lambda m, a, out, name=name: seen.__setitem__(name, out)) for name in (("mlp_pre",) if family == "gpt2" else ("mlp_pre", "mlp_up"))]
    model.logits(text.ids)
    [h.remove() for h in handles]
    counted = text.keep.clone()
    counted[:, 0] = False
    with coding.coded(model, text.ids, counted, PARAMS) as of:
        bits = codes.unpack(of.signs[1], of.signs[1].shape[1] * 8)[:, coding.places_of_bits(of.planes_on.shape[2], len(of.planes))]
        on = torch.cat([v.flatten(0, 1) for v in seen.values()], 1).numpy() > 0
        assert (bits == on & counted.reshape(-1, 1).numpy()).all()
        assert np.allclose(of.planes_on[:, 1].reshape(-1), on[counted.reshape(-1).numpy()].mean(0))


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_prompts_that_share_a_prefix_share_its_codes_and_part_where_they_differ(family):
    """Sheet 2(e) 7: exact in float32, and the redundancy of a construction with 32 shared tokens in 512."""
    model = model_of(family)
    ids = torch.randint(3, 32, (16, 33), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 0
    ids[1, :17] = ids[0, :17]
    ids[1, 17] = 3 + (ids[0, 17] - 3 + 1) % 29
    ids[3, :17] = ids[2, :17]
    ids[3, 17] = 3 + (ids[2, 17] - 3 + 1) % 29
    counted = torch.ones_like(ids, dtype=torch.bool)
    counted[:, 0] = False
    with coding.coded(model, ids, counted, PARAMS) as of:
        every = np.concatenate(of.signs, 1).reshape(16, 33, -1)
    assert (every[0, :17] == every[1, :17]).all() and (every[2, :17] == every[3, :17]).all()
    assert (every[0, 17] != every[1, 17]).any() and (every[2, 17] != every[3, 17]).any()
    flat, new = every.reshape(16 * 33, -1), coding.fresh(ids.numpy(), counted.numpy()).reshape(-1)
    here = counted.reshape(-1).numpy()
    assert codes.redundancy(np.ascontiguousarray(flat[here])) >= 32 / 512 and here.sum() == 512 and (here & ~new).sum() >= 32
    assert (here & ~new).sum() == round(512 * (codes.redundancy(np.ascontiguousarray(flat[here])) - codes.redundancy(np.ascontiguousarray(flat[new])) * new.sum() / 512))


def test_shared_prefixes_by_hand():
    ids = np.array([[0, 5, 6, 7], [0, 5, 6, 8], [0, 6, 6, 7], [0, 5, 6, 7]])
    counted = np.ones_like(ids, bool)
    counted[:, 0] = False
    assert coding.fresh(ids, counted).astype(int).tolist() == [[0, 1, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]]
    assert coding.units_of("last token", ids, counted, 99, 0).sequence.tolist() == [0, 1, 2]


def test_the_majority_of_a_sequence_by_hand():
    """Bits on in more than half of the counted tokens: 2 of 3 is on, 1 of 2 is off."""
    bits = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0]], bool)
    counted = np.array([[True, True, True], [False, True, True]])
    bits[3] = False
    units = coding.Units("sequence", np.array([0, 1]), np.array([2, 2]), np.array([2, 5]), 2)
    found = codes.unpack(coding.of_units(codes.pack(bits), units, counted), 3)
    assert found.astype(int).tolist() == [[1, 1, 0], [0, 1, 0]]


def test_renaming_and_scaling_units_changes_nothing_and_a_sign_one_column():
    """Sheet 2(e) 4 on a language model: order and positive scale of units leave R and all distances; a sign turns one bit of every token."""
    model = model_of("gpt2", n_layers=2)
    other, turned = model.copy("renamed"), model.copy("turned")
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    w, bias = model.matrix(1, "mlp.c_fc"), model.module.transformer.h[1].mlp.c_fc.bias
    other.set_matrix(1, "mlp.c_fc", 2.0 * w[order], 2.0 * bias[order])
    sign = torch.ones(64)
    sign[7] = -1
    turned.set_matrix(1, "mlp.c_fc", w * sign[:, None], bias * sign)
    a, b, c = (computed(m) for m in (model, other, turned))
    assert a.redundancy.equals(a.redundancy) and words.redundant(a) == words.redundant(b)
    assert (a.neighbours["distance"][0] == b.neighbours["distance"][0]).all() and (a.nearest[0] == c.nearest[0]).all()
    f = tables.flips(a, c)
    assert f.share.tolist() == [0.0, 1 / 64] and f.kept == 1.0
    assert c.on_fraction[0, 1, 7] == pytest.approx(1 - a.on_fraction[0, 1, 7])


def test_random_hyperplanes_differ_in_a_bit_with_the_angle_over_pi():
    """Charikar's law, within four standard errors of 40,000 planes; the same law behind the codes of attention."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(6, 12, generator=g)
    planes = coding.Hyperplanes(12, 40_000, 5, centre=torch.zeros(12))
    planes.add(x)
    bits = planes.signs.bits()
    angle = torch.arccos(torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1).clamp(-1, 1)).numpy() / np.pi
    differ = (bits[:, None] != bits[None]).mean(-1)
    assert np.abs(differ - angle)[~np.eye(6, dtype=bool)].max() < 4 * 0.5 / 200
    assert torch.equal(attention.hamming(x, x, planes.planes), torch.from_numpy((bits[:, None] != bits[None]).sum(-1)).float())


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_queries_and_keys_are_those_of_the_model(family):
    """Softmax of their products is the attention that the eager implementation returns, rotary embedding and shared keys included."""
    model, seen = model_of(family), {}
    ids = text_for(model).ids[:1]
    with attention.seeing(model, lambda layer, q, k: seen.__setitem__(layer, (q, k))):
        model.logits(ids)
    model.module.set_attn_implementation("eager")
    true = model.module(input_ids=ids, output_attentions=True).attentions
    future = torch.ones(24, 24, dtype=torch.bool).triu(1)
    for layer, (q, k) in seen.items():
        scores = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).masked_fill(future, -torch.inf)
        assert torch.allclose(scores.softmax(-1), true[layer], atol=1e-5)
    assert len(seen) == 3 and torch.nn.functional.scaled_dot_product_attention.__name__ == "scaled_dot_product_attention"
    with pytest.raises(Refused, match="fused attention"), attention.seeing(model, None):
        pass


def test_top_keys_by_hand():
    scores = torch.tensor([[1.0, 9.0, 9.0], [2.0, 1.0, 9.0], [1.0, 3.0, 2.0]])
    assert attention.top(scores, 2).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]


# sparsity


def test_masking_what_is_off_is_free_after_relu_only():
    costs = {}
    for name in ("relu", "gelu_new"):
        model = model_of("gpt2")
        for block in model.blocks:
            block.mlp.act = torch.nn.ReLU() if name == "relu" else block.mlp.act
        r = computed(model)
        costs[name] = words.masked(r, "truly off", None)
        assert words.masked(r, "random", 0.5)["kl"] > 5 * words.masked(r, "smallest", 0.5)["kl"]
    assert costs["relu"]["kl"] < 1e-9 < 1e-4 < costs["gelu_new"]["kl"]


def test_what_does_not_change_on_the_way_is_predicted():
    """A silent model: the stream one block earlier is the stream, so a linear predictor knows nearly every bit."""
    model = model_of("gpt2", n_layers=3)
    for i in range(3):
        for name in (model.layout.attn_output, model.layout.mlp_output):
            model.set_matrix(i, name, torch.zeros_like(model.matrix(i, name)), torch.zeros(16))
    r = computed(model, n_sequences=60)
    precision, recall = tables.told(r)
    assert (precision[:, 0, sparsity.MAIN] > 0.93).all() and (recall[:, 0, sparsity.MAIN] > 0.9).all()
    assert (precision[:, 0, sparsity.MAIN] > precision[:, 1, sparsity.MAIN] + 0.1).all()
    base = r.base[:, 0] / r.base[:, 1]
    assert np.allclose(base, [codes_off(r, j) for j in range(3)], atol=0.03)


def codes_off(r, j):
    return 1 - r.on_fraction[0, j].mean()


def test_guesses_are_counted_by_hand():
    """Stream constant, so the score is the constant's weight: unit 0 said to be off below 0.3, unit 1 never."""
    weights = torch.zeros(5, 2)
    weights[4] = torch.tensor([0.25, 0.75])
    score = sparsity.Score(weights, torch.tensor([0.9, 0.02]), 0.0)
    score.add(torch.ones(4, 4), torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [2.0, -3.0], [0.0, -1.0]]))
    at = sparsity.CUTS.index(0.3)
    assert score.told[0, at].tolist() == [3, 1, 3] and score.told[1, at].tolist() == [3, 1, 3] and score.base.tolist() == [6, 8]
    assert score.told[0, 0].tolist() == [0, 0, 6]


def test_a_low_rank_predictor_is_between_nothing_and_the_full_one():
    fit = sparsity.Fit(0.0)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 8, generator=g)
    fit.add(x, x @ torch.randn(8, 20, generator=g))
    z, y = sparsity.normed(x), None
    full = fit.solve(0)
    error = lambda w: float((z @ w - z @ full).square().mean())
    assert torch.linalg.matrix_rank(fit.solve(2).double(), tol=1e-4) == 2 and error(fit.solve(7)) < error(fit.solve(2)) < error(torch.zeros_like(full)) and y is None


def test_random_masks_are_as_many_as_predicted_ones():
    r = computed(model_of("gpt2"))
    for cut in sparsity.CUTS:
        told, random = words.masked(r, "predicted off", cut), words.masked(r, "random", cut)
        assert random["masked_share"] == pytest.approx(told["masked_share"], abs=0.03)


# A against B


def test_a_against_itself_flips_nothing():
    a, again = computed(model_of("llama")), computed(model_of("llama"))
    f = tables.flips(a, again)
    assert f.share.tolist() == [0, 0, 0] and (f.each == 1).all() and f.kept == 1.0 and np.nanmax(f.passage) == 0
    assert "B flips **0 %** of A’s bits" in subject.answer([run("A", a), run("B", again)])


def test_flips_are_where_the_weights_moved(pair):
    f = tables.flips(pair[0].result, pair[1].result)
    assert f.layers == (0, 2, 3) and f.share[0] == 0 and (f.share[1:] > 0).all() and 0 < f.kept < 1
    assert np.isnan(f.passage[0]) and (f.passage[1:] >= 0).all() and len(f.passage) == 24
    assert tables.flips(pair[1].result, pair[0].result).share == pytest.approx(f.share)


def test_models_of_other_shapes_are_not_compared():
    a, b = computed(model_of("gpt2")), computed(model_of("llama"))
    f = tables.flips(a, b)
    assert "do not answer to each other" in f.why_not and f.why_not in subject.answer([run("A", a), run("B", b)])
    assert [c.name for c in subject.figures([run("A", a), run("B", b)])][:2] == ["neighbours", "units"]


# the whole


class Cut(Exception):
    pass


class Interrupted:
    """Progress that keeps every state through its file form and stops at a step."""

    def __init__(self, folder, stop, name="whole", count=None):
        self.folder, self.stop, self.name, self.said = folder, stop, name, [] if count is None else count

    def save(self, state, force=False):
        keep(self.folder / f"{self.name}.safetensors", state)

    def saved(self):
        return kept(self.folder / f"{self.name}.safetensors")

    def part(self, key):
        return Interrupted(self.folder, self.stop, key, self.said)

    def step(self, i, n, message="", live=None):
        assert 0 <= i <= n
        self.said.append(message)
        if len(self.said) == self.stop:
            raise Cut


def test_a_run_that_was_cut_off_goes_on_where_it_was(tmp_path):
    """Wherever it was cut, the resumed result is the uninterrupted one to the bit, and stages that were done are not done again."""
    params, model, labels = replace(PARAMS, sparsity_sequences=10, attention_sequences=3), model_of("gpt2", n_layers=2), {"strand": np.array(["x", "y"] * 12)}
    text = labelled(model, labels, n_sequences=24)
    whole = Interrupted(tmp_path, 0)
    wanted = encode(subject.compute((text,), params, whole))
    (tmp_path / "whole.safetensors").unlink()
    masking, attention_ = (next(i for i, m in enumerate(whole.said) if word in m) for word in ("masking", "attention"))
    for stop in (2, masking + 20, attention_ + 2):
        folder = tmp_path / str(stop)
        folder.mkdir()
        with pytest.raises(Cut):
            subject.compute((text,), params, Interrupted(folder, stop))
        again = Interrupted(folder, 0)
        found = encode(subject.compute((text,), params, again))
        assert found[2] == wanted[2] and all(np.array_equal(found[0][n], wanted[0][n], equal_nan=True) for n in wanted[0]) and all(found[1][n].equals(wanted[1][n]) for n in wanted[1])
        assert len(again.said) <= len(whole.said) + 2 - (0 if stop == 2 else 16), (stop, again.said)
        assert stop == 2 or not any("what block" in m for m in again.said)


def test_why_attention_is_missing_is_said():
    """Other attention than torch's fused one cannot be read, and texts too short ask for no keys: the answer says so."""
    model = model_of("gpt2", n_layers=2)
    model.module.set_attn_implementation("eager")
    r = computed(model)
    assert r.recall.size == 0 and "Attention is not shown: Queries and keys are read where" in subject.answer([run("A", r)])
    assert "attention" not in [c.name for c in subject.figures([run("A", r)])] and len(subject.headlines([run("A", r)])) == 2
    short = computed(model_of("gpt2", n_layers=2), replace(PARAMS, keys=40))
    assert "Attention of B is not shown: No token of the text sees 80 keys" in subject.answer([run("A", computed(model_of("gpt2", n_layers=2))), run("B", short)])


def test_every_figure_in_both_themes(pair, tmp_path):
    store = Store(tmp_path, 1 << 30)
    for runs in (pair[:1], pair):
        for card in subject.figures(runs):
            for draw in card.views.values():
                for theme in ("light", "dark"):
                    draw(THEMES[theme])
            assert card.data.num_rows and card.reading and card.alt and "nan" not in card.reading.lower()
        assert "nan" not in subject.answer(runs) and len(subject.headlines(runs)) == 4
    arrays, named, plain = encode(pair[0].result)
    store.put("k", arrays=arrays, tables=named, record={"plain": plain})
    back = decode(subject.Result, store.get("k"))
    assert subject.answer([run("A", back)]) == subject.answer(pair[:1]) and (back.codes == pair[0].result.codes).all()


def test_a_text_without_labels_says_so():
    r = computed(model_of("gpt2"))
    assert r.label == "" and "no label" in subject.answer([run("A", r)]) and "probes" not in [c.name for c in subject.figures([run("A", r)])]
    with pytest.raises(Refused, match="no label “colour”"):
        computed(model_of("gpt2"), replace(PARAMS, label="colour"))
    for labels, said in (({"topic": np.array([f"t{i}" for i in range(20)])}, "20 different values .* 0 of them on at least four of its 20 sequences"), ({"topic": np.array(["one"] * 19 + [""])}, "1 different value in .* 1 of them")):
        with pytest.raises(Refused, match=said):
            computed(model_of("gpt2"), replace(PARAMS, label="topic"), labels)
    with pytest.raises(Refused, match="Row 99"):
        computed(model_of("gpt2"), replace(PARAMS, row=99))
    with pytest.raises(Refused, match="Block 9"):
        computed(model_of("gpt2"), replace(PARAMS, layer=9))


def test_whole_sequences_stand_on_one_side_of_the_split():
    units = coding.Units("token", np.repeat(np.arange(10), 3), np.tile([1, 2, 3], 10), np.arange(30), 10)
    classes = np.array([0] * 6 + [1] * 3 + [-1])
    learn, ask = probing.halves(units, classes, 0)
    assert not set(units.sequence[learn]) & set(units.sequence[ask]) and len(learn) == 15 and len(ask) == 12
    assert probing.label_of({"b": np.array(["u", "v"] * 4), "strand": np.array(["x"] * 8)}, "", np.arange(8))[0] == "b"


def test_the_estimate_grows_with_the_text():
    shape = Shape(6, 160, 640, 8, 942, 2_000_000)
    assert subject.cost(shape, 20_000, subject.Params()) > subject.cost(shape, 10_000, subject.Params()) > 0
