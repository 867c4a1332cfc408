"""The fast scan is the full hooked scan; no-op patches are nothing; parts add up; every signed number once by hand."""

import math

import pytest
import torch

from metrics.patching import hooked
from metrics.patching.attribution import attributed, end_from_heads, measures_of
from metrics.patching.end import EndStates, change, measures, read_out, record
from metrics.patching.end_attention import end_patterns, shares
from metrics.patching.knocked import heads_at_mean, score, text_accuracy
from metrics.patching.one_token import knocked_out, scan_activations
from metrics.patching.path import CONVENTIONS, contributions, scan_heads, scan_mlps
from metrics.patching.ranking import operator_weights, over_prompts, ranked, read_heads, states_of
from metrics.patching.roles import into_mlp, lens, mlp_cosines
from metrics.prompts.arithmetic_set import ask
from metrics.prompts.tokenised import Ids
from models.layout import heads as heads_of
from models.progress import Quiet
from models.refusal import Refused
from tests import planted
from tests.operator_bench import model_of
from tests.test_metrics_removal import gemma2, neox

MODELS = {"gpt2": lambda: model_of("gpt2"), "llama": lambda: model_of("llama"), "neox": neox, "neox serial": lambda: neox(False), "gemma2": gemma2}
every_model = pytest.mark.parametrize("name", MODELS)


def two_runs(model, n=4, length=7, seed=0):
    """(ids, ids of the other run: another middle, same last token, reference, other, answer, all answers)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 32, (n, length), generator=generator)
    other = ids.clone()
    other[:, 2:4] = torch.randint(3, 32, (n, 2), generator=generator)
    answer = torch.randint(3, 32, (n,), generator=generator)
    return ids, other, record(model, ids), record(model, other), answer, torch.arange(3, 12)


def whole(logits, answer, every):
    return measures(logits, answer, every)


@every_model
@pytest.mark.parametrize("lacking", (frozenset(), frozenset({(1, "attn"), (0, "mlp")})), ids=("whole", "lacking"))
def test_the_fast_scan_is_the_full_hooked_scan(name, lacking):
    model = MODELS[name]().copy("subject")
    model.remove(lacking)
    ids, _, reference, other, answer, every = two_runs(model)
    base = whole(model.logits(ids)[:, -1], answer, every)
    n_heads, moved = heads_of(model.config).n_heads, 0.0
    for convention in CONVENTIONS:
        heads, mlps = (scan(model, reference, other, answer, every, convention) for scan in (scan_heads, scan_mlps))
        for i in range(3):
            for h in range(n_heads):
                slow = change(whole(hooked.with_head(model, ids, reference, other, i, h, convention), answer, every), base)
                assert torch.allclose(slow, heads[i, h], atol=1e-5, equal_nan=True)
            slow = change(whole(hooked.with_mlp(model, ids, reference, other, i, convention), answer, every), base)
            assert torch.allclose(slow, mlps[i], atol=1e-5, equal_nan=True)
        moved = max(moved, float(heads[..., 1].abs().max()))
        if lacking:
            assert float(heads[1].nan_to_num().abs().max()) == 0.0 and float(mlps[0].nan_to_num().abs().max()) == 0.0
    assert moved > 1e-3  # the heads do something


@every_model
def test_a_patch_with_its_own_activations_is_nothing(name):
    model = MODELS[name]()
    ids, _, reference, _, answer, every = two_runs(model)
    for convention in CONVENTIONS:
        for scan in (scan_heads, scan_mlps):
            assert float(scan(model, reference, reference, answer, every, convention)[..., 1:].abs().max()) == 0.0
    assert float(attributed(model, reference, reference, answer, every, 3)[..., 1:].abs().max()) == 0.0
    assert float(scan_activations(model, [tuple(r) for r in ids.tolist()], reference, answer, every)[..., 1:].abs().max()) < 1e-5


@pytest.mark.parametrize("name", [n for n in MODELS if n != "gemma2"])
def test_contributions_add_up_to_the_difference_of_the_stream(name):
    model = MODELS[name]()
    _, _, reference, other, _, _ = two_runs(model)
    embedding, heads, mlps = contributions(model, reference, other)
    assert torch.allclose(embedding + heads.sum((0, 1)) + mlps.sum(0), other.post - reference.post, atol=1e-4)
    assert heads.abs().max() > 1e-3


@every_model
def test_all_heads_patched_is_the_other_run(name):
    """Same last token at the same position: with every head from the other run and MLPs recomputed, END is the other run's."""
    model = MODELS[name]()
    _, _, reference, other, _, _ = two_runs(model)
    with torch.no_grad():
        assert torch.allclose(end_from_heads(model, reference.pre[0], other.z), other.post, atol=1e-4)
        assert torch.allclose(end_from_heads(model, reference.pre[0], reference.z), reference.post, atol=1e-4)
    assert not torch.allclose(other.post, reference.post, atol=1e-2)


@every_model
def test_activation_patching_on_one_token_is_the_whole_run(name):
    model = MODELS[name]()
    ids, _, _, other, answer, every = two_runs(model)
    effects = scan_activations(model, [tuple(r) for r in ids.tolist()], other, answer, every)
    base = whole(model.logits(ids)[:, -1], answer, every)
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[:, -1] = True
    for i, h in ((0, 0), (1, 1), (2, 0)):
        logits = []
        for row in range(len(ids)):  # the values differ by prompt
            mask = torch.zeros(3, heads_of(model.config).n_heads, dtype=torch.bool)
            mask[i, h] = True
            with heads_at_mean(model, mask, other.z[:, row], where[row : row + 1]):
                logits.append(model.logits(ids[row : row + 1])[:, -1])
        assert torch.allclose(change(whole(torch.cat(logits), answer, every), base), effects[i, h], atol=1e-4, equal_nan=True)


def test_knock_outs_on_one_token_are_the_whole_run():
    model = model_of("llama")
    ids, _, reference, _, _, _ = two_runs(model, n=6)
    generator = torch.Generator().manual_seed(1)
    masks, values = torch.rand(5, 3, 4, generator=generator) < 0.4, reference.z.mean(1)
    answer = model.logits(ids)[:, -1].argmax(-1)
    answer[0] = 3
    right = knocked_out(model, [tuple(r) for r in ids.tolist()], answer, masks, values[:, None])
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[:, -1] = True
    for mask, found in zip(masks, right):
        with heads_at_mean(model, mask, values, where):
            assert torch.equal(found, model.logits(ids)[:, -1].argmax(-1) == answer)
    assert 0 < right.float().mean() < 1


def test_hooks_leave_nothing_behind():
    model = model_of("gpt2")
    ids, _, reference, other, answer, every = two_runs(model)
    before = model.logits(ids)
    with pytest.raises(RuntimeError):
        with heads_at_mean(model, torch.ones(3, 2, dtype=torch.bool), reference.z.mean(1), torch.ones_like(ids, dtype=torch.bool)):
            raise RuntimeError
    hooked.with_head(model, ids, reference, other, 0, 0, "frozen"), end_patterns(model, ids)
    assert torch.equal(model.logits(ids), before) and model.config._attn_implementation == "sdpa"


# ---- gradients


@pytest.mark.parametrize("name", ("gpt2", "llama", "neox"))
def test_attribution_is_the_slope_of_the_path_effect(name):
    model = MODELS[name]()
    _, _, reference, other, answer, every = two_runs(model)
    guess = attributed(model, reference, other, answer, every)
    step = 1e-3
    for i, h in ((0, 0), (2, 1)):
        near = reference.z.clone().double()
        near[i, :, h] += step * (other.z - reference.z)[i, :, h].double()
        nudged = EndStates(reference.layers, reference.pre, near.float(), reference.attn, reference.mlp, reference.post)
        exact = scan_heads(model, reference, nudged, answer, every, "recomputed")[i, h] / step
        assert torch.allclose(exact[:, 1:], guess[i, h][:, 1:], atol=2e-2, rtol=5e-2)


@pytest.mark.parametrize("name", ("gpt2", "llama", "gemma2"))
def test_integrated_attributions_add_up_to_the_effect_of_all_heads(name):
    model = MODELS[name]()
    _, _, reference, other, answer, every = two_runs(model)
    here = slice(0, 4)
    with torch.no_grad():
        total = measures_of(model, reference, here, other.z, answer, every) - measures_of(model, reference, here, reference.z, answer, every)
    fine = attributed(model, reference, other, answer, every, 200)[..., 1:].sum((0, 1))
    coarse = attributed(model, reference, other, answer, every, 1)[..., 1:].sum((0, 1))
    assert (fine - total[:, 1:]).abs().max() < 0.05 * total[:, 1:].abs().max()
    assert (coarse - total[:, 1:]).abs().max() > 5 * (fine - total[:, 1:]).abs().max()


# ---- by hand


def test_measures_and_effects_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
    own = measures(logits, torch.tensor([0]), torch.tensor([0, 2, 3]))[0]
    partition = math.log(math.exp(2) + 1 + math.e + math.exp(-1))
    assert own.tolist() == pytest.approx([2.0, 2 - partition, 2 - (1 - 1) / 2])
    patched, reference = torch.tensor([[1.5, -1.0, 1.0]]), torch.tensor([[2.0, -0.4, 2.5]])
    assert change(patched, reference)[0].tolist() == pytest.approx([-0.25, -0.6, -1.5])  # the patch hurts: all three are negative
    effect = change(torch.tensor([[0.5, -1.0, 1.0]]), torch.tensor([[-2.0, -3.0, 0.0]]))[0]
    assert math.isnan(effect[0]) and effect[1:].tolist() == pytest.approx([2.0, 1.0])  # a ratio to a negative logit says nothing


def test_operators_weigh_the_same_and_missing_values_are_left_out():
    from metrics.prompts.wordings import Problem

    prompts = [type("P", (), {"problem": Problem(o, 1, 1)})() for o in ("plus", "plus", "plus", "minus")]
    weights = operator_weights(prompts)
    assert weights.tolist() == pytest.approx([1 / 6] * 3 + [1 / 2])
    effects = torch.tensor([1.0, 2.0, torch.nan, 8.0])[:, None].expand(4, 3)
    assert over_prompts(effects, weights).tolist() == pytest.approx([(1 / 6 + 2 / 6 + 4) / (2 / 6 + 1 / 2)] * 3)
    assert ranked(torch.tensor([[0.1, -0.5], [torch.nan, -0.6]]))[:3] == [(1, 1), (0, 1), (0, 0)]


def test_heads_are_read_from_words():
    assert read_heads("L3H5.L4H1.L3H5", (3, 4), 8) == ((3, 5), (4, 1)) and read_heads("", (0,), 1) == ()
    for text in ("3.5", "L3", "L3H", "L³H1", "H1L2", "L1H1,L2H2"):
        with pytest.raises(Refused, match="written like"):
            read_heads(text, (0, 1, 2, 3), 4)
    for text in ("L9H0", "L0H4"):
        with pytest.raises(Refused, match="no head"):
            read_heads(text, (0, 1), 4)


def test_states_keep_the_order_of_the_rows():
    model = model_of("llama")
    generator = torch.Generator().manual_seed(0)
    rows = [tuple(torch.randint(3, 32, (n,), generator=generator).tolist()) for n in (7, 4, 7, 5, 4)]
    together = states_of(model, rows)
    for i, row in enumerate(rows):
        alone = record(model, torch.tensor([row]))
        assert torch.allclose(together.post[i], alone.post[0], atol=1e-5) and torch.allclose(together.z[:, i], alone.z[:, 0], atol=1e-5)


# ---- what heads look at, what MLPs do


@pytest.mark.parametrize("name", ("gpt2", "llama"))
def test_patterns_times_values_are_the_heads_outputs(name):
    model = MODELS[name]()
    ids, _, reference, _, _, _ = two_runs(model)
    pattern, shape = end_patterns(model, ids), heads_of(model.config)
    assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-5)
    seen = []
    module = model.blocks[1].get_submodule("attn.c_attn" if name == "gpt2" else "self_attn.v_proj")
    hook = module.register_forward_hook(lambda _, __, out: seen.append(out[..., -shape.n_kv * shape.d_head :]))
    model.logits(ids)
    hook.remove()
    values = seen[0].unflatten(-1, (shape.n_kv, shape.d_head)).repeat_interleave(shape.n_heads // shape.n_kv, 2)
    assert torch.allclose(torch.einsum("bht,bthd->bhd", pattern[1], values), reference.z[1], atol=1e-4)


def test_shares_of_a_prompt_by_hand():
    model = model_of("gpt2")
    prompt = type("P", (), {"ids": (0, 5, 6, 7, 8, 9), "a": (1, 2), "op": (3,), "b": (4,)})()
    pattern = end_patterns(model, torch.tensor([prompt.ids]))[:, 0]
    found = shares(model, [prompt])[:, :, 0]
    wanted = torch.stack([pattern[..., 1] + pattern[..., 2], pattern[..., 3], pattern[..., 4], pattern[..., 0], pattern[..., 5]], -1)
    assert torch.allclose(found, wanted, atol=1e-6)


@every_model
def test_the_lens_ends_where_the_model_does(name):
    model = MODELS[name]()
    ids, _, reference, _, _, _ = two_runs(model)
    found = lens(model, reference)
    assert found.shape[:2] == (4, 4) and torch.allclose(found[-1], model.logits(ids)[:, -1].softmax(-1), atol=1e-5)
    if not model.layout.parallel:
        assert not torch.allclose(into_mlp(model, reference), reference.pre, atol=1e-3)


def test_cosines_by_hand():
    model = planted.model()
    found = ask(model, ("plus",), 30, 9, "@, nothing", 0, Quiet())
    prompts = list(found.discovery)[:6]
    states = states_of(model, [p.ids for p in prompts])
    answer = torch.tensor([p.answer for p in prompts])
    another = torch.tensor([next(q.answer for q in found.discovery if q.answer != p.answer) for p in prompts])
    cosine = mlp_cosines(model, states, torch.full((6,), -1), answer, answer, another)
    assert torch.isnan(cosine[0]).all() and torch.isfinite(cosine[1:]).all()
    assert torch.allclose(cosine[3, 2], torch.ones(6), atol=1e-5)  # MLP 2 writes the answer's direction and nothing else
    assert cosine[3, :2].abs().max() == 0 and cosine[4, 2].abs().max() < 1e-5 and cosine[1].abs().max() < 1e-5


# ---- answers of several tokens, text


def greedy(model, prompt, n):
    out = list(prompt)
    for _ in range(n):
        out.append(int(model.logits(torch.tensor([out]))[0, -1].argmax()))
    return tuple(out[len(prompt) :])


def test_a_scored_answer_is_what_greedy_decoding_gives():
    model = model_of("llama")
    generator = torch.Generator().manual_seed(0)
    prompts = [tuple(torch.randint(3, 32, (n,), generator=generator).tolist()) for n in (5, 6, 5)]
    asked = [Ids(p, greedy(model, p, 3), ()) for p in prompts]
    wrong = [Ids(a.prompt, (*a.answer[:-1], (a.answer[-1] + 1) % 32), ()) for a in asked]
    nothing = torch.zeros(3, 4, dtype=torch.bool)
    found = score(model, asked + wrong, nothing, torch.zeros(3, 4, 4))
    assert found[:, 0].tolist() == [1.0] * 3 + [0.0] * 3
    log_p = model.logits(torch.tensor([asked[0].prompt + asked[0].answer])).double().log_softmax(-1)[0]
    assert float(found[0, 1]) == pytest.approx(sum(float(log_p[4 + i, t]) for i, t in enumerate(asked[0].answer)), abs=1e-4)


def test_heads_stand_at_their_mean_from_end_on_and_not_before():
    model = model_of("gpt2")
    ids = torch.randint(3, 32, (1, 6), generator=torch.Generator().manual_seed(0))
    asked = [Ids(tuple(ids[0, :4].tolist()), tuple(ids[0, 4:].tolist()), ())]
    mask, values = torch.ones(3, 2, dtype=torch.bool), torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(1))
    where = torch.tensor([[False, False, False, True, True]])
    with heads_at_mean(model, mask, values, where):
        changed = model.logits(ids[:, :5])
    log_p, before = changed.double().log_softmax(-1)[0], model.logits(ids[:, :5])
    assert float(score(model, asked, mask, values)[0, 1]) == pytest.approx(float(log_p[3, ids[0, 4]] + log_p[4, ids[0, 5]]), abs=1e-4)
    assert torch.allclose(changed[:, :3], before[:, :3], atol=1e-5) and not torch.allclose(changed[:, 3:], before[:, 3:], atol=1e-2)


def test_text_accuracy_by_hand():
    model = model_of("llama")
    ids = torch.randint(3, 32, (20, 9), generator=torch.Generator().manual_seed(0))
    keep, marked = torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    keep[-1, 5:], marked[:, 4] = False, True
    ids[3, 4] = model.logits(ids)[3, 3].argmax()  # one answer that the model gives
    found = text_accuracy(model, ids, keep, marked, torch.zeros(3, 4, dtype=torch.bool), torch.zeros(3, 4, 4))
    right = (model.logits(ids)[:, :-1].argmax(-1) == ids[:, 1:]) & keep[:, 1:]
    assert found[:, 0].tolist() == right.sum(1).tolist() and found[:, 1].tolist() == [8] * 19 + [4]
    assert found[:, 2].tolist() == right[:, 3].tolist() and found[:, 3].tolist() == [1] * 20 and found[3, 2] == 1
