"""Bigram subnetworks as a whole: a model that is no bigram model holds one, nulls, compression by hand, stored plans, every figure."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

import analysis.bigram_subnetwork as subject
from analysis import run as door
from analysis.bigram_subnetwork import controls, drawing, generation, maps, measure, scores, tables, training, words
from analysis.bigram_subnetwork.wanted import SMALL, numbers, schedule_of
from analysis.contract import Run, Shape
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics import mask_training, subnetworks
from metrics.bootstrap import pair_sums, pearson_interval
from models import mask_files
from models.bigrams import from_table
from models.corpus import register_text
from models.lab import Lab
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from models.shape import shape_of
from operators import OPERATORS
from tests import tiny
from tests.operator_bench import Text, model_of
from tests.planted_bigrams import chain, second_order

FITTED = subject.Params(penalties="0 0.3 1", optimal="1", steps=400, rows=16, rate=5e-3, growth=1800 ** (1 / 400), resamples=200, new_tokens=4, draws=2)
QUICK = subject.Params(penalties="0 5", optimal="5", steps=4, rows=4, rate=0.05, growth=2.0, resamples=100, new_tokens=3, draws=2, geometry_sequences=4)


class Silent(Quiet):
    def __init__(self):
        self.seen, self.live = [], set()

    def step(self, i, n, message="", live=None):
        self.seen.append((i, n))
        self.live |= set(live or {})


def text_of(ids, table, n=96):
    every = torch.ones_like(ids, dtype=torch.bool)
    scored = every[-n:].clone()
    scored[:, -1] = False
    return training.Text(table, ids[:-n], every[:-n], ids[-n:], scored, {})


def studied(model, ids, table, params=QUICK, before=None, along=(), n=24):
    return measure.study(Text(model, ids, torch.ones_like(ids, dtype=torch.bool)), model, text_of(ids, table, n), params, Quiet(), before, along)


def run(label, result, params=QUICK):
    return Run(label, f"demo/{label}", result, params, {})


def tiny_ids(n=64):
    return torch.randint(3, 32, (n, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def fitted():
    model, table, ids = second_order()
    progress = Silent()
    return measure.study(Text(model, ids, torch.ones_like(ids, dtype=torch.bool)), model, text_of(ids[-4_000:], table), FITTED, progress), progress


def test_the_model_is_no_bigram_model_and_its_subnetwork_is(fitted):
    """Half of the tokens follow the token before the previous one: the whole model must use both, the subnetwork only one."""
    r, _ = fitted
    sweep = r.of_kind("bigram")
    alone, random = r.r[0, sweep, 0, 0], r.r[0, sweep, 1, 0]
    assert r.base_r[0, 0, 0] < 0.6 and alone.max() > 0.93 and (np.diff(r.active[sweep]) < 0).all()
    sparse = r.active[sweep] < 0.25 * r.n_weights
    assert sparse.sum() == 2 and (random[sparse] < 0.55).all() and (alone[sparse] > random[sparse] + 0.3).all()
    without, without_random = r.loss[sweep, 2, 0], r.loss[sweep, 3, 0]
    assert (without[sparse] > without_random[sparse]).all() and (without_random[sparse] > r.base_loss[0, 0]).all()
    assert r.base_loss[0, 0] < r.loss[sweep[0], 0, 0] < r.base_loss[1, 0]  # a bigram model is worse than the whole and better than nothing
    assert (r.excess[sweep, 0, 0] < 0.4).all() and r.base_excess[0, 0] > 1
    (j,) = r.of_kind("optimal")
    assert r.to_model[j, 0] > 0.9 and r.r[0, j, 0, 0] < 0.6 and np.isnan(r.r[0, j, 1]).all()
    assert (r.r[0, sweep, 0, 1] <= alone).all() and (alone <= r.r[0, sweep, 0, 2]).all()


def test_the_chosen_one_is_the_sparsest_near_the_best(fitted):
    r, _ = fitted
    sweep, at = r.of_kind("bigram"), lambda slack: words.chosen(run("A", r, replace(FITTED, slack=slack)))
    assert at(0.0) in (sweep[0], *sweep[np.flatnonzero(r.r[0, sweep, 0, 0] > r.r[0, sweep[0], 0, 0])]) and at(1.0) == sweep[-1]
    near = r.r[0, sweep[0], 0, 0] - r.r[0, at(0.04), 0, 0]
    assert near <= 0.04
    assert f"{r.active[at(0.04)]:,} of 24,576 weights" in subject.answer([run("A", r, FITTED)])


def test_progress_moves_forward_and_draws_the_curves(fitted):
    _, progress = fitted
    n = progress.seen[-1][1]
    assert all(0 <= i <= n for i, _ in progress.seen) and all(a[0] <= b[0] for a, b in zip(progress.seen, progress.seen[1:]))
    assert {"loss, nats · λ 0", "active, % · λ 0.3", "r · λ 1", "r · λ 1 (model)"} <= progress.live


def test_every_view_of_one_and_two_models_is_drawn_from_stored_results(fitted, tmp_path):
    result, _ = fitted
    arrays, tables_, plain = encode(result)
    store = Store(tmp_path)
    store.put("0" * 64, arrays=arrays, tables=tables_, record={"plain": plain})
    back = decode(subject.Result, store.get("0" * 64))
    for runs in ([run("A", back, FITTED)], [run("A", back, FITTED), run("B", result, replace(FITTED, unseen="clipped", slack=1.0))]):
        cards = subject.figures(runs)
        assert len({c.name for c in cards}) == len(cards) >= 9
        for card in cards:
            assert isinstance(card.data, pa.Table) and card.data.num_rows and card.reading.endswith((".", ")")) and card.alt
            assert "nan" not in card.reading.lower() and "–" not in card.reading.split("(")[0][:1]
            for draw in card.views.values():
                for theme in THEMES.values():
                    assert draw(theme).data
        assert 3 <= len(subject.headlines(runs)) <= 4 and "nan" not in subject.answer(runs)


def test_scores_by_hand():
    """r and losses of a masked model against a plain float64 computation; unseen pairs dropped, or clipped to the largest."""
    model, ids = model_of("gpt2"), tiny_ids(8)
    table = chain(1)
    table[:, 5] = 0  # token 5 never follows anything
    y = scores.Yardstick.of(text_of(ids, from_table(table, "holes"), 8), QUICK)
    found = scores.score(model, y)
    log2p = model.logits(ids).double().log_softmax(-1).numpy() / np.log(2)
    p = table / table.sum(1, keepdims=True)
    s = np.array([[-log2p[i, t, ids[i, t + 1]] for t in range(11)] for i in range(8)])
    with np.errstate(divide="ignore"):
        b = -np.log2(p[ids[:, :-1], ids[:, 1:]])
    seen = np.isfinite(b)
    assert 0 < (~seen).sum() < 20 and (y.here & ~y.seen).sum() == (~seen).sum()
    assert found.r[0, 0] == pytest.approx(np.corrcoef(s[seen], b[seen])[0, 1], abs=1e-5)
    clipped = np.where(seen, b, b[seen].max())
    assert found.r[1, 0] == pytest.approx(np.corrcoef(s.ravel(), clipped.ravel())[0, 1], abs=1e-5)
    assert found.loss[0] == pytest.approx(s.mean(), rel=1e-5) and found.to_model[0] == pytest.approx(1)
    kl = np.array([[sum(q * (np.log2(q) - log2p[i, t, v]) for v, q in enumerate(p[ids[i, t]]) if q > 0) for t in range(11)] for i in range(8)])
    assert found.excess[0] == pytest.approx(kl.mean(), rel=1e-4)


def test_the_table_follows_itself_and_any_affine_image():
    rng = np.random.default_rng(0)
    b, here = rng.gamma(2, size=(9, 7)), np.ones((9, 7), bool)
    for image, r in ((b, 1), (3 * b + 2, 1), (-b, -1)):
        assert pearson_interval(pair_sums(image, b, here))[0] == pytest.approx(r)
    x = rng.normal(size=(9, 7))
    value, low, high = pearson_interval(pair_sums(x, b, here))
    assert value == pytest.approx(np.corrcoef(x.ravel(), b.ravel())[0, 1]) and low < value < high
    assert np.isnan(pearson_interval(pair_sums(np.ones((9, 7)), b, here))[0])


def test_the_lens_at_the_last_state_is_the_output_and_the_first_state_knows_its_token():
    model, ids = model_of("llama"), tiny_ids(16)
    y = scores.Yardstick.of(text_of(ids, from_table(chain(1), "x"), 16), QUICK)
    found = scores.depth(model, y, 16)
    assert found.lens[-1, 0] == pytest.approx(1, abs=1e-4) and found.rotation[-1, 1] == pytest.approx(0, abs=1e-3)
    assert found.rotation[0, 0] == pytest.approx(0, abs=1e-3) and found.lens[0, 4] > 0.95  # Llama's first state is the embedding
    assert np.allclose(np.diag(found.covariance), 1) and (found.lens[:, 1] >= found.lens[-1, 1] - 1e-6).all()


def test_what_compression_did_by_hand():
    """Of a mask of 4 weights 3 were zeroed and the fourth doubled; elsewhere 1 of the rest was zeroed."""
    original = model_of("gpt2")
    changed = original.copy("changed")
    masks = subnetworks.nothing(shape_of(original))
    masks["0.mlp.c_fc"][0, :4] = True
    w = original.matrix(0, "mlp.c_fc").clone()
    w[0, :3], w[5, 5] = 0, 0
    w[0, 3] *= 2
    changed.set_matrix(0, "mlp.c_fc", w)
    share, everywhere, z, moved, all_moved = measure._kept(original, changed, masks)
    n = sum(m.n_out * m.n_in for m in shape_of(original).matrices)
    assert share == pytest.approx(0.75) and everywhere == pytest.approx(4 / n) and z > 10 and moved == pytest.approx(1)
    assert 0 < all_moved < 0.1
    gone = original.copy("gone")
    gone.remove(frozenset({(0, "mlp")}))
    assert measure._kept(original, gone, masks)[0] == 1.0


@pytest.fixture
def lab(tmp_path):
    """A real bench with two tiny checkpoints and a text."""
    from models.checkpoints import register

    for seed in (0, 1):
        tiny.save(tiny.gpt2(seed=seed), tmp_path / f"model{seed}")
    aliases = [register(tmp_path / f"model{seed}", tmp_path) for seed in (0, 1)]
    file = tmp_path / "words.txt"
    file.write_text("\n\n".join(tiny.text(40, seed) for seed in range(120)))
    return Lab(tmp_path, OPERATORS, memory_bytes=10**9), [f"shelf/{a}" for a in aliases], register_text(file, tmp_path) + ":6x24"


def captured(bench, name, corpus):
    from models.corpus import parse as parse_corpus

    return bench.capture(door.operators.parse(name), parse_corpus(corpus))


def test_from_text_to_result_with_plans_that_are_not_trained_again(lab, monkeypatch):
    bench, (name, other), corpus = lab
    params = replace(QUICK, train_sequences=20, count_tokens=2_000, controls=True)
    capture = captured(bench, name, corpus)
    trained = []
    real = mask_training.train
    monkeypatch.setattr(training, "train", lambda *a, **k: trained.append(len(a[4])) or real(*a, **k))
    r = subject.compute((capture,), params, Quiet())
    assert trained == [3, 1, 1] and r.n_scored == 6 * 22 and r.n_train == 20 and list(r.kind) == ["bigram", "bigram", "optimal"]
    again = subject.compute((capture,), replace(params, slack=0.5, unseen="clipped", draws=1, seed=0), Quiet())
    assert trained == [3, 1, 1] and np.array_equal(again.active, r.active)
    wider = subject.compute((capture,), replace(params, penalties="0 5 7"), Quiet())
    assert trained == [3, 1, 1, 1] and np.array_equal(wider.active[:2], r.active[:2])  # only the new λ
    assert r.controls == controls.NAMES and np.isfinite(r.control_r).all()
    compressed = captured(bench, f"{name}~magnitude:sparsity=0.5", corpus)
    found = subject.compute((compressed, capture), replace(params, controls=False), Quiet())
    assert trained == [3, 1, 1, 1, 3]  # the masks from before compression come from the store
    (first, second) = found.of_kind("before")
    assert np.array_equal(found.active[[first, second]], r.active[:2]) and 0 < found.pruned[first, 0] < 1 and found.pruned[first, 1] == pytest.approx(0.5, abs=0.01)
    assert (found.active[found.of_kind("bigram")] < 0.51 * found.n_weights).all()
    along = subject.compute((capture, captured(bench, other, corpus)), replace(params, controls=False), Quiet())
    assert along.along == (other,) and along.along_r.shape == (2, 1, 2, 3) and along.along_layer.sum() == along.along_active.sum()
    runs = [run("A", r, params), run("B", found, params)]
    text = subject.answer(runs)
    assert "of A’s subnetwork were removed" in text and {"compression", "controls"} <= {c.name for c in subject.figures(runs)}
    cards = {c.name: c for c in subject.figures([run("A", along, params)])}
    for card in (cards["along"], *subject.figures(runs)):
        assert card.data.num_rows and all(draw(THEMES["light"]).data for draw in card.views.values())


def test_an_imported_mask_alone(lab, tmp_path):
    bench, (name, _), corpus = lab
    capture = captured(bench, name, corpus)
    with capture.model() as model:
        masks = {f"transformer.h.{m.layer}.{m.name}.weight": np.random.default_rng(0).random((m.n_in, m.n_out)) < 0.1 for m in shape_of(model).matrices}
    mask_files.write(tmp_path / "mine.safetensors", masks, "tiny")
    mine = mask_files.add(tmp_path / "mine.safetensors", "mine", tmp_path)
    params = replace(QUICK, penalties="", optimal="", masks=mine, train_sequences=20, count_tokens=2_000)
    r = subject.compute((capture,), params, Quiet())
    assert list(r.kind) == ["imported"] and r.active[0] == sum(int(m.sum()) for m in masks.values()) and r.curves.shape[2] == 0
    assert "The imported mask" in subject.answer([run("A", r, params)])
    for card in subject.figures([run("A", r, params)]):
        assert card.data.num_rows and all(draw(THEMES["dark"]).data for draw in card.views.values())
    with pytest.raises(Refused, match="no λ to train"):
        subject.compute((capture,), replace(params, masks=""), Quiet())


def test_an_interrupted_job_ends_where_an_uninterrupted_one_does(lab, tmp_path):
    from tests.test_mask_training import Interrupted

    bench, (name, _), corpus = lab
    params = replace(QUICK, train_sequences=20, count_tokens=2_000)
    whole = subject.compute((captured(bench, name, corpus),), params, Quiet())
    other = Lab(tmp_path, OPERATORS, memory_bytes=10**9)
    other.store = Store(tmp_path / "other")
    progress = Interrupted(2)
    with pytest.raises(KeyboardInterrupt):
        subject.compute((captured(other, name, corpus),), params, progress)
    progress.after = None
    again = subject.compute((captured(other, name, corpus),), params, progress)
    for field, value in vars(whole).items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            assert np.array_equal(value, getattr(again, field), equal_nan=True), field


def test_parameters_are_read_and_refused():
    assert numbers("10, 0  3;0") == (0.0, 3.0, 10.0) and numbers(" ") == ()
    for text in ("ten", "-1", "nan", "1e99", " ".join(map(str, range(13)))):
        with pytest.raises(Refused):
            numbers(text)
    assert schedule_of(subject.Params()) == replace(SMALL, seed=0) and SMALL.last_temperature == pytest.approx(1800, rel=0.05)
    assert schedule_of(subject.Params(preset="paper")) == mask_training.PAPER
    assert schedule_of(subject.Params(preset="paper", rows=8)).rows == 8
    shape = Shape(6, 160, 640, 8, 942, 2_027_200)
    costs = [subject.cost(shape, 4_096, p) for p in (subject.Params(), subject.Params(penalties="0 1"), subject.Params(preset="paper"), subject.Params(along="run"))]
    assert costs[1] < costs[0] < costs[3] < costs[2] and costs[0] < 1e13


def test_what_else_is_read_is_part_of_the_key(home):
    asked = lambda model, **params: door.requests("bigram_subnetwork", model, None, None, params)[0]
    steps = door.also(asked("demo/storyteller-a", along="run"))
    assert [v.written for v in steps] == [f"demo/storyteller-a-steps/step-{n:06d}" for n in (80, 320, 800)]
    assert [v.written for v in door.also(asked("demo/storyteller-a~magnitude", along="@step1000"))] == ["demo/storyteller-a", "demo/storyteller-a@step1000"]
    assert door.key(asked("demo/storyteller-a")) != door.key(asked("demo/storyteller-a", along="run"))
    assert door.key(asked("demo/storyteller-a")) == door.key(asked("demo/storyteller-a", slack="0.1", unseen="clipped"))
    with pytest.raises(Refused, match="No checkpoints along the run"):
        door.also(asked("demo/storyteller-b", along="run"))


def test_text_is_written_on_within_the_context():
    model = model_of("gpt2")
    prompt = generation.prompt_ids(model, "w1 w2", tiny_ids())
    assert prompt.tolist() == [0, 5, 6]
    greedy = generation.written(model, prompt, 5, 0.0, 0)
    assert greedy == generation.written(model, prompt, 5, 0.0, 7) and len(greedy.split()) == 5
    assert len(generation.written(model, torch.arange(3, 30).repeat(3)[:60], 50, 1.0, 0).split()) == 4  # 64 positions
    with pytest.raises(Refused, match="shorten it"):
        generation.prompt_ids(model, "w1 " * 80, tiny_ids())


def test_a_model_without_matrices_left_says_so():
    model = model_of("gpt2", n_layers=2)
    model.remove(frozenset((i, kind) for i in range(2) for kind in ("attn", "mlp")))
    with pytest.raises(NotApplicable):
        studied(model, tiny_ids(), from_table(chain(1), "x"))


def test_a_removed_block_keeps_its_index():
    model = model_of("llama", n_layers=3)
    model.remove(frozenset({(1, "attn"), (1, "mlp")}))
    r = studied(model, tiny_ids(), from_table(chain(1), "x"))
    assert r.n_layers == 3 and r.layer[:, 1].sum() == 0 and r.layer_total[1].sum() == 0 and r.layer[0, 2].sum() > 0
    assert all(draw(THEMES["light"]).data for card in subject.figures([run("A", r)]) for draw in card.views.values())


def test_power_law_by_hand():
    active = np.array([10.0, 100.0, 1000.0])
    assert maps.power_law(active, 0.2 * active**0.25, 500) == pytest.approx(0.2 * 500**0.25)
    assert np.isnan(maps.power_law(active[:1], np.array([0.5]), 500)) and np.isnan(maps.power_law(active, np.array([-1.0, 0.5, 0]), 5))
