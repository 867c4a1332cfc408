"""The grid: by hand, idempotent, error at most half a step, zero and constants exact, bits counted."""

import pytest
import torch

from metrics.grid import dequantised, grid_bits, grid_of, grouped
from models.refusal import Refused
from models.shape import shape_of
from operators import round_to_nearest
from tests.operator_bench import model_of, planned, weights_of


def test_by_hand():
    w = torch.tensor([[-1.0, 0.1, 0.9, 2.0], [0.5, 1.0, 1.4, 3.0]])
    grid = grid_of(w, 2, symmetric=False, scale_bits=32)  # steps of 1: codes −1…2 and 0…3
    assert grid.scale.tolist() == [[1.0], [1.0]] and grid.zero.tolist() == [[1.0], [0.0]]
    assert grid.codes(w).tolist() == [[0, 1, 2, 3], [0, 1, 1, 3]]  # 0.5 goes to the even code
    assert grid.snap(w).tolist() == [[-1, 0, 1, 2], [0, 1, 1, 3]]
    symmetric = grid_of(w, 3, symmetric=True, scale_bits=32)  # ±3 steps of max|w| / 3
    assert symmetric.codes(w).tolist() == [[-2, 0, 1, 3], [0, 1, 1, 3]]


@pytest.mark.parametrize("bits", (8, 4, 3, 2))
@pytest.mark.parametrize("symmetric", (False, True))
@pytest.mark.parametrize("scale_bits", (16, 32))
def test_idempotent_and_within_half_a_step(bits, symmetric, scale_bits):
    w = grouped(torch.randn(6, 64, generator=torch.Generator().manual_seed(bits)), 16)
    grid = grid_of(w, bits, symmetric, scale_bits)
    once = grid.snap(w)
    twice = grid_of(once, bits, symmetric, scale_bits).snap(once)
    torch.testing.assert_close(twice, once, rtol=0 if scale_bits == 16 else 1e-6, atol=0)  # a 32-bit scale is off by its last bit
    slack = 1e-6 if scale_bits == 32 else (2**bits - 1) * 2.0**-11
    assert ((w - once).abs() <= grid.scale * (0.5 + slack) + 1e-7).all()
    assert grid.snap(torch.zeros_like(w)).abs().max() == 0  # 0 is on every grid


def test_constant_groups_zero_groups_and_tiny_weights():
    w = torch.tensor([[0.3] * 4, [-0.3] * 4, [0.0] * 4])
    torch.testing.assert_close(grid_of(w, 4, False, 32).snap(w), w, rtol=1e-6, atol=0)
    assert bool(torch.isfinite(grid_of(w * 1e-30, 4, False, 16).snap(w * 1e-30)).all())


def test_more_bits_are_better_and_eight_are_nearly_the_identity():
    w = grouped(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), 32)
    errors = [float((grid_of(w, b, False).snap(w) - w).norm() / w.norm()) for b in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.005 < errors[0]


def test_plan_codes_rebuild_the_weights_and_count_their_bits():
    model = model_of("llama")
    plan, variant = planned(round_to_nearest, model, bits=4, group=8)
    for key, w in weights_of(variant).items():
        codes = plan.codes[key]
        assert codes.dtype == torch.uint8 and int(codes.max()) <= 15
        assert torch.equal(w, dequantised(codes, plan.scale[key], plan.zero[key]))
    assert grid_bits(4096, 4096, 2, 16, False, 16) / 4096**2 == 3.125  # 2 + (16 + 2) / 16
    assert round_to_nearest.storage(model, plan).bits_per_weight == 4 + (16 + 4) / 8
    assert model.bits == {} and sum(variant.bits.values()) == round_to_nearest.storage(model, plan).bits


def test_model_on_the_grid_is_left_alone():
    model = model_of("gpt2")
    _, once = planned(round_to_nearest, model, bits=3, group=8)
    _, twice = planned(round_to_nearest, once, bits=3, group=8)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(once).values(), weights_of(twice).values()))


def test_groups_that_do_not_divide_are_refused_with_what_would_fit():
    with pytest.raises(Refused, match="Groups of 32 do not divide the 16 inputs.*8 or 0"):
        round_to_nearest.check(round_to_nearest.Params(group=32), shape_of(model_of("llama")))
