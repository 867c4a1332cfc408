"""SparseGPT: the loss is the quadratic form, diagonal H is Wanda, exact counts, damping that rises; a 1×2 example by hand."""

import pytest
import torch

from metrics.solvers import compensate, inverse_factor
from metrics.sparsity import keep_by
from models.refusal import Refused
from operators import sparsegpt, wanda
from tests.operator_bench import model_of, planned, text_for, weights_of


def problem(n_out=12, n_in=40, tokens=200, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, n_in, generator=g, dtype=torch.float64) @ torch.randn(n_in, n_in, generator=g, dtype=torch.float64)
    return torch.randn(n_out, n_in, generator=g, dtype=torch.float64), x.T @ x, tokens


def test_by_hand():
    """W = [1, 1], C = [[2, 1], [1, 2]] of 2 tokens, no damping: H = C, H⁻¹ = [[2, −1], [−1, 2]] / 3.

    Zeroing column 0 alone is best answered by w₁ = 1 + 1·H₁₀/H₁₁ = 1.5, at a loss of ½·1²/[H⁻¹]₀₀ = ¾.
    """
    factor = inverse_factor(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 2, damping=0.0)
    solved = compensate(torch.ones(1, 2, dtype=torch.float64), factor, lambda j, current: current[:, 0] * (j == 1))
    assert solved.weight.tolist() == [[0.0, pytest.approx(1.5)]]
    assert solved.loss.tolist() == [pytest.approx(0.75), 0.0]


@pytest.mark.parametrize("pattern", ("unstructured", "2:4", "4:8"))
def test_loss_is_half_the_quadratic_form(pattern):
    w, gram, tokens = problem(n_in=136)  # more than one block of columns
    factor = inverse_factor(gram, tokens)
    solved = sparsegpt.prune(w, factor, 0.5, pattern)
    change = solved.weight - w
    expected = 0.5 * torch.trace(change @ factor.hessian @ change.T)
    assert float(solved.loss.sum()) == pytest.approx(float(expected), rel=1e-9)


def test_compensation_beats_the_same_mask_without_it():
    w, gram, tokens = problem()
    solved = sparsegpt.prune(w, inverse_factor(gram, tokens), 0.5, "unstructured")
    output = lambda v: float((((v - w) @ gram) * (v - w)).sum())
    assert output(solved.weight) < 0.8 * output(w * (solved.weight != 0))
    assert int((solved.weight == 0).sum()) == w.numel() // 2


@pytest.mark.parametrize("pattern", ("2:4", "4:8"))
def test_diagonal_gram_is_wanda(pattern):
    w, _, _ = problem()
    diagonal = torch.rand(40, generator=torch.Generator().manual_seed(1)).double() + 0.2
    solved = sparsegpt.prune(w, inverse_factor(diagonal.diag(), 1, damping=0.0), 0.5, pattern)
    assert torch.equal(solved.weight, w * keep_by(wanda.scores(w, diagonal), 0.5, pattern))


def test_exact_groups_in_both_architectures():
    for family in ("gpt2", "llama"):
        _, variant = planned(sparsegpt, model_of(family), pattern="2:4")
        for w in weights_of(variant).values():
            assert ((w != 0).reshape(w.shape[0], -1, 4).sum(2) == 2).all()


def test_failed_factorisation_raises_damping_and_never_nan():
    """Perfectly correlated inputs: singular C. Without damping it must be raised, and the plan says to what."""
    x = torch.randn(300, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ torch.ones(1, 8, dtype=torch.float64)
    factor = inverse_factor(x.T @ x, 300, damping=0.0)
    assert factor.damping > 0
    solved = sparsegpt.prune(torch.ones(2, 8, dtype=torch.float64), factor, 0.5, "unstructured")
    assert bool(torch.isfinite(solved.weight).all())
    with pytest.raises(Refused, match="not finite"):
        inverse_factor(torch.full((2, 2), float("nan")), 1)


def test_dead_inputs_are_pruned_and_reported_damping_is_the_one_asked():
    model = model_of("gpt2")
    plan, _ = planned(sparsegpt, model)
    assert {float(d) for d in plan.damping.values()} == {0.01}
    gram = torch.diag(torch.tensor([1.0, 0.0, 2.0, 3.0], dtype=torch.float64))
    solved = sparsegpt.prune(torch.ones(2, 4, dtype=torch.float64), inverse_factor(gram, 1), 0.25, "unstructured")
    assert (solved.weight[:, 1] == 0).all() and int((solved.weight == 0).sum()) == 2


def test_zeros_of_an_earlier_mask_stay():
    model = model_of("llama")
    weight = model.matrix(1, "mlp.up_proj").clone()
    weight[:, ::3] = 0
    model.set_matrix(1, "mlp.up_proj", weight)
    _, variant = planned(sparsegpt, model, sparsity=0.5)
    after = variant.matrix(1, "mlp.up_proj")
    assert (after[:, ::3] == 0).all() and int((after == 0).sum()) == after.numel() // 2


def test_on_its_calibration_text_it_hurts_outputs_less_than_wanda():
    from metrics.calibration import matrix_inputs
    from metrics.damage import matrix_damage

    model = model_of("llama")
    inputs = matrix_inputs(text_for(model), True)
    ours, theirs = (matrix_damage(model, planned(op, model)[1], inputs) for op in (sparsegpt, wanda))
    assert all(a.output_error < b.output_error for a, b in zip(ours, theirs))
