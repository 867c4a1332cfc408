"""HQQ: one group by hand, never worse than rounding with a real zero, the identity on its own grid, bits counted."""

import pytest
import torch

from operators import hqq
from tests.operator_bench import model_of, planned, weights_of

EXACT = dict(scale_bits=32)


def weights(n_out=6, groups=3, size=16, seed=0):
    return torch.randn(n_out, groups, size, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    """W = [0, 1, 2, 3.5] at 2 bits: s = 3.5/3, z = 0, errors 0, 1/6, 1/3, 0. Shrinking leaves only −1/3 + (1/3)^−0.3/10 = −0.1943 of them."""
    w = torch.tensor([[[0.0, 1.0, 2.0, 3.5]]])
    codes, scale, zero, errors = hqq.quantise(w, hqq.Params(bits=2, group=4, steps=0, **EXACT))
    assert codes.tolist() == [[[0, 1, 2, 3]]] and float(scale) == pytest.approx(3.5 / 3) and float(zero) == 0
    assert errors == pytest.approx([(1 / 6 + 1 / 3) / 4], abs=1e-6)
    residual = w - codes * scale
    assert hqq.shrink(residual, 10.0, 0.7).flatten().tolist() == pytest.approx([0, 0, -(1 / 3 - (1 / 3) ** -0.3 / 10), 0], abs=1e-6)
    _, _, zero, errors = hqq.quantise(torch.tensor([[[0.0, 1.2, 2.4, 3.5]]]), hqq.Params(bits=2, group=4, steps=1, **EXACT))
    assert float(zero) < 0 and errors[1] < errors[0]  # both errors are positive (the grid lies too low), so the zero moves down


@pytest.mark.parametrize("bits", (2, 3, 4, 8))
def test_the_best_step_is_kept_and_never_worse_than_rounding(bits):
    w = weights()
    codes, scale, zero, errors = hqq.quantise(w, hqq.Params(bits=bits, group=16, **EXACT))
    error = float((w - (codes - zero) * scale).abs().mean(dtype=torch.float64))
    assert error == pytest.approx(min(errors), rel=1e-6) and error <= errors[0] and len(errors) == 21
    if bits <= 4:
        assert error < 0.99 * errors[0]


def test_large_errors_stay_and_small_ones_shrink_to_nothing():
    r = torch.tensor([0.05, -0.05, 1.0, -1.0])
    assert hqq.shrink(r, 10.0, 0.7).tolist() == pytest.approx([0, 0, 0.9, -0.9])


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_on_its_grid_it_is_the_identity(family):
    _, on_grid = planned(hqq, model_of(family), bits=4, group=8, steps=0, **EXACT)
    _, again = planned(hqq, on_grid, bits=4, group=8, **EXACT)
    for a, b in zip(weights_of(on_grid).values(), weights_of(again).values()):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def test_bits():
    model = model_of("llama")
    plan, _ = planned(hqq, model, bits=4, group=8)
    assert hqq.storage(model, plan).bits_per_weight == pytest.approx(4 + 32 / 8)
