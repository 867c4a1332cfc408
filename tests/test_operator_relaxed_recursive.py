"""Relaxed recursion: by hand, which block starts which, exact at full rank, plain tying at rank 0, the best rank in between, bits, refusals."""

import pytest
import torch

from models.refusal import Refused
from models.shape import shape_of
from operators import drop_layers, relaxed_recursive, share_blocks
from operators.relaxed_recursive import Params, product, rebuilt, sources
from tests.operator_bench import FAMILIES, model_of, planned, text_for, weights_of


def test_by_hand():
    """Blocks W₁ = [[5, 0, 0], [0, 1, 0]] and W₂ = [[−1, 0, 0], [0, −1, 0]] start from their mean [[2, 0, 0], 0]: the difference of the first is
    diag(3, 1) with values 3 and 1, so rank 1 gives it back but for its second row: error 1 of √26."""
    own, other = torch.tensor([[5.0, 0, 0], [0, 1, 0]]), torch.tensor([[-1.0, 0, 0], [0, -1, 0]])
    shared = (own + other) / 2
    assert shared.tolist() == [[2, 0, 0], [0, 0, 0]]
    left, right, values = product(own - shared, 1)
    assert values.tolist() == pytest.approx([3, 1])
    torch.testing.assert_close(left @ right, torch.tensor([[3.0, 0, 0], [0, 0, 0]]).double())
    plan = relaxed_recursive.Plan({}, {}, {}, {}, {}, {}, {})
    relaxed_recursive._fit(plan, "0.x", "0.x", own.double(), shared, 1)
    torch.testing.assert_close(rebuilt(plan, "0.x"), torch.tensor([[5.0, 0, 0], [0, 0, 0]]))
    assert float(plan.error["0.x"]) == pytest.approx(1 / 26**0.5)


def test_which_blocks_start_a_shared_one():
    """Six blocks in two loops: 0 and 3 share, 1 and 4, 2 and 5. Stepwise keeps the first and the last block; five blocks leave a short last loop."""
    assert sources(Params(start="lower"), 6) == [([0, 3], [0]), ([1, 4], [1]), ([2, 5], [2])]
    assert sources(Params(start="average"), 6) == [([0, 3], [0, 3]), ([1, 4], [1, 4]), ([2, 5], [2, 5])]
    assert [start for _, start in sources(Params(start="stepwise"), 6)] == [[0], [2], [5]]
    assert sources(Params(start="lower"), 5) == [([0, 3], [0]), ([1, 4], [1]), ([2], [2])]
    assert sources(Params(loops=6, start="stepwise"), 6) == [([0, 1, 2, 3, 4, 5], [0])]


@pytest.mark.parametrize("start", ("stepwise", "average", "lower"))
@pytest.mark.parametrize("family", FAMILIES)
def test_errors_fall_with_rank_to_nothing_at_full_rank(family, start):
    """The squared error is the tail of the singular values; at full rank, were it stored so, the product gives the matrix back."""
    model = model_of(family, n_layers=4)
    plan, _ = planned(relaxed_recursive, model, rank=2, start=start)
    assert plan.user
    for key, values in plan.spectrum.items():
        layer, name = int(key.split(".")[0]), key.split(":")[0].partition(".")[2]
        rows = {"q": slice(0, 16), "k": slice(16, 32), "v": slice(32, 48)}[key[-1]] if ":" in key else slice(None)
        own, shared = model.matrix(layer, name)[rows].double(), plan.shared[plan.user[key]].double()
        torch.testing.assert_close(torch.linalg.svdvals(own - shared), values)
        used = 2 if key in plan.left else 0
        assert float(plan.error[key]) == pytest.approx(float(values[used:].square().sum().sqrt() / own.norm()), abs=1e-6)
        left, right, _ = product(own - shared, min(own.shape))
        torch.testing.assert_close(shared + left @ right, own)


@pytest.mark.parametrize("start,representative", (("lower", "first"), ("average", "mean")))
def test_rank_zero_is_plain_tying(start, representative):
    """One block over and over is block sharing in one run; Llama has no biases, so the logits are the same too."""
    model = model_of("llama")
    _, tied = planned(relaxed_recursive, model, loops=3, rank=0, start=start)
    plan, shared = planned(share_blocks, model, group=3, representative=representative)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(tied).values(), weights_of(shared).values()))
    ids = text_for(model).ids
    assert torch.equal(tied.logits(ids), shared.logits(ids))
    assert len({tied.matrix(i, "mlp.up_proj").data_ptr() for i in range(3)}) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_alike_loop_for_free_whatever_the_rank(family):
    """Planted: blocks of the second loop equal those of the first, so tying takes nothing away; random blocks lose much."""
    model = model_of(family, n_layers=4)
    ids = text_for(model).ids
    _, random = planned(relaxed_recursive, model, rank=0)
    assert (random.logits(ids) - model.logits(ids)).abs().max() > 0.1
    for layer, name, _ in list(model.matrices()):
        model.set_matrix(layer, name, model.matrix(layer % 2, name))
    for start in ("average", "lower"):
        for rank in (0, 2):
            _, tied = planned(relaxed_recursive, model, rank=rank, start=start)
            torch.testing.assert_close(tied.logits(ids), model.logits(ids), rtol=1e-4, atol=1e-4)


def test_bits_count_the_shared_matrix_once():
    """Llama, four blocks as two loops, q_proj 16×16 (the others too, by their sizes): the shared 256 numbers once and 2·(16+16) a block; from the
    lower block, its own copy needs no product. Rank 3 still saves; rank 4 would store as much as the blocks, so they stay."""
    model = model_of("llama", n_layers=4)
    bits = lambda plan, layer: float(plan.bits[f"{layer}.self_attn.q_proj"])
    plan, variant = planned(relaxed_recursive, model, rank=2, start="average")
    assert [bits(plan, i) for i in range(4)] == [32 * 320, 32 * 320, 32 * 64, 32 * 64]
    assert relaxed_recursive.storage(model, plan).bits == sum(variant.bits.values())
    plan, _ = planned(relaxed_recursive, model, rank=2, start="lower")
    assert [bits(plan, i) for i in range(4)] == [32 * 256, 32 * 256, 32 * 64, 32 * 64]
    plan, _ = planned(relaxed_recursive, model, rank=3, start="average")
    assert "0.self_attn.q_proj" in plan.user and bits(plan, 0) + bits(plan, 2) == 32 * (256 + 2 * 96)
    plan, variant = planned(relaxed_recursive, model, rank=4, which="attn", start="average")
    assert "0.self_attn.q_proj" not in plan.user and bits(plan, 0) == bits(plan, 2) == 32 * 256
    plan, variant = planned(relaxed_recursive, model, rank=16)
    assert not plan.user and relaxed_recursive.storage(model, plan).bits_per_weight == 32
    assert all(torch.equal(a, b) for a, b in zip(weights_of(variant).values(), weights_of(model).values()))


def test_norms_and_biases_stay_each_blocks_own():
    model = model_of("gpt2", n_layers=4)
    _, variant = planned(relaxed_recursive, model, rank=0)
    for (name, a), (_, b) in zip(variant.module.named_parameters(remove_duplicate=False), model.module.named_parameters(remove_duplicate=False)):
        assert torch.equal(a, b) or (name.endswith("weight") and a.dim() == 2)


def test_what_cannot_loop_is_refused():
    model = model_of("gpt2")
    with pytest.raises(Refused, match="3 blocks cannot be run as 4 loops"):
        relaxed_recursive.check(Params(loops=4), shape_of(model))
    _, without = planned(drop_layers, model, drop_layers.Params(attn=(1,)))
    with pytest.raises(Refused, match="Block 1 has lost"):
        relaxed_recursive.check(Params(), shape_of(without))
