"""Sharing: identity for groups of one and for equal blocks, storage shared for real, norms private; gates rank a null block last."""

import pytest
import torch

from metrics.gates import gate_importance, gated
from models.refusal import Refused
from models.shape import shape_of
from operators import share_blocks
from tests.operator_bench import model_of, planned, text_for, weights_of


def test_by_hand():
    assert share_blocks.runs_of([0, 1, 3, 4, 5], 2) == [[0, 1], [3, 4], [5]]
    plan, _ = planned(share_blocks, model_of("gpt2", n_layers=5), group=3, representative="centre")
    assert plan.runs.tolist() == [[0, 1], [1, 1], [2, 1], [3, 3], [4, 3]]


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_storage_is_shared_and_norms_are_private(family):
    model = model_of(family, n_layers=4)
    plan, variant = planned(share_blocks, model, group=2)
    pointers = {p.data_ptr() for i in range(4) for n in model.layout.matrices() for p in [variant.matrix(i, n)]}
    assert len(pointers) == 2 * len(model.layout.matrices())
    for i in range(4):
        norm = lambda m: m.blocks[i].get_submodule(model.layout.attn_norm).weight
        assert torch.equal(norm(variant), norm(model))
    weights = sum(w.numel() for w in weights_of(model).values())
    assert share_blocks.storage(model, plan).bits == 32 * weights / 2
    from metrics.stored_bits import parameter_name

    kept = sum(variant.bits.get(parameter_name(model, i, n), w.numel() * 32) for i, n, w in variant.matrices())
    assert kept == share_blocks.storage(model, plan).bits


@pytest.mark.parametrize("representative", ("first", "centre", "mean"))
def test_equal_blocks_share_for_free(representative):
    model = model_of("gpt2")
    for i in (1, 2):
        for name in model.layout.matrices():
            model.set_matrix(i, name, model.matrix(0, name), model.blocks[0].get_submodule(name).bias)
    _, variant = planned(share_blocks, model, group=3, representative=representative)
    ids = text_for(model).ids
    assert (variant.logits(ids) - model.logits(ids)).abs().max() < 1e-5


def test_mean_is_the_mean():
    model = model_of("llama")
    _, variant = planned(share_blocks, model, group=3, representative="mean")
    expected = sum(model.matrix(i, "mlp.up_proj") for i in range(3)) / 3
    torch.testing.assert_close(variant.matrix(2, "mlp.up_proj"), expected)


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_gates_of_one_change_nothing_and_zero_removes(family):
    model = model_of(family)
    ids = text_for(model).ids
    with gated(model, torch.ones(3)):
        ones = model.logits(ids)
    with gated(model, torch.tensor([1.0, 0.0, 1.0])):
        without = model.logits(ids)
    torch.testing.assert_close(ones, model.logits(ids), rtol=0, atol=1e-4)
    removed = model.copy("removed")
    removed.remove(frozenset({(1, "attn"), (1, "mlp")}))
    torch.testing.assert_close(without, removed.logits(ids), rtol=0, atol=1e-4)


def test_a_block_that_does_nothing_gets_the_lowest_gate():
    """Planted: text that the model itself finds likely, blocks that outweigh the embedding, and one block adds nothing."""
    model, null = model_of("llama", seed=2), 2
    model.module.model.embed_tokens.weight.mul_(0.1)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        model.set_matrix(null, name, torch.zeros_like(model.matrix(null, name)))
    ids = text_for(model).ids
    for t in range(1, ids.shape[1]):  # greedy continuation: every block's work lowers the loss
        ids[:, t] = model.logits(ids[:, :t])[:, -1].argmax(-1)
    everything = torch.ones_like(ids, dtype=torch.bool)
    gates = gate_importance(model, ids, everything, target=2 / 3)
    assert gates.shape == (81, 3) and int(gates[-1].argmin()) == null and float(gates[-1, null]) < 0.5
    twice = [gate_importance(model, ids, everything, target=2 / 3, steps=3) for _ in range(2)]
    assert torch.equal(*twice)


def test_removal_by_gates_then_sharing():
    model = model_of("llama", n_layers=4)
    plan, variant = planned(share_blocks, model, remove=1, group=3, steps=5)
    lowest = int(plan.gates[-1].argmin())
    assert plan.removed.tolist() == [lowest] and variant.layers == tuple(i for i in range(4) if i != lowest)
    assert lowest not in plan.runs[:, 0].tolist()


def test_what_cannot_be_shared_is_refused():
    shape = shape_of(model_of("gpt2"))
    with pytest.raises(Refused, match="Block 7 is not left"):
        share_blocks.check(share_blocks.Params(blocks=(7,)), shape)
    with pytest.raises(Refused, match="at most 2"):
        share_blocks.check(share_blocks.Params(remove=3), shape)
