"""Exact counts, the three scopes, N:M groups, nesting; a hand-computed 2×4 example."""

import pytest
import torch

from metrics.sparsity import keep_by, keep_in_all, keep_n_of_m, keep_per_row, mask_bits, pack, unpack, zeros_of
from models.refusal import Refused
from models.shape import shape_of
from operators import magnitude
from tests.operator_bench import model_of, planned, weights_of

W = torch.tensor([[4.0, -1.0, 3.0, 0.5], [-8.0, 7.0, 2.0, -6.0]])


def test_by_hand():
    per_row = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    in_matrix = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 1]], dtype=torch.bool)  # the four largest of all eight: 8 7 6 4
    assert torch.equal(keep_per_row(W.abs(), 0.5), per_row)
    assert torch.equal(keep_in_all([W.abs()], 0.5)[0], in_matrix)
    assert torch.equal(keep_n_of_m(W.abs(), 2, 4), per_row)
    small, large = keep_in_all([W.abs(), 10 * W.abs()], 0.5)  # one ranking: the ten times larger matrix loses only 5
    assert int((~small).sum()) == 7 and int((~large).sum()) == 1


def test_counts_are_exact_with_ties_and_at_the_ends():
    ties = torch.ones(3, 10)
    for sparsity in (0.0, 0.1, 0.3, 0.7, 1.0):
        assert (keep_per_row(ties, sparsity).sum(1) == 10 - round(10 * sparsity)).all()
    assert zeros_of(0.29, 100) == 29 and zeros_of(0.0, 7) == 0 and zeros_of(0.5, 7) == 3
    assert keep_per_row(ties, 0.3)[0].tolist() == [False] * 3 + [True] * 7  # ties go in order


def test_masks_are_nested_and_ignore_scale():
    scores = torch.rand(5, 24, generator=torch.Generator().manual_seed(0))
    masks = [keep_per_row(scores, s) for s in (0.1, 0.4, 0.8)]
    assert (masks[0] | ~masks[1]).all() and (masks[1] | ~masks[2]).all()
    assert torch.equal(keep_by(scores * 1e-6, 0.4, "unstructured"), masks[1])


@pytest.mark.parametrize("width", (1, 8, 13))
def test_packed_masks_come_back(width):
    kept = torch.rand(4, width, generator=torch.Generator().manual_seed(width)) > 0.5
    assert torch.equal(unpack(pack(kept), width), kept)


def test_bits_by_hand():
    kept = keep_n_of_m(W.abs(), 2, 4)
    assert mask_bits(kept, 16, "2:4") == 2 * (2 * 16 + 4)  # 0.5625 of dense 16-bit, as sparse tensor cores store it
    assert mask_bits(kept, 16, "unstructured") == 4 * 16 + 8
    assert mask_bits(kept.repeat(1, 2), 16, "4:8") == 2 * (4 * 16 + 7)


@pytest.mark.parametrize("scope", ("row", "layer", "global"))
def test_scopes_on_a_model(scope):
    model = model_of("gpt2")
    _, variant = planned(magnitude, model, sparsity=0.5, scope=scope)
    zeros = [(w == 0).double().mean().item() for w in weights_of(variant).values()]
    total = sum((w == 0).sum().item() for w in weights_of(variant).values()) / sum(w.numel() for w in weights_of(variant).values())
    assert total == pytest.approx(0.5, abs=1e-9)
    assert (max(zeros) - min(zeros) < 1e-9) == (scope != "global")
    if scope == "row":
        assert ((variant.matrix(1, "mlp.c_fc") == 0).sum(1) == 8).all()


def test_kept_weights_are_untouched_and_groups_run_along_the_inputs():
    model = model_of("gpt2")
    _, variant = planned(magnitude, model, pattern="2:4")
    for key, after in weights_of(variant).items():
        assert ((after != 0).reshape(after.shape[0], -1, 4).sum(2) == 2).all()
        assert torch.equal(after[after != 0], weights_of(model)[key][after != 0])


def test_groups_that_do_not_divide_are_refused():
    shape = shape_of(model_of("gpt2", d_model=20))
    with pytest.raises(Refused, match="groups of 8"):
        magnitude.check(magnitude.Params(pattern="4:8"), shape)
