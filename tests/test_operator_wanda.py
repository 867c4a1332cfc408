"""Wanda's invariants: row-wise magnitude at equal norms, rescaling, sum or mean; a hand-computed 2×3 example."""

import pytest
import torch

from metrics.calibration import matrix_inputs
from metrics.sparsity import keep_by, keep_per_row
from models.progress import Quiet
from models.refusal import Refused
from operators import wanda
from tests.operator_bench import model_of, planned, text_for, weights_of

W = torch.tensor([[3.0, -1.0, 2.0], [0.5, 4.0, -1.0]])


def test_by_hand():
    square_sum = torch.tensor([1.0, 100.0, 4.0], dtype=torch.float64)  # norms 1, 10, 2
    assert torch.equal(wanda.scores(W, square_sum), torch.tensor([[3.0, 10.0, 4.0], [0.5, 40.0, 2.0]]))
    assert keep_by(wanda.scores(W, square_sum), 1 / 3, "unstructured").tolist() == [[False, True, True], [False, True, True]]
    assert keep_by(W.abs(), 1 / 3, "unstructured").tolist() == [[True, False, True], [False, True, True]]  # magnitude differs


def test_equal_norms_give_row_magnitude_and_scale_is_free():
    g = torch.Generator().manual_seed(0)
    w, s = torch.randn(6, 16, generator=g), torch.rand(16, generator=g).double() + 0.1
    mask = keep_per_row(wanda.scores(w, s), 0.5)
    assert torch.equal(keep_per_row(wanda.scores(w, torch.full((16,), 7.0)), 0.5), keep_per_row(w.abs(), 0.5))
    assert torch.equal(keep_per_row(wanda.scores(w, s / 1000), 0.5), mask)  # mean instead of sum
    moved = w * 4.0 ** torch.arange(-8, 8)  # W·diag(a) on X / diag(a): the same layer
    assert torch.equal(keep_per_row(wanda.scores(moved, s / 16.0 ** torch.arange(-8, 8)), 0.5), mask)
    assert not torch.equal(keep_per_row(moved.abs(), 0.5), keep_per_row(w.abs(), 0.5))


@pytest.mark.parametrize("family,name,site", [("gpt2", "mlp.c_proj", "mlp_post.1"), ("llama", "self_attn.k_proj", "attn_in.1")])
def test_reads_the_inputs_of_its_own_matrix(family, name, site):
    """Norms by a hook of our own; padding must not count."""
    model = model_of(family)
    text, seen = text_for(model), []
    handle = model.blocks[1].get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.logits(text.ids)
    handle.remove()
    norms = seen[0][text.keep].double().square().sum(0)
    torch.testing.assert_close(matrix_inputs(text, False).square_sum[site], norms, rtol=1e-6, atol=0)
    _, variant = planned(wanda, model, sparsity=0.5)
    assert torch.equal(variant.matrix(1, name) != 0, keep_per_row(wanda.scores(model.matrix(1, name), norms), 0.5))


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_sequential_reads_the_pruned_blocks(family):
    """Block 0 sees the same text either way; block 2 sees what blocks 0 and 1 make of it once pruned."""
    model = model_of(family)
    parallel, sequential = (planned(wanda, model, sparsity=0.6, propagation=p)[0] for p in ("parallel", "sequential"))
    first = [k for k in parallel.kept if k.startswith("0.")]
    last = [k for k in parallel.kept if k.startswith("2.")]
    assert all(torch.equal(parallel.kept[k], sequential.kept[k]) for k in first)
    assert not all(torch.equal(parallel.kept[k], sequential.kept[k]) for k in last)
    half = model.copy("blocks 0 and 1 pruned")
    for key, w in weights_of(planned(wanda, model, sparsity=0.6, propagation="sequential")[1]).items():
        if not key.startswith("2."):
            half.set_matrix(int(key[0]), key[2:], w)
    inputs = matrix_inputs(text_for(half), False)
    name = model.layout.attn_inputs[0]
    expected = keep_per_row(wanda.scores(model.matrix(2, name), inputs.square_sum["attn_in.2"]), 0.6)
    variant = planned(wanda, model, sparsity=0.6, propagation="sequential")[1]
    assert torch.equal(variant.matrix(2, name) != 0, expected)


def test_text_that_is_missing_or_short_is_refused():
    model = model_of("gpt2")
    with pytest.raises(Refused, match="calibration corpus"):
        wanda.decide(model, wanda.Params(), None, Quiet())
    with pytest.raises(Refused, match="at least 256"):
        wanda.decide(model, wanda.Params(), text_for(model, n_sequences=2), Quiet())
