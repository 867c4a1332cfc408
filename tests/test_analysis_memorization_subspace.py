"""Memorization: extraction by hand, planted memory units found and cut exactly, nothing found where nothing is known by heart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import analysis
from analysis import run
from analysis.memorization_subspace import Params, finding, locators, lost, words
from metrics import attribution, injection, memorized
from metrics.extraction import Passages, decode, extract, likeness, passages, shortened
from metrics.soft_prompt import recovery
from models import checkpoints, shelf
from models.corpus import Tokens, register_text
from models.layout import layout_for
from models.loaded import Model
from models.progress import Kept, Quiet
from operators import cut_memorized, parse
from tests import tiny
from tests.operator_bench import Text, model_of, text_for

NAME = "memorization_subspace"
needs_demo = pytest.mark.skipif(not any(e.source == "demo/storyteller-a" for e in shelf.demo_models()), reason="the demo model is not trained yet")
LENGTH, N = 10, 12  # tokens after the first, passages


def strings(n: int = N, seed: int = 0) -> Passages:
    """Random strings of ten tokens after the first: five of prefix, five of suffix."""
    ids = torch.randint(4, 32, (n, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = 0
    return Passages(ids, torch.full((n,), 6), torch.full((n,), LENGTH + 1), torch.arange(n))


def planted(p: Passages, d_mlp: int = 256, memory: int = 0) -> tuple[Model, torch.Tensor]:
    """A GPT-2 whose first MLP knows the strings by heart in neurons of its own: attention off, position and token readable from
    the stream, one memory neuron for each (position, token before) that fires there only and writes the next token.

    Returns the model and its memory neurons, bool [d_mlp].
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    width = 32 + 16 + 32  # token, position, next token
    torch.manual_seed(0)
    module = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=width, n_head=2, n_inner=d_mlp, n_positions=16, vocab_size=32, activation_function="relu", tie_word_embeddings=False,
                                        bos_token_id=0, eos_token_id=1, pad_token_id=2)).eval()
    block = module.transformer.h[0]
    pairs = {}
    for row in p.ids.tolist():
        for at in range(5, LENGTH):
            pairs.setdefault((at, row[at]), row[at + 1])
    with torch.no_grad():
        for q in module.parameters():
            q.zero_()
        module.transformer.wte.weight[:, :32] = torch.eye(32)
        module.transformer.wpe.weight[:, 32:48] = torch.eye(16)
        for norm in (block.ln_1, block.ln_2, module.transformer.ln_f):
            norm.weight.fill_(1.0)
        generator = torch.Generator().manual_seed(1)
        block.mlp.c_fc.weight[:, memory:] = 0.3 * torch.randn(width, d_mlp - memory, generator=generator)  # the others fire everywhere and write a little
        block.mlp.c_proj.weight[:, 48:] = 0.02 * torch.randn(d_mlp, 32, generator=generator)
        where = torch.zeros(d_mlp, dtype=torch.bool)
        for k, ((at, token), following) in enumerate(pairs.items()):
            block.mlp.c_fc.weight[:, k] = 0
            block.mlp.c_fc.weight[token, k] = block.mlp.c_fc.weight[32 + at, k] = 1.0  # a normed stream holds about ±6 at both
            block.mlp.c_fc.bias[k] = -9.0
            block.mlp.c_proj.weight[k] = 0
            block.mlp.c_proj.weight[k, 48 + following] = 3.0
            where[k] = True
        module.lm_head.weight[:, 48:] = torch.eye(32)
    for q in module.parameters():
        q.requires_grad_(False)
    return Model(module, tiny.tokenizer(), layout_for(module.config), "planted"), where


@pytest.fixture(scope="module")
def known():
    """Strings whose (position, token) pairs never disagree about what follows, the model that knows them, its memory neurons."""
    p, kept, pairs = strings(60), [], {}
    for i, row in enumerate(p.ids.tolist()):
        mine = {(at, row[at]): row[at + 1] for at in range(5, LENGTH)}
        if all(pairs.get(key, value) == value for key, value in mine.items()):
            pairs |= mine
            kept.append(i)
    p = p[torch.tensor(kept[:16])]
    return p, *planted(p)


# extraction


def test_extraction_by_hand():
    """A model that always says token + 1: 5 6 | 7 8 9 comes out, 5 6 | 7 9 10 is right for one token, then not."""

    class Next:
        def logits(self, ids):
            return torch.nn.functional.one_hot((ids + 1) % 32, 32).float() * 50

    p = Passages(torch.tensor([[0, 5, 6, 7, 8, 9], [0, 5, 6, 7, 9, 10]]), torch.tensor([3, 3]), torch.tensor([6, 6]), torch.arange(2))
    found = extract(Next(), p)
    assert found.exact.tolist() == [True, False] and found.leading.tolist() == [3, 1]
    assert found.right.tolist() == pytest.approx([1, 2 / 3]) and found.nats[0] < 1e-6 < found.nats[1]
    assert likeness("kitten", "sitting") == pytest.approx(1 - 3 / 7) and likeness("", "") == 1.0 and likeness("ab", "") == 0.0
    short = shortened(p, 1)
    assert short.ids[0].tolist() == [0, 6, 7, 8, 9, 0] and short.start.tolist() == [2, 2] and short.end.tolist() == [5, 5]


def test_where_the_suffix_begins():
    ids, keep = np.arange(16).reshape(2, 8), np.ones((2, 8), bool)
    keep[1, 6:] = False
    marked = np.zeros((2, 8), bool)
    marked[0, 3:6] = marked[1, 2:5] = True
    p = passages(Tokens(ids, keep, {}, {"suffix": marked}))
    assert p.start.tolist() == [3, 2] and p.end.tolist() == [6, 5]
    assert passages(Tokens(ids, keep, {}, {})).start.tolist() == [4]  # half; the second has fewer than four tokens after its half
    assert passages(Tokens(ids, keep, {}, {}), prefix=1).start.tolist() == [2, 2]
    assert p.predicting[0].nonzero().flatten().tolist() == [2, 3, 4]


def test_greedy_decoding_agrees_with_the_single_pass(known):
    p, model, _ = known
    found = extract(model, p)
    assert found.exact.all()
    assert decode(model, p) == [p.suffix(i) for i in range(len(p))]
    fresh = strings(20, seed=99)
    result = extract(model, fresh)
    said = decode(model, fresh, more=1)
    assert [one[:5] == fresh.suffix(i) for i, one in enumerate(said)] == result.exact.tolist() and len(said[0]) == 6


# masks


def test_masks_by_hand():
    """W = [[3, −1, 2, 0], [1, 1, 1, 5]], sizes memorized [1, 2, 1, 1], base [2, 1, 1, ½]: |W|·mem = [3, 2, 2, 0], [1, 2, 1, 5]."""
    w = torch.tensor([[3.0, -1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 5.0]])
    mem, base = torch.tensor([1.0, 2.0, 1.0, 1.0]), torch.tensor([2.0, 1.0, 1.0, 0.5])
    assert memorized.located(w, mem, None, 0.25).tolist() == [[True, False, False, False], [False, False, False, True]]
    assert memorized.located(w, mem, base, 0.25).tolist() == [[False] * 4, [False, False, False, True]]  # channel 0 is larger on the base
    assert memorized.located(w, mem, base, 0.5)[1].tolist() == [False, True, False, True]
    assert memorized.neuron_scores(w, mem, base).tolist() == pytest.approx([-(10**0.5), 2**0.5, 0.0, 2.5])
    assert memorized.columns(w, memorized.neuron_scores(w, mem, base), 0.5)[0].tolist() == [False, True, False, True]
    a, b = torch.tensor([[1, 1, 0, 0]]).bool(), torch.tensor([[0, 1, 1, 0]]).bool()
    assert memorized.iou(a, b) == pytest.approx(1 / 3) and memorized.chance_iou(a, b) == pytest.approx(0.25 / 0.75)


@pytest.mark.parametrize("unit", ["weights", "neurons"])
def test_random_masks_have_the_same_counts(unit):
    masks = {0: torch.zeros(6, 20, dtype=torch.bool)}
    masks[0][:, :3] = True
    other = memorized.random_like(masks, unit, 0)[0]
    assert other.sum(1).tolist() == [3] * 6 and not torch.equal(other, masks[0])
    assert torch.equal(other, memorized.random_like(masks, unit, 0)[0])


# planted truth and negative control


def base_of(model, p):
    """The same format, never trained: other random strings at the same positions."""
    fresh = strings(64, seed=5)
    return memorized.of_passages(model, fresh)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_memory_neurons_are_found_and_cutting_them_makes_the_model_forget(known, seed):
    p, model, where = known
    half = torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))
    first, second = p[half[:8]], p[half[8:]]
    mem = memorized.of_passages(model, first)
    fired = torch.zeros_like(where)
    pairs = list(dict.fromkeys((at, row[at]) for row in p.ids.tolist() for at in range(5, LENGTH)))
    for k, (at, token) in enumerate(pairs):
        fired[k] = any(row[at] == token for row in first.ids.tolist())
    masks = memorized.masks(model, mem, base_of(model, p), float(fired.sum()) / len(fired), "neurons")
    found = masks[0][0]
    assert int((found & fired).sum()) >= 0.95 * int(fired.sum())  # recall of the half's own memory neurons
    cut = memorized.cut(model, masks)
    assert extract(cut, first).exact.double().mean() <= 0.1
    only_theirs = [i for i, row in enumerate(second.ids.tolist()) if not any(fired[k] for k, (at, t) in enumerate(pairs) if row[at] == t)]
    assert extract(cut, second).exact[only_theirs].all()  # memory that half 1 does not share is left alone
    random = memorized.cut(model, memorized.random_like(masks, "neurons", seed))
    assert extract(random, first).exact.double().mean() > extract(cut, first).exact.double().mean() + 0.3


def test_a_model_that_knows_nothing_by_heart_comes_out_empty(home, tmp_path):
    run.lab.cache_clear()
    source = "shelf/" + checkpoints.register(tiny.save(tiny.gpt2(), tmp_path / "tiny"), home)
    words_ = tiny.text().split()
    (tmp_path / "list.txt").write_text("\n\n".join(" ".join(words_[i : i + 20]) for i in range(0, 800, 20)))
    corpus = register_text(tmp_path / "list.txt", home) + ":32x32:padded"
    request = run.request(NAME, (source,), corpus, {"recovery": 0})
    run.execute(request.to_json())
    found = run.load(request)
    assert found.result.n_memorized == 0 and not words.located(found.result) and found.result.control_name.startswith("the same passages")
    module = analysis.load(NAME)
    assert "too few" in module.answer([found]) and len(module.figures([found])) == 2 and len(module.headlines([found])) == 1
    with pytest.raises(Exception, match="at least 4 are needed"):
        model = model_of("gpt2")
        cut_memorized.decide(model, cut_memorized.Params(base="shuffled"), text_for(model), None)
    run.lab.cache_clear()


# cut and recovery


def test_the_operator_locates_what_the_analysis_locates(known):
    p, model, where = known
    text = Text(model, p.ids, torch.ones_like(p.ids, dtype=torch.bool))
    plan = cut_memorized.decide(model, cut_memorized.Params(ratio=float(where.double().mean()), unit="neurons", base="shuffled", prefix=5), text, None)
    variant = model.copy("cut")
    cut_memorized.apply(variant, plan)
    assert plan.n_located == len(p) and 0 < plan.density <= float(where.double().mean()) + 1e-9
    assert extract(variant, p).exact.double().mean() <= 0.2 and extract(model, p).exact.all()


def test_a_soft_prompt_brings_back_what_is_there_and_not_what_was_never_learned(known):
    """One step of nothing is plain extraction; the same seed gives the same curve."""
    p, model, _ = known
    one = recovery(model, p[:4], (0, 5), n_vectors=2, seed=3)
    assert torch.equal(one, recovery(model, p[:4], (0, 5), n_vectors=2, seed=3)) and one.shape == (2, 4)


def test_what_compression_lost_goes_through_the_same_test(known):
    """A compressed model whose second half of memory is cut away; a checkpoint as it was opened has lost nothing to speak of."""
    p, model, where = known
    masks = memorized.masks(model, memorized.of_passages(model, p[:8]), base_of(model, p), 0.2, "neurons")
    text = Text(memorized.cut(model, masks), p.ids, torch.ones_like(p.ids, dtype=torch.bool), start=model)
    text.variant = replace(parse("demo/storyteller-a"), steps=parse("demo/storyteller-a~gptq").steps)
    exact = extract(text.subject, p).exact
    assert not exact.all()
    found = lost.lost(text, text.subject, p, strings(8, seed=9), exact, Params(), Quiet())
    gone = int((~exact).sum())
    assert found["original"] == "planted" and found["original_exact"].all() and found["n_lost_tested"] == min(gone, 8)
    assert found["lost_recovered"].shape == (2, 4) and found["lost_recovered"][0, 0] == 0
    text.variant = parse("demo/storyteller-a")
    assert lost.lost(text, model, p, strings(8, seed=9), exact, Params(), Quiet())["original"] == ""


def test_what_the_page_says_of_forgetting():
    class R:
        original, exact, original_exact = "m", np.array([True, False, False, False]), np.array([True, True, True, False])
        lost_steps, lost_recovered, n_lost_tested = np.array([0, 10, 30]), np.array([[0.0, 0.5, 1.0], [0.0, 0.0, 0.6]]), 2

    assert words.n_lost(R) == 2 and "**2** of the 3" in words.forgetting(R) and "mostly suppressed" in words.forgetting(R) and "after 10 steps" in words.forgetting(R)
    R.lost_recovered = np.zeros((2, 3))
    assert "not recovered by this test" in words.forgetting(R)
    R.exact = R.original_exact
    assert "forgot nothing" in words.forgetting(R)
    R.original = ""
    assert words.forgetting(R) == ""


@pytest.mark.parametrize("left, said", [((0.1, 0.0), "is enough: at 1 %"), ((0.9, 0.1), "not enough, 2 % is: at 1 % (0.8 % density) the model keeps 90 %"), ((0.9, 0.5), "nor is 2 %")], ids=["enough", "two", "neither"])
def test_what_the_page_says_of_the_papers_share(left, said):
    from types import SimpleNamespace

    kept = np.zeros((3, 3, 3, 2))
    kept[:, 0, 0], kept[:, 0, 1] = left
    r = SimpleNamespace(shares=np.array([0.01, 0.02, 0.1]), density=np.full((3, 3), 0.008), extracted=kept)
    assert said in words.at_paper(SimpleNamespace(result=r))


@pytest.mark.parametrize("by", attribution.LOCATORS)
def test_every_locator_finds_the_planted_memory(known, by):
    """The neurons that write four passages' suffixes are the top of every order, whatever the gates draw; a random order has 8 %."""
    p, model, where = known
    few = p[:4]
    base = base_of(model, p)
    pairs = list(dict.fromkeys((at, row[at]) for row in p.ids.tolist() for at in range(5, LENGTH)))
    fired = torch.zeros_like(where)
    for k, (at, token) in enumerate(pairs):
        fired[k] = any(row[at] == token for row in few.ids.tolist())
    for seed in range(3 if by == "hard_concrete" else 1):
        top = attribution.locate(by, model, few, base, seed)[0].topk(int(fired.sum())).indices
        assert float(fired[top].double().mean()) >= 0.9 and float(fired.double().mean()) < 0.1


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_zeroing_one_neuron_by_subtraction_is_zeroing_it(family):
    model = model_of(family)
    p = strings(1, seed=2)
    score = attribution.zero_out(model, p)
    whole = float(extract(model, p).nats[0])
    for layer, neuron in ((0, 3), (1, 5)):
        w = memorized.output_matrix(model, layer)
        mask = torch.zeros_like(w, dtype=torch.bool)
        mask[:, neuron] = True
        assert float(score[layer][neuron]) == pytest.approx(float(extract(memorized.cut(model, {layer: mask}), p).nats[0]) - whole, abs=1e-4)


def test_a_written_in_passage_changes_only_its_neurons():
    model = model_of("llama")
    planted = injection.inject(model, strings(1, seed=4), 0.05, seed=1, steps=40, rate=0.1)
    assert planted.after < planted.before and sum(int(g.sum()) for g in planted.gold.values()) == round(0.05 * 3 * 24)
    for i, gold in planted.gold.items():
        changed = (memorized.output_matrix(planted.model, i) != memorized.output_matrix(model, i)).any(0)
        assert not (changed & ~gold).any()
    perfect = {i: g.double() for i, g in planted.gold.items()}
    assert injection.recall(perfect, planted.gold, 0.2) == 1.0 and injection.recall({i: -s for i, s in perfect.items()}, planted.gold, 0.2) == 0.0


def test_locators_are_compared_at_equal_density_and_drawn(known):
    """On the planted memory every contrast beats random neurons of the same number; the cards draw."""
    from types import SimpleNamespace

    from analysis.memorization_subspace import drawing_locators
    from analysis.theme import DARK, LIGHT

    p, model, _ = known
    text, params = Text(model, p.ids, torch.ones_like(p.ids, dtype=torch.bool)), Params(recovery=0, compare="quick", share=0.2, locator="neurons", base="format")
    other = strings(32, seed=7).ids
    text.beside = lambda written: Text(model, other, torch.ones_like(other, dtype=torch.bool))
    half = 1 + torch.arange(len(p)) % 2
    found = finding.Finding(model, text, p, strings(16, seed=5), [half], params, Kept(Quiet()))
    result = found.measured(Quiet()) | locators.compared(found, params, Quiet())
    names = result["compared"].tolist()
    assert names == ["weights", *locators.QUICK, "random"]
    left = dict(zip(names, result["compared_extracted"][:, 0]))
    assert left["contrast"] < 0.2 < left["random"]
    assert np.ptp(result["compared_density"]) < 0.02
    assert result["injected_recall"].shape == (7, 3) and (result["injected_recall"] >= 0).all() and result["deleted"].shape == (8, 3, 3)
    run_ = SimpleNamespace(label="A", subject="planted", params=params, result=SimpleNamespace(**result))
    for card in drawing_locators.cards([run_]):
        assert card.data.num_rows and all(view(theme).data for view in card.views.values() for theme in (LIGHT, DARK))
    assert drawing_locators.cards([SimpleNamespace(result=SimpleNamespace(**locators.nothing()))]) == []


def test_an_interrupted_comparison_goes_on_where_it_was(known, monkeypatch):
    """Cancelled within a locator, then asked again: what was scored before is not scored twice, and the result is that of an unbroken run."""

    p, model, _ = known
    other = strings(32, seed=7).ids
    text, params = Text(model, p.ids, torch.ones_like(p.ids, dtype=torch.bool)), Params(recovery=0, compare="quick", share=0.2, base="format")
    text.beside = lambda written: Text(model, other, torch.ones_like(other, dtype=torch.bool))
    locate, asked = attribution.locate, []

    class Job(Quiet):
        state: dict | None = None

        def save(self, state, force=False):
            Job.state = dict(state)

        def saved(self):
            return Job.state

    def broken(by, *rest):
        asked.append(by)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return locate(by, *rest)

    def whole(progress):
        return locators.compared(finding.Finding(model, text, p, strings(16, seed=5), [1 + torch.arange(len(p)) % 2], params, Kept(progress)), params, progress)

    monkeypatch.setattr(locators, "QUICK", ("contrast", "activation"))
    unbroken = whole(Quiet())
    monkeypatch.setattr(attribution, "locate", broken)
    with pytest.raises(KeyboardInterrupt):
        whole(Job())
    assert list(Job.state) == ["equal, contrast", "equal, activation", "injected 0, weights", "injected 0, contrast"]
    again = whole(Job())
    assert asked[3:5] == ["activation"] * 2 and len(asked) == 4 + 2 * 7 - 3  # each locator once at equal density, on three injected and three deleted
    for name in ("compared_extracted", "injected_recall", "deleted"):
        assert np.array_equal(unbroken[name], again[name]), name


def test_verdicts_follow_the_control():
    class R:
        steps, n_recovered = np.array([0, 10, 30]), 8
        recovered = np.array([[1.0, 1.0, 1.0], [0.1, 0.9, 1.0], [0.0, 0.0, 0.6]])

    assert words.verdict(R)[0] == "suppressed" and "after 10 steps" in words.verdict(R)[1]  # at 30 the control is not clean any more
    R.recovered = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.05], [0.0, 0.0, 0.0]])
    assert words.verdict(R)[0] == "not recovered"
    R.recovered = np.array([[1.0, 1.0, 1.0], [0.0, 0.2, 0.3], [0.0, 0.0, 0.0]])
    assert words.verdict(R)[0] == "partly"
    R.recovered = np.array([[1.0, 1.0, 1.0], [0.0, 0.2, 0.3], [0.5, 0.6, 0.9]])
    assert words.verdict(R)[0] == "untested"


@needs_demo
def test_the_demo_model_canaries_fall_on_both_halves_and_random_cuts_do_nothing(home):
    run.lab.cache_clear()
    request = run.request(NAME, ("demo/storyteller-a",), None, {"recovery": 0})
    run.execute(request.to_json())
    found = run.load(request)
    r, j = found.result, words.at_share(run.load(request))
    assert r.n_memorized >= 40 and not r.control_exact.any()
    often = r.exact[r.repeats == r.repeats.max()]
    assert often.mean() >= 0.9
    assert r.extracted[:, 0, j].mean(0).max() <= 0.6 and r.extracted[:, 2, j].min() >= 0.8 and r.ratio[:, 2, j].max() <= 1.05  # located against random at equal density
    assert (r.ratio[:, 0, j] < r.ratio[:, 1, j] + 0.02).all() and r.overlap[:, 0].mean() > 3 * r.chance.mean()
    assert r.overlap[:, 1].mean() < r.overlap[:, 0].mean()  # part of the overlap is the format
    assert (r.characters >= r.extracted[0] - 1e-9).all() and (r.by_length[1] == 0).all() and r.by_length[0, -1] == 1
    figures = analysis.load(NAME).figures([found])
    assert [f.name for f in figures] == ["extraction", "prefix", "cut", "overlap", "neurons", "completions"]
    from analysis.theme import DARK, LIGHT

    for figure in figures:
        for view in figure.views.values():
            assert view(LIGHT).data and view(DARK).data
    run.lab.cache_clear()
