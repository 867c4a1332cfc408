"""Dropping layers: the right ones go, nothing else changes, and what cannot be asked is refused in words."""

import numpy as np
import pytest
import torch

from metrics.removal import sweep, units
from models.params import read_params
from models.progress import Quiet
from models.refusal import Refused
from models.shape import shape_of
from operators import drop_layers
from tests.operator_bench import FAMILIES, model_of, text_for


def dropped(model, text=None, **given):
    params = read_params(drop_layers.Params, given)
    drop_layers.check(params, shape_of(model))
    plan = drop_layers.decide(model, params, text or text_for(model), Quiet())
    variant = model.copy("variant")
    drop_layers.apply(variant, plan)
    return variant, plan


def skipping(model, ids, layers):
    """Logits with whole blocks skipped by a forward hook: another way to the same model."""
    hooks = [model.blocks[i].register_forward_hook(lambda m, args, out: args[0]) for i in layers]
    logits = model.logits(ids)
    [h.remove() for h in hooks]
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_masking_equals_skipping(family):
    model = model_of(family)
    ids = text_for(model).ids
    variant, plan = dropped(model, blocks=(0, 2))
    assert torch.equal(variant.logits(ids), skipping(model, ids, (0, 2)))
    assert variant.layers == (1,) and variant.n_layers == 3 and (plan.attn, plan.mlp) == ((0, 2), (0, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_sublayers_add_exactly_nothing(family):
    model = model_of(family)
    variant, plan = dropped(model, attn=(1,), mlp=(2,))
    seen = {}
    for layer, name in ((1, "attn_out"), (2, "mlp_out"), (1, "mlp_out")):
        variant.site(layer, name)[0].register_forward_hook(lambda m, a, out, key=(layer, name): seen.update({key: out[0] if isinstance(out, tuple) else out}))
    variant.logits(text_for(model).ids)
    assert not seen[1, "attn_out"].any() and not seen[2, "mlp_out"].any() and seen[1, "mlp_out"].any()
    assert variant.removed == {(1, "attn"), (2, "mlp")} and variant.layers == (0, 1, 2)


def test_order_of_dropping_does_not_matter():
    model = model_of("llama")
    ids = text_for(model).ids
    one = dropped(dropped(model, attn=(0,))[0], mlp=(2,))[0]
    two = dropped(dropped(model, mlp=(2,))[0], attn=(0,))[0]
    both = dropped(model, attn=(0,), mlp=(2,))[0]
    assert torch.equal(one.logits(ids), both.logits(ids)) and torch.equal(two.logits(ids), both.logits(ids))


def with_idle(model, *layers):
    """A model in which these blocks turn the stream by almost nothing: the ranking's planted truth."""
    for layer in layers:
        for name in (model.layout.attn_output, model.layout.mlp_output):
            bias = model.blocks[layer].get_submodule(name).bias
            model.set_matrix(layer, name, model.matrix(layer, name) * 1e-3, None if bias is None else bias * 1e-3)
    return model


@pytest.mark.parametrize("rank", ["block_influence", "measured_kl", "angular_span"])
@pytest.mark.parametrize("family", FAMILIES)
def test_finds_the_idle_blocks(family, rank):
    model = with_idle(model_of(family, n_layers=5), 2, 3)
    _, plan = dropped(model, rank=rank, count=2)
    assert plan.attn == plan.mlp == (2, 3)


@pytest.mark.parametrize("rank,kinds", [("joint", ("attn", "mlp")), ("measured_kl_joint", ("attn", "mlp")), ("attention", ("attn",)), ("mlp", ("mlp",))])
def test_rankings_of_sublayers(rank, kinds):
    model = with_idle(model_of("gpt2"), 1)
    _, plan = dropped(model, rank=rank, count=len(kinds))
    assert (plan.attn, plan.mlp) == ((1,) if "attn" in kinds else (), (1,) if "mlp" in kinds else ())
    assert len(plan.score) == 3 * len(kinds) and set(plan.kind) == set(kinds)


def test_joint_of_one_kind_is_that_kind():
    """The joint list restricted to attention orders attention as the ranking of attention alone does."""
    model = model_of("llama", n_layers=4)
    joint, alone = dropped(model, rank="joint", count=1)[1], dropped(model, rank="attention", count=1)[1]
    assert np.array_equal(joint.score[[k == "attn" for k in joint.kind]], alone.score)


def test_measured_ranking_is_the_sweep():
    model = model_of("gpt2")
    text = text_for(model)
    _, plan = dropped(model, text, rank="measured_kl", count=1)
    blocks = units(model, ("block",))
    sums = sweep(model, text.ids, text.keep, blocks)
    assert np.allclose(plan.score, sums.kl[:, 0].sum(-1) / sums.tokens[0].sum())
    assert plan.attn == (int(np.argmin(plan.score)),)


def test_last_keeps_the_final_block():
    assert dropped(model_of("gpt2", n_layers=5), rank="last", count=2)[1].attn == (2, 3)
    assert not drop_layers.calibrated(drop_layers.Params(rank="last", count=2)) and drop_layers.calibrated(drop_layers.Params(rank="joint", count=2))


def test_rankings_pass_over_what_is_gone():
    model = with_idle(model_of("gpt2", n_layers=4), 1)
    once = dropped(model, blocks=(1,))[0]
    variant, plan = dropped(once, rank="block_influence", count=1)
    assert 1 not in plan.layer and len(variant.layers) == 2
    assert 1 not in dropped(once, rank="joint", count=3)[1].layer


def test_storage_is_what_is_gone():
    model = model_of("llama")
    _, plan = dropped(model, blocks=(1,), mlp=(2,))
    found = drop_layers.storage(model, plan)
    attention = 16 * 16 * 2 + 16 * 8 * 2  # q, o and the two narrower k, v
    assert found.weights == attention + 2 * 3 * 16 * 24 and found.bits == 0 and found.faster


@pytest.mark.parametrize("given,words", [
    (dict(blocks=(7,)), "no block 7; the model has blocks 0–2"),
    (dict(blocks=(0, 1, 2)), "removes every block"),
    (dict(blocks=(0, 1), attn=(2,), mlp=(2,)), "removes every block"),
    (dict(blocks=(1,), rank="joint", count=1), "both indices and rank"),
    (dict(count=2), "needs a ranking"),
    (dict(rank="block_influence", count=3), "3 blocks left, and at most 2"),
    (dict(rank="joint", count=6), "6 attention and MLP sublayers left, and at most 5"),
    (dict(rank="attention", count=4), "3 attention sublayers left, and at most 3"),
    (dict(rank="similarity", count=1), "is not one of"),
    (dict(blocks=(-1,)), "out of range"),
])
def test_refused(given, words):
    with pytest.raises(Refused, match=words):
        dropped(model_of("gpt2"), **given)


def test_refused_on_what_is_left():
    once = dropped(model_of("gpt2"), blocks=(0, 1))[0]
    with pytest.raises(Refused, match="every block that is left"):
        dropped(once, blocks=(2,))
    with pytest.raises(Refused, match="1 block left, and at most 0"):
        dropped(once, rank="block_influence", count=1)
