"""Linear algebra that calibrated operators share: damped inverse factors, column by column compensation, leading subspaces.

`gram` is C = Σ x xᵀ over the calibration tokens, [in, in]. What is minimised is ‖(W − W')X‖² = tr(ΔW C ΔWᵀ).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from metrics.sparsity import keep_in_all, keep_n_of_m, n_m
from models.refusal import Refused

BLOCK = 128  # columns compensated at once before the rest of the matrix is updated


@dataclass(frozen=True, eq=False)
class InverseFactor:
    """Upper U with UᵀU = (H + damping·mean diag(H)·I)⁻¹, H = 2C/n. `damping` is the share that succeeded; dead inputs were 0."""

    upper: torch.Tensor  # [in, in]
    hessian: torch.Tensor  # [in, in], damped
    dead: torch.Tensor  # bool [in]
    damping: float


def inverse_factor(gram: torch.Tensor, n_tokens: int, damping: float = 0.01) -> InverseFactor:
    """Cholesky factor of the damped inverse, in float64. A failed factorisation multiplies the damping by ten and is reported."""
    if not bool(torch.isfinite(gram).all()):
        raise Refused("The calibration statistics hold values that are not finite: the model's activations overflow on this text.")
    hessian = gram.to(torch.float64) * (2.0 / max(n_tokens, 1))
    dead = hessian.diagonal() <= 0
    hessian.diagonal().add_(dead.to(hessian))
    mean = hessian.diagonal().mean()
    share = damping
    for _ in range(12):
        damped = hessian.clone()
        damped.diagonal().add_(share * mean)
        upper = _upper_of_inverse(damped)
        if upper is not None:
            return InverseFactor(upper, damped, dead, share)
        share = 10 * share if share > 0 else 1e-6
    raise Refused(f"The calibration statistics cannot be factorised even with damping {share:g}; use more calibration text.")


def _upper_of_inverse(matrix: torch.Tensor) -> torch.Tensor | None:
    """U upper with UᵀU = matrix⁻¹, from one factorisation: matrix = R Rᵀ with R upper (Cholesky of the reversed matrix), U = R⁻¹."""
    lower, info = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    if int(info):
        return None
    upper = _inverse_of_upper(lower.flip(0, 1).contiguous())
    return upper if bool(torch.isfinite(upper).all()) else None


def _inverse_of_upper(r: torch.Tensor) -> torch.Tensor:
    """R⁻¹ by halves, [[A, B], [0, D]]⁻¹ = [[A⁻¹, −A⁻¹ B D⁻¹], [0, D⁻¹]]: half the time of solving against the identity, whose zeros
    a solver does not see."""
    n = len(r)
    if n <= BLOCK:
        return torch.linalg.solve_triangular(r, torch.eye(n, dtype=r.dtype, device=r.device), upper=True)
    half = n // 2
    inverse = torch.zeros_like(r)
    first, last = _inverse_of_upper(r[:half, :half]), _inverse_of_upper(r[half:, half:])
    inverse[:half, :half], inverse[half:, half:] = first, last
    torch.mm(first @ r[:half, half:], last, out=inverse[:half, half:]).neg_()
    return inverse


@dataclass(frozen=True, eq=False)
class Compensated:
    """A matrix solved column by column: `weight` [out, in] with its replaced columns, `loss` [in] summed over rows."""

    weight: torch.Tensor
    loss: torch.Tensor


def compensate(weight: torch.Tensor, factor: InverseFactor, replace: Callable[[int, torch.Tensor], torch.Tensor], block: int = BLOCK) -> Compensated:
    """The recursion of SparseGPT and GPTQ (Optimal Brain Surgeon, columns in order, updates deferred by blocks); overwrites `weight`.

    `replace(j, current)` gives the final value of column j, where `current` [out, columns] are the columns j, j+1, … to the end
    of the block, already compensated for everything left of j. Σ loss = ½ tr(ΔW H ΔWᵀ) with the damped H.
    """
    w = weight
    w[:, factor.dead] = 0
    u = factor.upper.to(w.dtype)
    loss = torch.zeros(w.shape[1], dtype=torch.float64, device=w.device)
    for lo in range(0, w.shape[1], block):
        hi = min(lo + block, w.shape[1])
        current = w[:, lo:hi].T.contiguous()  # [column, out]: a column is one run of memory
        errors, rows = torch.empty_like(current), u[lo:hi, lo:hi]
        for i in range(hi - lo):
            final = replace(lo + i, current[i:].T)
            torch.sub(current[i], final, out=errors[i])
            errors[i] /= rows[i, i]
            current[i] = final
            current[i + 1 :].addr_(rows[i, i + 1 :], errors[i], alpha=-1)
        loss[lo:hi] = errors.square().sum(1, dtype=torch.float64) / 2
        w[:, lo:hi] = current.T
        w[:, hi:].addmm_(errors.T, u[lo:hi, hi:], alpha=-1)
    return Compensated(w, loss)


def prune(weight: torch.Tensor, factor: InverseFactor, sparsity: float, pattern: str) -> Compensated:
    """SparseGPT: the pruned and compensated matrix [out, in]; scores w²/U_jj² of the compensated weights, in blocks of columns or N:M groups."""
    step = factor.upper.diagonal().to(weight)
    groups, dropped = n_m(pattern), weight == 0
    mask = torch.ones_like(weight, dtype=torch.bool)
    span = groups[1] if groups else BLOCK

    def replace(j, current):
        if j % span == 0:
            here = slice(j, min(j + span, weight.shape[1]))
            scores = (current[:, :span] / step[here]).square().masked_fill(dropped[:, here], -1)
            mask[:, here] = keep_n_of_m(scores, *groups) if groups else keep_in_all([scores], sparsity)[0]
            mask[:, here] &= ~dropped[:, here]
        return current[:, 0] * mask[:, j]

    return compensate(weight.clone(), factor, replace)


def output_subspace(weight: torch.Tensor, metric: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (descending) and eigenvectors [out, r] of W M Wᵀ, r = min(out, in), in float64.

    metric: None for the identity, a vector [in] for a diagonal, or a matrix [in, in]. For tall W the problem is solved in its
    column space, W = QR, at in³ instead of out³. Signs are fixed so that the largest entry of each vector is positive.
    """
    w = weight.to(torch.float64)
    basis = None
    if w.shape[0] > w.shape[1]:
        basis, w = torch.linalg.qr(w)
    if metric is None:
        product = w @ w.T
    elif metric.dim() == 1:
        product = (w * metric.to(w)) @ w.T
    else:
        product = w @ metric.to(w) @ w.T
    values, vectors = torch.linalg.eigh((product + product.T) / 2)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if basis is not None:
        vectors = basis @ vectors
    r = min(weight.shape)
    return values[:r], oriented(vectors[:, :r])


def oriented(vectors: torch.Tensor) -> torch.Tensor:
    """Columns with the sign that makes their largest entry positive, so that equal inputs give equal factors."""
    largest = vectors.abs().argmax(0)
    return vectors * vectors.gather(0, largest[None])[0].sign()


def principal_axes(gram: torch.Tensor, damping: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (descending) and orthonormal eigenvectors [channel, channel] of a Gram matrix with damping·mean diag added."""
    c = gram.to(torch.float64)
    c = c + torch.eye(len(c), dtype=c.dtype, device=c.device) * (damping * c.diagonal().mean())
    values, vectors = torch.linalg.eigh(c)
    return values.flip(0), oriented(vectors.flip(1))
