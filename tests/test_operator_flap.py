"""FLAP: scores and the common ranking by hand, the mean output is kept exactly, constant channels cost nothing, whole groups leave."""

import pytest
import torch

from kernels.moments import Moments
from metrics.model_flops import flops_per_token
from models.layout import Site
from models.refusal import NotApplicable
from models.shape import shape_of
from models.stream import Request
from operators import flap
from tests.operator_bench import Text, model_of, planned, text_for, weights_of
from tests.test_metrics_removal import neox


def test_scores_by_hand():
    """W = [[3, 0, 1], [4, 1, 0]], variances 1, 4, ½: 25, 4, ½."""
    scores = flap.channel_scores(torch.tensor([1.0, 4.0, 0.5]), torch.tensor([[3.0, 0.0, 1.0], [4.0, 1.0, 0.0]]))
    assert scores.tolist() == [25.0, 4.0, 0.5]


def test_one_ranking_over_units_of_different_cost():
    """Two heads of 10 parameters and three channels of 2 (26 in all): half the budget, 13, takes −2 (10) and −1 (2), no more."""
    heads = flap.Units(None, torch.tensor([-2.0, 1.0]), 10.0, 4)
    channels = flap.Units(None, torch.tensor([-1.0, 0.0, 3.0]), 2.0, 1)
    assert [gone.tolist() for gone in flap.removed_units([heads, channels], 0.5)] == [[True, False], [True, False, False]]
    assert not any(gone.any() for gone in flap.removed_units([heads, channels], 0.0))


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_the_mean_output_of_the_first_block_is_kept(family):
    """Later sublayers read changed inputs; the first one that lost anything reads the same, and its output keeps its mean exactly."""
    model = model_of(family)
    text = text_for(model)
    plan = planned(flap, model, share=0.4)[0]
    site = "attn_out" if plan.removed[f"0.{model.layout.attn_output}"].any() else "mlp_out"
    means = {}
    for name, variant in (("before", model), ("with", planned(flap, model, share=0.4)[1]), ("without", planned(flap, model, share=0.4, compensate=False)[1])):
        (seen,) = Text(variant, text.ids, text.keep).measure([Request(Moments, (Site(0, site),))])
        means[name] = seen.mean
    assert float((means["without"] - means["before"]).abs().max()) > 1e-3
    torch.testing.assert_close(means["with"], means["before"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_a_constant_channel_is_its_layers_first_and_costs_nothing(family):
    model = model_of(family)
    layout = model.layout
    w = model.matrix(1, layout.mlp_input).clone()
    w[3] = 0.0
    fed = model.blocks[1].get_submodule(layout.mlp_input)
    bias = fed.bias.detach().clone() if fed.bias is not None else None
    model.set_matrix(1, layout.mlp_input, w, bias)  # a channel that is the same at every token (a Llama's: zero)
    key = f"1.{layout.mlp_output}"
    score = planned(flap, model)[0].score[key]
    assert int(score.argmin()) == 3
    assert int(flap.removed_units([flap.Units(None, score, 1.0, 1)], 1.5 / len(score))[0].nonzero()) == 3
    plan = planned(flap, model, share=0.9)[0]
    only = {k: torch.zeros_like(c) for k, c in plan.removed.items()}
    only[key][3] = True
    own = model.blocks[1].get_submodule(layout.mlp_output).bias
    constant = torch.nn.functional.gelu(bias[3], approximate="tanh") if family == "gpt2" else torch.tensor(0.0)
    added = model.matrix(1, layout.mlp_output)[:, 3] * constant + (0.0 if own is None else own)
    variant = model.copy("variant")
    flap.apply(variant, flap.Plan(only, {key: added.detach()}, {}, {}))
    ids = text_for(model).ids
    assert float((variant.logits(ids) - model.logits(ids)).abs().max()) < 1e-5


def test_whole_groups_leave_under_grouped_queries():
    """Four queries on two keys and values, width 4: units of 8 input channels, with their key's and value's rows."""
    model = model_of("llama")
    shape = shape_of(model)
    plan, variant = planned(flap, model, share=0.5)
    heads = [channels for key, channels in plan.removed.items() if key.endswith("o_proj")]
    assert all(c.view(2, 8).all(1).eq(c.view(2, 8).any(1)).all() for c in heads) and any(bool(c.any()) for c in heads)
    for m in flap.outputs(model, shape):
        for fed, rows in flap.gone_rows(model, shape, plan, m):
            assert float(variant.matrix(fed.layer, fed.name)[rows].abs().max() if rows.any() else 0) == 0
            if fed.name.endswith(("k_proj", "v_proj")):
                assert int(rows.sum()) == int(plan.removed[m.key].sum()) // 2


def test_removed_rows_do_not_matter_any_more():
    """What is zeroed before a removed channel changes nothing: only its column and the bias do."""
    model = model_of("gpt2")
    plan, variant = planned(flap, model, share=0.3)
    only_columns = model.copy("columns")
    for m in flap.outputs(model, shape_of(model)):
        only_columns.set_matrix(m.layer, m.name, torch.where(plan.removed[m.key], 0.0, model.matrix(m.layer, m.name)), plan.bias.get(m.key))
    ids = text_for(model).ids
    torch.testing.assert_close(only_columns.logits(ids), variant.logits(ids), rtol=0, atol=1e-5)


def left(plan, model):
    """Weights of each matrix once heads and channels are out, from the plan's masks."""
    shape = shape_of(model)
    for m in flap.outputs(model, shape):
        yield m.n_out * int((~plan.removed[m.key]).sum())
        yield from (int((~rows).sum()) * fed.n_in for fed, rows in flap.gone_rows(model, shape, plan, m))


@pytest.mark.parametrize("family", ("gpt2", "llama", "neox"))
def test_the_physical_model_is_smaller_and_computes_the_same(family):
    """Fused and grouped heads, with and without biases; at nine tenths some sublayers are only a bias. Parent and masked variant stay as they are."""
    model = neox() if family == "neox" else model_of(family)
    ids, before, logits = text_for(model).ids, weights_of(model), model.logits(text_for(model).ids)
    numbers = lambda module: sum(p.numel() for p in module.parameters())
    empty = 0
    for share in (0.3, 0.6, 0.9):
        plan, masked = planned(flap, model, share=share)
        module = flap.physical(model, plan)
        with torch.inference_mode():
            torch.testing.assert_close(module(input_ids=ids, use_cache=False).logits, masked.logits(ids), rtol=1e-4, atol=1e-4)
        fewer = sum(w.numel() for w in before.values()) - sum(float(b) for b in plan.bits.values()) / 32
        assert numbers(module) <= numbers(model.module) - fewer + 2 * model.config.hidden_size * model.n_layers  # new biases
        heads = sum(int((~gone).sum()) for key, gone in plan.removed.items() if key.endswith(model.layout.attn_output))  # channels of heads that are left
        head = model.config.vocab_size * model.config.hidden_size
        assert flops_per_token(module, 24) == pytest.approx(2 * (sum(left(plan, model)) + head) + 2 * heads * 24)
        assert (masked.logits(ids) - logits).abs().max() > 1e-3
        empty += sum(bool(gone.all()) for gone in plan.removed.values())
    assert empty > 0 and torch.equal(model.logits(ids), logits) and all(torch.equal(a, b) for a, b in zip(weights_of(model).values(), before.values()))


def test_with_nothing_removed_there_is_nothing_smaller():
    model = model_of("llama")
    with pytest.raises(NotApplicable, match="nothing is smaller"):
        flap.physical(model, planned(flap, model, share=0.0)[0])


def test_a_removed_sublayer_stays_removed_in_the_physical_model():
    model = model_of("llama", n_layers=4)
    model.remove(frozenset({(1, "attn"), (2, "attn"), (2, "mlp")}))
    plan, masked = planned(flap, model, share=0.4)
    ids, module = text_for(model).ids, flap.physical(model, plan)
    with torch.inference_mode():
        torch.testing.assert_close(module(input_ids=ids, use_cache=False).logits, masked.logits(ids), rtol=1e-4, atol=1e-4)
