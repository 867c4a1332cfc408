"""A matrix as dense times sparse, or as low rank plus sparse, by alternating steps none of which raises ‖W − W'‖².

W is [m, n] float64. A metric that is diagonal in the inputs goes in by scaling the columns beforehand: sparsity patterns do not care.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metrics.solvers import oriented, output_subspace

CHUNK = 2**24  # numbers held at once while columns are refitted


@dataclass(frozen=True, eq=False)
class Product:
    """dense [m, r] and a sparse [r, n] with the same number of entries in every column: value and row index [s, n]; the objective
    ‖W − D·S‖² at the start and after each step."""

    dense: torch.Tensor
    value: torch.Tensor
    index: torch.Tensor
    objective: torch.Tensor

    @property
    def sparse(self) -> torch.Tensor:
        return scattered(self.value, self.index, self.dense.shape[1])


def scattered(value: torch.Tensor, index: torch.Tensor, r: int) -> torch.Tensor:
    """[r, n] with these entries."""
    return value.new_zeros(r, value.shape[1]).scatter_(0, index, value)


def product(weight: torch.Tensor, r: int, s: int, steps: int) -> Product:
    """W ≈ D·S with s entries in every column of S, r ≤ m. A step is one gradient step of S cut to its s largest entries a column (step
    length 1/‖DᵀD‖), then the best D for it; last, the best values on the pattern. Both from the leading left singular vectors and from
    columns of W as far apart as can be (sparse codes have many local optima); the better end is taken."""
    w = weight.to(torch.float64)
    singular = oriented(torch.linalg.svd(w, full_matrices=True)[0][:, :r])
    return min((_descended(w, start, s, steps) for start in (singular, _far_columns(w, r))), key=lambda found: float(found.objective[-1]))


def _far_columns(w: torch.Tensor, r: int) -> torch.Tensor:
    """r columns of W at length 1, each the one with most outside the span of those before (QR with pivoting)."""
    rest, chosen = w.clone(), []
    for _ in range(r):
        chosen.append(int(rest.square().sum(0).argmax()))
        direction = torch.nn.functional.normalize(rest[:, chosen[-1]], dim=0)
        rest = rest - direction[:, None] * (direction @ rest)
    return torch.nn.functional.normalize(w[:, chosen], dim=0)


def _descended(w: torch.Tensor, dense: torch.Tensor, s: int, steps: int) -> Product:
    r = dense.shape[1]
    sparse = largest(torch.linalg.lstsq(dense, w, driver="gelsd").solution, s)
    objective = [_error(w, dense, sparse)]
    for _ in range(steps):
        length = torch.linalg.eigvalsh(dense.T @ dense)[-1].clamp(min=1e-300)
        sparse = largest(sparse + dense.T @ (w - dense @ sparse) / length, s)
        dense = _solved(sparse @ sparse.T, sparse @ w.T).T
        dense, sparse = _unit_atoms(w, dense, sparse)
        objective.append(min(_error(w, dense, sparse), objective[-1]))  # equal within rounding once it stands still
    index = sparse.abs().topk(s, dim=0).indices.sort(0).values
    value = _refitted(w, dense, index)
    objective.append(_error(w, dense, scattered(value, index, r)))
    return Product(dense, value, index, torch.tensor(objective, dtype=torch.float64))


def largest(values: torch.Tensor, s: int) -> torch.Tensor:
    """The s largest entries of each column, zeros elsewhere."""
    index = values.abs().topk(s, dim=0).indices
    return torch.zeros_like(values).scatter_(0, index, values.gather(0, index))


def _error(w: torch.Tensor, dense: torch.Tensor, sparse: torch.Tensor) -> float:
    return float((w - dense @ sparse).square().sum())


def _unit_atoms(w: torch.Tensor, dense: torch.Tensor, sparse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of D at length 1, their length in S. One that nothing uses becomes a column of W that is hit worst; W' stays as it is."""
    size = dense.norm(dim=0)
    idle = size <= 1e-12 * size.max()
    dense, sparse = dense / size.masked_fill(idle, 1.0), sparse * size.masked_fill(idle, 0.0)[:, None]
    if bool(idle.any()):
        worst = (w - dense.masked_fill(idle, 0) @ sparse)
        order = worst.square().sum(0).argsort(descending=True, stable=True)[: int(idle.sum())]
        dense = dense.masked_fill(idle, 0)
        dense[:, idle.nonzero()[: len(order), 0]] = torch.nn.functional.normalize(worst[:, order], dim=0)
    return dense, sparse


def _refitted(w: torch.Tensor, dense: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Least squares values [s, n] on the pattern."""
    found, at_once = [], max(1, CHUNK // (len(dense) * len(index)))
    for part, columns in zip(index.split(at_once, 1), w.split(at_once, 1)):
        atoms = dense.T[part.T]  # [column, s, m]
        gram, right = atoms @ atoms.transpose(1, 2), (atoms @ columns.T[..., None])
        found.append(_solved(gram, right)[..., 0].T)
    return torch.cat(found, 1)


def _solved(gram: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Least squares from normal equations [..., k, k] and [..., k, n]: by Cholesky where all are far from singular, else by the pseudo-inverse."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    size = factor.diagonal(dim1=-2, dim2=-1)
    if not bool(failed.any()) and bool((size.amin(-1) > 1e-4 * size.amax(-1)).all()):
        return torch.cholesky_solve(right, factor)
    return torch.linalg.pinv(gram, hermitian=True) @ right


@dataclass(frozen=True, eq=False)
class Sum:
    """left [m, k] · right [k, n] plus entries `value` at the flat `position` int64, ascending; the objective as above."""

    left: torch.Tensor
    right: torch.Tensor
    value: torch.Tensor
    position: torch.Tensor
    objective: torch.Tensor


def low_rank_plus_sparse(weight: torch.Tensor, k: int, entries: int, steps: int) -> Sum:
    """W ≈ L·R + S, in turn the best rank k of W − S and the `entries` largest numbers of W − L·R (Zhou & Tao's GoDec, begun with the
    largest numbers of W, so that single spikes do not turn the singular vectors)."""
    w = weight.to(torch.float64)
    sparse, objective = largest(w.reshape(-1, 1), entries).view_as(w), []
    for _ in range(steps):
        left = output_subspace(w - sparse, None)[1][:, :k]
        right = left.T @ (w - sparse)
        rest = w - left @ right
        position = rest.reshape(-1).abs().topk(entries).indices.sort().values
        sparse = torch.zeros_like(w).view(-1).scatter_(0, position, rest.reshape(-1)[position]).view_as(w)
        objective.append(float((rest - sparse).square().sum()))
    return Sum(left, right, sparse.view(-1)[position], position, torch.tensor(objective, dtype=torch.float64))
