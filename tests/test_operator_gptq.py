"""GPTQ: loss is the quadratic form, diagonal H is round-to-nearest, weights on the grid stay, outputs suffer less; 1×2 by hand."""

import pytest
import torch

from metrics.calibration import matrix_inputs
from metrics.damage import matrix_damage
from metrics.grid import grid_of, grouped
from metrics.solvers import compensate, inverse_factor
from operators import gptq, magnitude, round_to_nearest
from tests.operator_bench import model_of, planned, text_for, weights_of


def problem(n_out=10, n_in=64, tokens=300, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, n_in, generator=g, dtype=torch.float64) @ torch.randn(n_in, n_in, generator=g, dtype=torch.float64)
    return torch.randn(n_out, n_in, generator=g, dtype=torch.float64), x.T @ x, tokens


def test_by_hand():
    """W = [0.4, 0.4] on the integers, C = [[2, 1], [1, 2]] of 2 tokens: rounding w₀ to 0 moves w₁ to 0.4 + 0.4·½ = 0.6, so to 1."""
    factor = inverse_factor(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 2, damping=0.0)
    solved = compensate(torch.full((1, 2), 0.4, dtype=torch.float64), factor, lambda j, current: current[:, 0].round())
    assert solved.weight.tolist() == [[0.0, 1.0]]  # rounding to nearest gives [0, 0]
    assert float(solved.loss.sum()) == pytest.approx(0.5 * (2 * 0.16 - 2 * 0.24 + 2 * 0.36))  # ½ tr(ΔW H ΔWᵀ), ΔW = [−0.4, 0.6]


@pytest.mark.parametrize("group", (0, 4, 16, 32, 64))
def test_loss_is_half_the_quadratic_form(group):
    w, gram, tokens = problem()
    factor = inverse_factor(gram, tokens)
    done = gptq.quantise(w, factor, gptq.Params(bits=3, group=group, scale_bits=32))
    change = done.solved.weight - w
    assert float(done.solved.loss.sum()) == pytest.approx(float(0.5 * torch.trace(change @ factor.hessian @ change.T)), rel=1e-9)


@pytest.mark.parametrize("symmetric", (False, True))
def test_diagonal_gram_is_round_to_nearest(symmetric):
    w = problem(n_in=160)[0]
    factor = inverse_factor(torch.linspace(1, 5, 160, dtype=torch.float64).diag(), 1)
    for group in (0, 20, 32, 40):  # 20 and 40 divide neither the 128 columns of a block nor are divided by them
        done = gptq.quantise(w, factor, gptq.Params(bits=3, group=group, symmetric=symmetric))
        nearest = grid_of(grouped(w, group), 3, symmetric).snap(grouped(w, group)).reshape(w.shape)
        torch.testing.assert_close(done.solved.weight, nearest, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", ("given", "activation"))
def test_weights_on_the_grid_are_the_identity(order):
    model = model_of("llama")
    _, on_grid = planned(round_to_nearest, model, bits=4, group=8)
    plan, again = planned(gptq, on_grid, bits=4, group=8, order=order)
    for a, b in zip(weights_of(on_grid).values(), weights_of(again).values()):
        assert torch.equal(a, b)
    assert max(float(loss.sum()) for loss in plan.loss.values()) < 1e-9


@pytest.mark.parametrize("family", ("gpt2", "llama"))
@pytest.mark.parametrize("order", ("given", "activation"))
def test_outputs_suffer_less_than_under_rounding(family, order):
    model = model_of(family)
    inputs = matrix_inputs(text_for(model), True)
    ours = matrix_damage(model, planned(gptq, model, bits=3, group=8, order=order)[1], inputs)
    nearest = matrix_damage(model, planned(round_to_nearest, model, bits=3, group=8)[1], inputs)
    assert all(a.output_error <= b.output_error * 1.02 for a, b in zip(ours, nearest))
    assert sum(a.output_error for a in ours) < 0.9 * sum(b.output_error for b in nearest)
    assert sum(a.weight_error for a in ours) > sum(b.weight_error for b in nearest)  # weights move away, outputs come closer


def test_activation_order_quantises_the_loudest_column_first():
    """The first column in order is rounded without compensation: it holds plain nearest values."""
    w, gram, tokens = problem()
    loudest = int(gram.diagonal().argmax())
    done, _ = gptq.quantise_by_activation(w, gram, tokens, gptq.Params(bits=3, group=16), None)
    nearest = grid_of(grouped(w, 16), 3, False).snap(grouped(w, 16)).reshape(w.shape)
    torch.testing.assert_close(done.solved.weight[:, loudest], nearest[:, loudest], rtol=0, atol=1e-12)


def test_pruned_weights_stay_zero_and_cost_no_codes():
    model = model_of("gpt2")
    _, sparse = planned(magnitude, model, sparsity=0.5)
    plan, variant = planned(gptq, sparse, bits=4, group=8)
    for key, w in weights_of(variant).items():
        assert (w[weights_of(sparse)[key] == 0] == 0).all()
    per_weight = gptq.storage(sparse, plan).bits_per_weight
    assert per_weight == pytest.approx(0.5 * 4 + 1 + (16 + 4) / 8)
