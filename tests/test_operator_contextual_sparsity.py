"""Only the forward changes: the kept units by hand, thresholds, dense tokens, copies, and what cannot carry it says so."""

import pytest
import torch

from metrics.model_bits import model_bits
from models import folder
from models.fused import activating
from models.layout import Site
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from models.shape import shape_of
from models.stream import Request
from operators import contextual_sparsity, heal, parse
from operators.contextual_sparsity import sparse
from tests.operator_bench import FAMILIES, model_of, planned, text_for, weights_of

every_family = pytest.mark.parametrize("family", FAMILIES)


class Seen:
    def __init__(self):
        self.x = []

    def add(self, x, keep=None, start=0):
        self.x.append(x.clone())


def used(model, layer=1):
    text = text_for(model)
    (seen,) = text.measure([Request(Seen(), (Site(layer, "mlp_post"),))])
    return torch.cat(seen.x)


def test_by_hand():
    x = torch.tensor([[1.0, -3.0, 2.0, 0.5], [0.0, 1.0, -1.5, 4.0]])
    assert sparse(x, 0.5, None).tolist() == [[0, -3, 2, 0], [0, 0, -1.5, 4]]
    assert sparse(x, 0.0, None).abs().max() == 0 and torch.equal(sparse(x, 1.0, None), x)
    assert sparse(x, 0.5, torch.tensor(0.9)).tolist() == [[1, -3, 2, 0], [0, 1, -1.5, 4]]


@every_family
def test_the_matrix_reads_as_many_units_as_said_and_weights_and_bits_stay(family):
    model = model_of(family)
    _, variant = planned(contextual_sparsity, model, keep=0.25, blocks=(1,))
    n_units = variant.matrix(1, model.layout.mlp_output).shape[1]
    assert ((used(variant) != 0).sum(-1) == n_units // 4).all() and (used(model) != 0).all()
    assert torch.equal(used(variant, 0), used(model, 0)) and (used(variant, 2) != 0).all()
    assert all(torch.equal(w, weights_of(variant)[k]) for k, w in weights_of(model).items()) and model_bits(variant) == model_bits(model)
    assert not model.forward_only and "25 %" in variant.forward_only[0]
    assert not torch.equal(variant.logits(text_for(model).ids), model.logits(text_for(model).ids))
    child = variant.copy("child")
    assert torch.equal(child.logits(text_for(model).ids), variant.logits(text_for(model).ids)) and child.forward_only == variant.forward_only


@every_family
def test_units_that_are_silent_cost_nothing_and_loud_ones_do(family):
    """Planted: the last matrix does not read half of the units, and those are the quiet ones. Keeping half is then exact for the logits
    wherever the loud half is louder; without the plant it is not."""
    model = model_of(family)
    loud = model.copy("loud")
    for layer in loud.layers:
        weight = loud.matrix(layer, loud.layout.mlp_output).clone()
        half = weight.shape[1] // 2
        weight[:, half:] = 0
        loud.set_matrix(layer, loud.layout.mlp_output, weight)
        source = loud.matrix(layer, loud.layout.mlp_gated or loud.layout.mlp_input).clone()
        source[half:] = 0
        name = loud.layout.mlp_gated or loud.layout.mlp_input
        bias = loud.blocks[layer].get_submodule(name).bias
        loud.set_matrix(layer, name, source, None if bias is None else torch.where(torch.arange(len(bias)) < half, bias, torch.zeros(())))
    _, variant = planned(contextual_sparsity, loud, keep=0.5)
    ids = text_for(model).ids
    assert torch.allclose(variant.logits(ids), loud.logits(ids), atol=1e-5)
    _, other = planned(contextual_sparsity, model, keep=0.5)
    assert (other.logits(ids) - model.logits(ids)).abs().max() > 1e-2


@every_family
def test_a_threshold_keeps_the_share_on_its_own_text_and_differs_between_tokens(family):
    model = model_of(family)
    plan, variant = planned(contextual_sparsity, model, keep=0.3, rule="threshold", blocks=(0,))  # block 0: what it reads is the original's
    keep = text_for(model).keep.flatten()
    kept = (used(variant, 0) != 0).float().mean(-1)[keep]
    assert float(kept.mean()) == pytest.approx(0.3, abs=0.005) and kept.std() > 0.01 and plan.threshold.shape == (1,)
    assert contextual_sparsity.calibrated(contextual_sparsity.Params(rule="threshold")) and not contextual_sparsity.calibrated(contextual_sparsity.Params())


@every_family
def test_every_nth_token_is_dense_also_while_writing(family):
    """Dense tokens stand where they should in one pass, and token by token with kept keys and values the same logits come out."""
    model = model_of(family)
    _, variant = planned(contextual_sparsity, model, keep=0.25, correct=4)
    dense = (used(variant) != 0).all(-1).view(-1, 24)
    assert dense[:, ::4].all() and not dense[:, [1, 2, 3, 5]].any()
    ids = text_for(model).ids[:2]
    whole, past, steps = variant.logits(ids), None, []
    with torch.inference_mode():
        for t in range(ids.shape[1]):
            out = variant.module(input_ids=ids[:, t : t + 1], past_key_values=past, use_cache=True)
            past = out.past_key_values
            steps.append(out.logits)
    assert torch.allclose(torch.cat(steps, 1), whole, atol=1e-4)
    _, every = planned(contextual_sparsity, model, keep=0.25, correct=1)
    assert torch.equal(every.logits(ids), model.logits(ids))
    closer = [(v.logits(ids) - model.logits(ids)).square().mean() for v in (every, variant, planned(contextual_sparsity, model, keep=0.25)[1])]
    assert closer[0] == 0 and closer[1] < closer[2]


@every_family
def test_what_computes_the_activation_itself_still_sees_the_hook(family):
    model = model_of(family)
    _, variant = planned(contextual_sparsity, model, keep=0.25)
    ids, act = text_for(model).ids, variant.blocks[0].get_submodule(model.layout.mlp).act if family == "gpt2" else variant.blocks[0].mlp.act_fn
    with activating(variant, 0, lambda pre, up: act(pre) if up is None else act(pre) * up):
        assert torch.allclose(variant.logits(ids), planned(contextual_sparsity, model, keep=0.25)[1].logits(ids), atol=1e-5)


def test_it_can_be_healed_but_not_taken_away(tmp_path):
    model = model_of("gpt2")
    _, variant = planned(contextual_sparsity, model, keep=0.1)
    text = text_for(variant)
    text.start = model
    plan = heal.decide(variant, heal.Params(steps=10, rate=0.02), text, Quiet())
    assert plan.held[-1] < plan.held[0]
    with pytest.raises(Refused, match="no weight file can carry"):
        folder.export(variant, parse("demo/storyteller-a~contextual_sparsity:keep=0.1"), "", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_and_blocks():
    assert parse("demo/storyteller-a~gptq~contextual_sparsity~heal").steps and parse("demo/storyteller-a~heal:train=lora~contextual_sparsity").steps
    with pytest.raises(Refused, match="put it last"):
        parse("demo/storyteller-a~contextual_sparsity~wanda")
    model = model_of("gpt2")
    model.remove(frozenset({(1, "mlp")}))
    with pytest.raises(Refused, match="no MLP left in block 1"):
        contextual_sparsity.check(contextual_sparsity.Params(blocks=(1,)), shape_of(model))
    model.remove(frozenset({(0, "mlp"), (2, "mlp")}))
    with pytest.raises(NotApplicable, match="Every MLP has been removed"):
        contextual_sparsity.check(contextual_sparsity.Params(), shape_of(model))
