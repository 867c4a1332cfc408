"""Data selection as a whole: a planted task is found whole, shuffled labels find nothing, padding changes nothing, what is drawn."""

import dataclasses
import io
import json
import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
import torch

import analysis.data_selection as subject
from analysis.contract import Run
from analysis.data_selection import drawing, helping, leaving, passing, words
from analysis.data_selection.embed import counted, embed
from analysis.data_selection.measure import METHODS
from analysis.theme import THEMES
from export import files
from metrics import selection
from models.corpus import Corpus, Tokens, parse
from models.layout import Site
from models.progress import Quiet
from models.refusal import Refused
from models.saes import Sae, shelf
from tests.operator_bench import model_of

TASKS = {"a": (3, 4, 5, 6), "b": (7, 8, 9, 10), "c": (11, 12, 13, 14)}
EACH, LENGTH = 40, 12
PARAMS = subject.Params(task="a", budget=10.0, examples=5, draws=3)


@dataclasses.dataclass
class Pool:
    given: object
    tokens: Tokens
    other: Tokens | None = None
    packing: str = "padded"
    variant: str = "tiny/gpt2"

    @property
    def corpus(self):
        return Corpus("text/pool", n_sequences=len(self.tokens.ids), length=LENGTH, packing=self.packing)

    def pieces(self, size):
        for lo in range(0, len(self.tokens.ids), size):
            yield part(self.tokens, slice(lo, lo + size)), [" ".join(f"w{i - 4}" for i in row[keep][1:]) for row, keep in zip(self.tokens.ids[lo : lo + size], self.tokens.keep[lo : lo + size])]

    @contextmanager
    def model(self):
        yield self.given

    def beside(self, written):
        assert written.endswith(":padded"), "a target's examples stand one a sequence"
        return Pool(self.given, self.other)

    def keep_plan(self, name, parameters, make, plan_class, progress=None):
        return make(progress)


def part(t, rows):
    """Some samples, as wide as their longest."""
    width = int(t.keep[rows].sum(1).max())
    return Tokens(t.ids[rows, :width], t.keep[rows, :width], {k: v[rows] for k, v in t.labels.items()}, {})


def tokens(shuffled=False, seed=0):
    """Each sample has tokens of one task only; lengths differ, padded on the right."""
    rng = np.random.default_rng(seed)
    label = np.repeat(list(TASKS), EACH)
    ids, keep = np.full((3 * EACH, LENGTH), 2), np.zeros((3 * EACH, LENGTH), bool)
    for i, t in enumerate(label):
        n = rng.integers(5, LENGTH + 1)
        ids[i, :n], keep[i, :n] = [0, *rng.choice(TASKS[t], n - 1)], True
    return Tokens(ids.astype(np.int64), keep, {"task": rng.permutation(label) if shuffled else label}, {})


@pytest.fixture
def setting(home):
    """A model whose first 16 tokens have orthonormal embeddings and no positions, and an SAE with a feature for each of them."""
    model = model_of("gpt2")
    q = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    with torch.no_grad():
        model.module.transformer.wte.weight[:16] = q
        model.module.transformer.wpe.weight.zero_()
    sae = Sae(q.T.contiguous(), torch.full((16,), -0.5), q.contiguous(), torch.zeros(16), "standard", Site(0, "resid_pre"), model="tiny/gpt2")
    return model, sae, shelf.keep(sae, home)


def ask(setting, pool=None, **more):
    model, _, name = setting
    params = dataclasses.replace(PARAMS, sae=name, **more)
    return Run("A", "demo/x", subject.compute((Pool(model, pool or tokens()),), params, Quiet()), params, {})


def test_a_planted_task_is_found_whole_by_every_method_that_knows_it(setting):
    run = ask(setting)
    r = run.result
    for m in (0, 2, 3, 4):
        assert (words.precision(run, m) == 1).all(), words.method(run, m)
    whole = dataclasses.replace(run, params=dataclasses.replace(run.params, budget=100 * 35 / 115))
    assert (words.precision(whole, 0) == 1).all() and words.reachable(whole) == 1
    assert words.base_rate(r) == pytest.approx(35 / 115)
    assert not any(np.isin(t, o).any() for t, o in zip(r.target, r.order))
    assert set(r.prototype_feature[:4]) == set(TASKS["a"]) and (r.prototype_value[4:] == 0).all()
    assert set(r.feature[r.share[:, :-1] > 0]) <= set(TASKS["a"])
    assert "**100 %" in subject.answer([run]) and "random 30 %" in subject.answer([run])


def test_labels_that_mean_nothing_are_found_at_their_share(setting):
    """Negative control."""
    rates = [words.precision(run, 0) - words.base_rate(run.result) for run in (ask(setting, tokens(True, seed), draws=10, budget=30.0) for seed in range(4))]
    assert abs(np.mean(rates)) < 0.08


def test_less_finds_the_planted_task_by_gradients_and_shuffled_labels_at_their_share(setting):
    run = ask(setting, less=True, less_epochs=1)
    assert ask(setting).result.methods == METHODS and run.result.methods == (*METHODS, "LESS")
    assert words.method(run, 6) == "LESS" and words.precision(run, 6).min() > 0.9 and "LESS 9" in subject.answer([run]) or "LESS 100 %" in subject.answer([run])
    rates = [words.precision(r, 6) - words.base_rate(r.result) for r in (ask(setting, tokens(True, seed), less=True, less_epochs=1, budget=30.0) for seed in range(3))]
    assert abs(np.mean(rates)) < 0.1
    for card in subject.figures([run]):
        assert all(draw(THEMES["dark"]).data for draw in card.views.values())
    assert "rank LESS" in drawing.selection_table([run]).column_names
    shape = SimpleNamespace(forward_flops=10.0, head_flops=1.0, d_model=0)
    assert subject.cost(shape, 7, PARAMS) == 63 and subject.cost(shape, 7, dataclasses.replace(PARAMS, less=True, less_epochs=2)) == 63 + 7 * 2 * 30


def test_shares_are_exact(setting):
    r = ask(setting).result
    score = r.score[0][r.shown]
    assert r.share.sum(1) == pytest.approx(score, abs=1e-6) and (score + r.extra + r.missing) == pytest.approx(1, abs=1e-6)
    assert (np.diff(score) <= 1e-7).all()


@pytest.mark.parametrize("pooling", ["mean", "sum", "max", "binary", "last token"])
def test_padding_changes_nothing(setting, pooling):
    """A sample alone, and the same sample padded in a batch."""
    model, sae, _ = setting
    t = tokens()
    ids, keep = torch.from_numpy(t.ids), torch.from_numpy(t.keep)
    together = embed(model, sae, ids, counted(ids, keep, {}, "all of it", False), pooling, 0)
    for i in (0, 50, 119):
        n = int(keep[i].sum())
        alone = embed(model, sae, ids[i : i + 1, :n], counted(ids[i : i + 1, :n], keep[i : i + 1, :n], {}, "all of it", False), pooling, 0)
        assert alone.codes.toarray()[0] == pytest.approx(together.codes[i].toarray()[0], abs=1e-5) and alone.raw[0] == pytest.approx(together.raw[i], abs=1e-5)
        assert alone.rds[0] == pytest.approx(together.rds[i], abs=1e-4) and alone.length[0] == together.length[i] == n - 1


def test_codes_by_hand(setting):
    """One sample of tokens 3, 3, 4: activation 1 − 0.5 of their features at one token each; the first token does not count unless asked."""
    model, sae, _ = setting
    ids, keep = torch.tensor([[0, 3, 3, 4]]), torch.ones(1, 4, dtype=torch.bool)
    rows = {p: embed(model, sae, ids, counted(ids, keep, {}, "all of it", False), p, 0).codes.toarray()[0] for p in ("mean", "sum", "max", "binary", "last token")}
    assert rows["mean"][[3, 4, 0]] == pytest.approx([1 / 3, 1 / 6, 0], abs=1e-5) and rows["sum"][[3, 4]] == pytest.approx([1, 0.5], abs=1e-5)
    assert rows["max"][[3, 4]] == pytest.approx([0.5, 0.5], abs=1e-5) and rows["binary"][[3, 4]].tolist() == [1, 1] and rows["last token"][[3, 4]] == pytest.approx([0, 0.5], abs=1e-5)
    with_first = embed(model, sae, ids, counted(ids, keep, {}, "all of it", True), "mean", 0).codes.toarray()[0]
    assert with_first[[0, 3]] == pytest.approx([1 / 8, 1 / 4], abs=1e-5)
    marks = {"answer": np.array([[False, False, True, True]])}
    assert counted(ids, keep, marks, "prompt", False).tolist() == [[False, True, False, False]] and counted(ids, keep, marks, "answer", False).tolist() == [[False, False, True, True]]


def test_repeating_a_sample_leaves_the_mean_and_divides_the_sum(setting):
    model, sae, _ = setting
    once, thrice = torch.tensor([[0, 3, 4]]), torch.tensor([[0, 3, 4, 3, 4, 3, 4]])
    row = lambda ids, p: embed(model, sae, ids, counted(ids, torch.ones_like(ids, dtype=torch.bool), {}, "all of it", False), p, 0).codes
    p = row(once, "mean").toarray()[0]
    assert selection.jaccard(row(thrice, "mean"), p)[0] == pytest.approx(1, abs=1e-5)
    assert selection.jaccard(row(thrice, "sum"), row(once, "sum").toarray()[0])[0] == pytest.approx(1 / 3, abs=1e-5)


def test_the_kernel_and_the_dictionary_agree(setting):
    """A top-k SAE runs in the fused kernel; its codes are those of the SAE's own encoder."""
    model, sae, _ = setting
    top = dataclasses.replace(sae, architecture="topk", k=2, b_enc=torch.zeros(16))
    t = tokens()
    ids, keep = torch.from_numpy(t.ids), torch.from_numpy(t.keep)
    used = counted(ids, keep, {}, "all of it", False)
    found = embed(model, top, ids, used, "mean", 0)
    z = top.encode(model.module.transformer.wte.weight[ids]) * used[..., None]
    expected = (z.sum(1) / used.sum(1, keepdim=True)).detach().numpy()
    assert found.codes.toarray() == pytest.approx(expected, abs=1e-5)
    assert (np.diff(found.codes.indptr) <= 2 * found.length).all()


def test_own_examples_as_target(setting):
    model, _, name = setting
    t = tokens()
    own = Tokens(t.ids[:4], t.keep[:4], {}, {})
    params = dataclasses.replace(PARAMS, sae=name, target_text="text/mine", label="nothing")
    r = subject.compute((Pool(model, dataclasses.replace(t, labels={}), own),), params, Quiet())
    assert not r.has_labels and r.order.shape[0] == 1 and set(r.order[0, 0, :EACH]) == set(range(EACH))
    run = Run("A", "demo/x", r, params, {})
    assert "no label" in subject.answer([run]) and "precision" not in [c.name for c in subject.figures([run])]


def test_what_cannot_be_is_refused_in_words(setting):
    model, _, name = setting
    for more, word in (({"task": "z"}, "there are a, b, c"), ({"label": "kind"}, "it has task"), ({"examples": 30}, "at least 60")):
        with pytest.raises(Refused, match=word):
            subject.compute((Pool(model, tokens()),), dataclasses.replace(PARAMS, sae=name, **more), Quiet())
    with pytest.raises(Refused, match="padded"):
        subject.compute((Pool(model, tokens(), packing="packed"),), dataclasses.replace(PARAMS, sae=name), Quiet())


def test_every_view_is_drawn_and_the_selection_leaves_whole(setting):
    a, b = ask(setting), dataclasses.replace(ask(setting), label="B")
    for runs in ([a], [a, b]):
        cards = subject.figures(runs)
        assert [c.name for c in cards][:2] == ["ranked", "precision"] and (cards[-1].name == "moved") == (len(runs) > 1)
        for card in cards:
            for draw in card.views.values():
                assert draw(THEMES["light"]).data and card.data.num_rows
        assert subject.headlines(runs) and subject.answer(runs)
    table = drawing.selection_table([a])
    assert table.num_rows == 3 * EACH and sum(table["taken"].to_pylist()) == len(words.taken(a)) and table["rank MONA"].null_count == 5
    assert words.agreement(a, b)[:2] == (pytest.approx(1.0), 1.0)


TUNE = dict(tune=True, tune_share=15.0, tune_steps=5, tune_random=9)


def test_tuning_on_the_planted_task_helps_and_on_shuffled_labels_does_not(setting):
    """The tiny model knows nothing: training on the task's own tokens lowers the loss of its held-out examples below every random selection's.
    Negative control: a target that is no task."""
    run = ask(setting, **TUNE)
    r = run.result
    assert r.tuned.shape == (6 + 9, 3) and r.tuned_held == "the 5 target examples" and r.untuned > r.tuned[0].max()
    assert words.helps(run)[0] == 0.1 and "p = 0.1)" in subject.answer([run]) and "help" in [c.name for c in subject.figures([run])]
    card = next(c for c in subject.figures([run]) if c.name == "help")
    assert card.data.num_rows == 45 and card.views[""](THEMES["light"]).data
    p = np.concatenate([words.helps(ask(setting, tokens(True, seed), **TUNE))[:5] for seed in range(2)])
    assert 0.25 < p.mean() < 0.85 and (p <= 0.1).mean() <= 0.25
    plain = ask(setting)
    assert not len(words.helps(plain)) and "help" not in [c.name for c in subject.figures([plain])]


def test_the_demo_pool_s_other_split_is_held_out():
    for written, other in (("demo/instructions:train:64x64:padded", "demo/instructions:1024x64:padded"), ("demo/instructions:64x64:padded", "demo/instructions:train:1024x64:padded"), ("text/pool:padded", None)):
        found = helping._other_split(parse(written))
        assert (found and found.written) == other


def many(n, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.concatenate([np.zeros((n, 1), np.int64), rng.integers(3, 15, (n, LENGTH - 1))], 1)
    return Tokens(ids, np.ones(ids.shape, bool), {"task": rng.choice(["a", "b"], n)}, {})


def test_memory_does_not_grow_with_the_codes_of_the_pool(setting, home, monkeypatch):
    """Each sample's code is 4,096 features, 32 kB as it is written; a longer pool costs less than a tenth of that for each more sample.
    Whatever held codes, or states of the model, of all samples at once could not."""
    model, *_ = setting
    dense = Sae(torch.randn(16, 4096, generator=torch.Generator().manual_seed(0)), torch.full((4096,), 3.0), torch.randn(4096, 16), torch.zeros(16), "standard", Site(0, "resid_pre"), model="tiny/gpt2")
    name, seen = shelf.keep(dense, home), []
    monkeypatch.setattr(passing, "PIECE", 32)
    over = passing.over

    def kept(*given):
        passed = over(*given)
        seen.append(passed.codes)
        return passed

    monkeypatch.setattr(passing, "over", kept)
    peaks = []
    for n in (96, 480):
        params, pool = dataclasses.replace(PARAMS, sae=name, draws=2), Pool(model, many(n))
        tracemalloc.start()
        subject.compute((pool,), params, Quiet())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (np.diff(seen[-1].indptr) == 4096).mean() > 0.9 and isinstance(seen[-1].data, np.memmap)
    grown = (peaks[1] - peaks[0]) / (480 - 96)
    assert grown < 0.1 * 8 * 4096, f"{grown:,.0f} bytes a sample"


def test_pieces_of_any_size_give_the_same_result(setting, monkeypatch):
    whole = ask(setting, tokens(seed=3)).result
    monkeypatch.setattr(passing, "PIECE", 7)
    apart = ask(setting, tokens(seed=3)).result
    assert apart.score == pytest.approx(whole.score, abs=1e-5, nan_ok=True) and (apart.covered == whole.covered).all() and (apart.text == whole.text).all()
    assert (apart.order[:, 5] == whole.order[:, 5]).all() and apart.alive == whole.alive and apart.prototype_value == pytest.approx(whole.prototype_value, abs=1e-6)


def test_the_selection_leaves_with_its_scores_and_where_it_comes_from(setting):
    run = dataclasses.replace(ask(setting), record={"key": "k1", "commit": "c1", "corpus": "text/pool:padded"})
    for method in (0, 4):
        rows = [json.loads(line) for line in files.jsonl_bytes(leaving.selection(run, method)).decode().splitlines()]
        taken = words.taken(run, method)
        assert [r["sample"] for r in rows] == taken.tolist() and [r["rank"] for r in rows] == list(range(1, len(taken) + 1))
        assert [r["text"] for r in rows] == [str(run.result.text[i]) for i in taken] and {r["label"] for r in rows} == {"a"}
        assert [r["likeness"] for r in rows] == pytest.approx(run.result.score[0][taken].tolist())
        assert all((r["model"], r["pool"], r["target"], r["result"], r["commit"], r["method"]) == ("demo/x", "text/pool:padded", "task = a", "k1", "c1", words.method(run, method)) for r in rows)
    back = pyarrow.parquet.read_table(io.BytesIO(files.parquet_bytes(subject.take_away([run])["selection"])))
    assert back.equals(leaving.selection(run)) and json.loads(back.schema.metadata[b"microtome"])["params"]["examples"] == 5
    assert set(subject.take_away([run, dataclasses.replace(run, label="B")])) == {"selection-a", "selection-b"}
