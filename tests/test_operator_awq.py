"""AWQ: channel scales by hand, the grid of α holds plain rounding, scaling alone is exact, loud channels are protected."""

import pytest
import torch

from metrics.calibration import matrix_inputs
from metrics.damage import matrix_damage
from operators import awq, round_to_nearest
from tests.operator_bench import model_of, planned, text_for, weights_of


def test_channel_scale_by_hand():
    """mean|x| = 1, 4, 16 and α = ½: 1, 2, 4, divided by √(4 · 1)."""
    assert awq.channel_scale(torch.tensor([1.0, 4.0, 16.0]), 0.5).tolist() == pytest.approx([0.5, 1.0, 2.0])
    assert awq.channel_scale(torch.tensor([1.0, 4.0, 16.0]), 0.0).tolist() == [1.0, 1.0, 1.0]
    assert awq.channel_scale(torch.tensor([3.0, 3.0]), 0.7).tolist() == pytest.approx([1.0, 1.0])  # alike: α does not matter


def test_output_error_by_hand():
    """ΔW = [1 2] (1 × 2), C = [[2, 1], [1, 3]]: 2 + 2·2 + 3·4 = 18."""
    assert awq.output_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)) == 18


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_without_cuts_it_is_never_worse_than_rounding_on_any_input(family):
    model = model_of(family)
    plan, ours = planned(awq, model, bits=3, group=8, clip=False)
    inputs = matrix_inputs(text_for(model), True)
    nearest = {(d.layer, d.name): d for d in matrix_damage(model, planned(round_to_nearest, model, bits=3, group=8)[1], inputs)}
    assert all(float(loss.min()) <= float(loss[0]) for loss in plan.loss.values())
    sums = [sum(d.output_error for d in each) for each in (matrix_damage(model, ours, inputs), nearest.values())]
    assert sums[0] <= sums[1] * 1.001


def test_cuts_lower_the_error_they_are_chosen_by():
    w = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0))
    w[:, :, 0] *= 4
    gram = torch.eye(16, dtype=torch.float64)
    params = awq.Params(bits=2, group=8)
    whole = awq.grid_of(w, 2, False, 16)
    cut = awq.cut_grid(w, gram, params)
    error = lambda grid: (grid.snap(w) - w).double().square().sum(-1)
    assert (error(cut) <= error(whole) + 1e-9).all() and float(error(cut).sum()) < 0.97 * float(error(whole).sum())


def test_a_loud_channel_is_protected():
    """Inputs of one channel a hundred times larger: its weights come out better than the others', whose error is silent."""
    w = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    loud = torch.ones(32, dtype=torch.float64)
    loud[5] = 100
    s = awq.channel_scale(loud, 0.5).float()
    params = awq.Params(bits=3, group=32)
    ours, plain = awq.snapped(w * s, params) / s - w, awq.snapped(w, params) - w
    assert float(ours[:, 5].abs().mean()) < 0.5 * float(plain[:, 5].abs().mean())
    gram = torch.diag(loud.square())
    assert awq.output_error(ours, gram) < 0.5 * awq.output_error(plain, gram)


def test_bits_count_scales_that_nothing_can_absorb():
    model = model_of("gpt2")
    plan, _ = planned(awq, model, bits=4, group=8)
    matrix = {key: float(bits) for key, bits in plan.bits.items()}
    dense = lambda key: plan.codes[key].numel() * (4 + (16 + 4) / 8)
    assert matrix["0.attn.c_attn"] == dense("0.attn.c_attn")  # the norm takes it
    assert matrix["0.mlp.c_proj"] == dense("0.mlp.c_proj") + 16 * 64  # behind a nonlinearity
    assert set(weights_of(model)) == set(matrix)
