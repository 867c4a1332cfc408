"""Replace each matrix by the product of two thin ones: W' = U_k (U_kᵀ W).

U_k are the k leading eigenvectors of W M Wᵀ, and the metric M says which error counts: plain SVD M = I; ASVD M = diag(mean|x|^α)²;
SVD-LLM M = C = Σ x xᵀ, which minimises the error of the outputs on the calibration text (its value is the sum of the dropped
eigenvalues); CorDA M = (C + damping)². All four are this one projection; none needs an inverse. `keep` is the share of the
parameters that stays: k = ⌊keep · mn / (m + n)⌋. WeLore's allocation gives each matrix the singular values that, scaled to its
own 0–1, exceed one threshold for the whole model; matrices that would not get smaller stay dense. Fused Q, K, V are split first.

Use it with SVD-LLM's metric up to about a third off where activations are low-dimensional, with plain SVD as the baseline. Not
for narrow matrices (grouped K and V), whose break-even rank mn/(m+n) is low, nor where spectra are flat: see the rank map.
Sources: Yuan et al. 2023 (ASVD); Wang et al., ICLR 2025 (SVD-LLM); Yang et al., NeurIPS 2024 (CorDA); Jaiswal et al. 2024 (WeLore).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.calibration import Channels, solve_matrices
from metrics.solvers import output_subspace
from metrics.stored_bits import dtype_bits, note_bits, split_key, total_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import Refused
from models.shape import Matrix, Shape, part_rows, row_parts, shape_of
from operators.contract import Storage

TITLE = "Low rank"
METRICS = {"svd": "plain SVD", "asvd": "ASVD", "svd_llm": "SVD-LLM", "corda": "CorDA"}


@dataclass(frozen=True)
class Params:
    keep: float = param(0.8, "Share of parameters kept", first=True, low=0.01, high=1.0)
    metric: Literal["svd", "asvd", "svd_llm", "corda"] = param("svd_llm", "Metric", first=True)
    allocation: Literal["uniform", "welore"] = param("uniform", "Ranks", help="The same share everywhere, or one threshold on all normalised spectra")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")
    propagation: Literal["parallel", "sequential"] = param("parallel", "Propagation", help="Statistics on original activations (the papers' way), or on those of the compressed blocks before")
    alpha: float = param(0.5, "ASVD exponent", low=0.0, high=2.0)
    damping: float = param(0.01, "CorDA damping", low=0.0, high=1.0)


NEUTRAL = (Params(keep=1.0), 0.0)
SWEEP = ("keep=0.8", "keep=0.6", "keep=0.4", "keep=0.6,metric=asvd", "keep=0.6,metric=svd")


@dataclass(frozen=True, eq=False)
class Plan:
    """Keys are layer.name, with :q, :k, :v for the parts of a fused matrix; parts that stay dense have no factors."""

    left: dict[str, torch.Tensor]  # U_k [rows, k] float32
    right: dict[str, torch.Tensor]  # U_kᵀ W [k, in] float32
    spectrum: dict[str, torch.Tensor]  # square roots of the eigenvalues of W M Wᵀ, descending, float64
    bits: dict[str, torch.Tensor]


def calibrated(params: Params) -> bool:
    return params.metric != "svd"


def check(params: Params, shape: Shape) -> None:
    parts = [(m, n) for m in shape.chosen(params.which) for n in part_rows(m)]
    if params.allocation == "uniform":
        for m, n_out in parts:
            if params.keep < 1 and uniform_rank(params.keep, n_out, m.n_in) < 1:
                raise Refused(f"keep = {params.keep} leaves {m.name} ({n_out}×{m.n_in}) no rank at all; it needs at least {(n_out + m.n_in) / (n_out * m.n_in):.3f}.")
    whole, least = sum(n * m.n_in for m, n in parts), sum(n + m.n_in for m, n in parts)
    if params.keep * whole < least:
        raise Refused(f"keep = {params.keep} is below what rank 1 everywhere takes; the least is {least / whole:.3f}.")


def foresee(params: Params, outline: Outline) -> Outline:
    """WeLore's threshold stays within the budget, by less than one rank of one matrix."""
    chosen = outline.shape.chosen(params.which)
    if params.keep >= 1 or params.allocation == "welore":
        stored = {m: params.keep * m.n_out * m.n_in for m in chosen}
    else:
        stored = {m: sum(uniform_rank(params.keep, n, m.n_in) * (n + m.n_in) for n in part_rows(m)) for m in chosen}
    return outline.storing({m: n * outline.dense for m, n in stored.items()})


def uniform_rank(keep: float, n_out: int, n_in: int) -> int:
    return int(keep * n_out * n_in / (n_out + n_in) + 1e-9)


def metric_of(params: Params, inputs: Channels) -> torch.Tensor | None:
    """M as None (identity), a vector [in] (diagonal) or a matrix [in, in]; scaled to mean diagonal 1 where it would overflow."""
    if params.metric == "asvd":
        return inputs.abs_mean.clamp(min=1e-12) ** (2 * params.alpha)
    if params.metric == "svd_llm":
        return inputs.gram
    scaled = inputs.gram / inputs.gram.diagonal().mean().clamp(min=1e-300)
    damped = scaled + params.damping * torch.eye(len(scaled), dtype=scaled.dtype, device=scaled.device)
    return damped @ damped


def ranks_for(params: Params, weights: dict[str, torch.Tensor]) -> dict[str, int]:
    """Rank of each part; 0 stands for dense."""
    if params.keep >= 1:
        return dict.fromkeys(weights, 0)
    if params.allocation == "uniform":
        return {key: uniform_rank(params.keep, *w.shape) for key, w in weights.items()}
    return welore_ranks({key: torch.linalg.svdvals(w.double()) for key, w in weights.items()}, {key: tuple(w.shape) for key, w in weights.items()}, params.keep)


def welore_ranks(spectra: dict[str, torch.Tensor], shapes: dict[str, tuple[int, int]], keep: float) -> dict[str, int]:
    """The ranks at the lowest threshold on min–max normalised spectra whose total size is within keep · Σ mn; 0 is dense."""
    scaled = {key: (s - s.min()) / (s.max() - s.min()).clamp(min=1e-300) for key, s in spectra.items()}
    budget = keep * sum(m * n for m, n in shapes.values())

    def ranks(threshold: float) -> dict[str, int]:
        found = {key: max(1, int((s >= threshold).sum())) for key, s in scaled.items()}
        return {key: 0 if k * sum(shapes[key]) >= shapes[key][0] * shapes[key][1] else k for key, k in found.items()}

    def size(found: dict[str, int]) -> int:
        return sum(k * sum(shapes[key]) if k else shapes[key][0] * shapes[key][1] for key, k in found.items())

    low, high = 0.0, 1.0  # at 1 only the largest value of each is left
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if size(ranks(middle)) <= budget else (middle, high)
    return ranks(high)


def factors(weight: torch.Tensor, metric: torch.Tensor | None, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(U_k [out, k], U_kᵀ W [k, in], square roots of all eigenvalues), float64."""
    values, vectors = output_subspace(weight, metric)
    left = vectors[:, :rank]
    return left, left.T @ weight.to(left), values.sqrt()


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    shape, plan = shape_of(model), Plan({}, {}, {}, {})
    chosen = shape.chosen(params.which)
    parts = {m.key: {_part(m, p): rows for p, rows in row_parts(shape, m).items()} for m in chosen}
    ranks = ranks_for(params, {key: model.matrix(m.layer, m.name)[rows] for m in chosen for key, rows in parts[m.key].items()})

    def solve(matrix: Matrix, weight: torch.Tensor, inputs: Channels | None) -> torch.Tensor:
        metric = metric_of(params, inputs) if inputs is not None else None
        new, stored = weight.clone(), 0
        for key, rows in parts[matrix.key].items():
            left, right, plan.spectrum[key] = factors(weight[rows], metric, ranks[key])
            stored += ranks[key] * (len(rows) + matrix.n_in) if ranks[key] else len(rows) * matrix.n_in
            if ranks[key]:
                plan.left[key], plan.right[key] = left.float(), right.float()
                new[rows] = (plan.left[key] @ plan.right[key]).to(new)
        plan.bits[matrix.key] = torch.tensor(float(stored * dtype_bits(model)))
        return new

    if calibrated(params):
        solve_matrices(model, calibration, chosen, params.propagation, params.metric != "asvd", solve, progress)
    else:
        for i, m in enumerate(chosen):
            solve(m, model.matrix(m.layer, m.name), None)
            progress.step(i + 1, len(chosen), f"block {m.layer}, {m.name}")
    return plan


def _part(matrix: Matrix, part: str) -> str:
    return f"{matrix.key}:{part}" if part else matrix.key


def apply(model: Model, plan: Plan) -> None:
    shape = shape_of(model)
    for m in shape.matrices:
        keys = {_part(m, part): rows for part, rows in row_parts(shape, m).items() if _part(m, part) in plan.left}
        if keys:
            new = model.matrix(m.layer, m.name).clone()
            for key, rows in keys.items():
                new[rows] = (plan.left[key] @ plan.right[key]).to(new)
            model.set_matrix(m.layer, m.name, new)
    note_bits(model, plan.bits)


def physical(model: Model, plan: Plan) -> torch.nn.Module:
    """Every factorised matrix as two thin products, for timing: no plain config has a place for them. `model` is the parent."""
    from models.smaller import Thin

    shape, copy = shape_of(model), model.copy("thin")
    for m in shape.matrices:
        parts = row_parts(shape, m)
        if not any(_part(m, part) in plan.left for part in parts):
            continue
        weight = model.matrix(m.layer, m.name)
        factors = [(plan.left[key].to(weight), plan.right[key].to(weight)) if (key := _part(m, part)) in plan.left else (weight[rows],) for part, rows in parts.items()]
        parent, _, leaf = m.name.rpartition(".")
        place = copy.blocks[m.layer].get_submodule(parent)
        setattr(place, leaf, Thin(factors, torch.cat(list(parts.values())), getattr(place, leaf).bias))
    return copy.module


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(model.matrix(*split_key(key)).numel() for key in plan.bits)
    return Storage(total_bits(plan.bits), weights, True, "two thin factors at the model's dtype; fewer operations below the break-even rank, run here as their product")
