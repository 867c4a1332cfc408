"""Write each matrix as a small dense one times a sparse one, or as low rank plus sparse.

Product (DSFormer's form): W ≈ D·S, r dense columns, and every column of S combines s of them; alternating steps, each of which lowers
the error, from the leading singular vectors on. Sum: W ≈ L·R + S, in turn the best rank and the largest entries of what it leaves.
Errors of input j count by E[x_j²] of a text, or all alike. `keep` is the share of bits that stays, indices and bitmap included, and
`dense` the part of them that goes to the dense (thin) factors; matrices where nothing is left for one of the two are refused.
Fused Q, K, V are split first.

Use it where spectra are flat but a few directions, or a few large weights, do most of a column: compare low_rank at the same bits. Not
for speed, sparse products run slowly without hardware for them; DSFormer trains its factors on the task, here they only fit weights.
Source: Chand et al., “DSFormer: Effective Compression of Text-Transformers by Dense-Sparse Weight Factorization”, 2023; Zhou & Tao, “GoDec”, 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.calibration import Channels, solve_matrices
from metrics.damage import relative
from metrics.sparse_factors import low_rank_plus_sparse, product, scattered
from metrics.stored_bits import dtype_bits, known_bits, note_bits, split_key, total_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import Refused
from models.shape import Matrix, Shape, part_rows, parts_by_key, shape_of
from operators.contract import Storage

TITLE = "Dense and sparse"


@dataclass(frozen=True)
class Params:
    form: Literal["product", "sum"] = param("product", "Form", first=True, help="Dense times sparse, or low rank plus sparse")
    keep: float = param(0.6, "Share of bits kept", first=True, low=0.05, high=1.0)
    dense: float = param(0.75, "Of them dense", first=True, low=0.0, high=1.0, help="The part that goes to the dense or the thin factors")
    metric: Literal["inputs", "none"] = param("inputs", "Errors count by", help="The mean square of their input on a text, or all alike")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")
    steps: int = param(10, "Steps", low=1, high=500)


NEUTRAL = (Params(keep=1.0), 0.0)
SWEEP = ("keep=0.6", "keep=0.4", "keep=0.6,form=sum", "keep=0.4,form=sum")


@dataclass(frozen=True, eq=False)
class Plan:
    """Keys are layer.name, with :q, :k, :v for the parts of a fused matrix; with keep = 1 there are no factors."""

    left: dict[str, torch.Tensor]  # D [rows, r], or L [rows, k], float32
    right: dict[str, torch.Tensor]  # R [k, in] float32; sum only
    value: dict[str, torch.Tensor]  # entries of S: [s, in], or [entries], float32
    place: dict[str, torch.Tensor]  # their row of S int16 [s, in], or their flat position int64 [entries]
    objective: dict[str, torch.Tensor]  # squared error, each input scaled by its size, of every step, float64
    error: dict[str, torch.Tensor]  # ‖W' − W‖ / ‖W‖, float64
    bits: dict[str, torch.Tensor]


def calibrated(params: Params) -> bool:
    return params.metric == "inputs" and params.keep < 1


def check(params: Params, shape: Shape) -> None:
    for m in shape.chosen(params.which):
        for n in part_rows(m):
            if params.keep < 1 and min(sizes(params, n, m.n_in, 16)) < 1:
                raise Refused(f"keep = {params.keep} with {params.dense} of it dense leaves {m.name} ({n}×{m.n_in}) no sparse entry or no dense column; keep more, or divide it otherwise.")


def sizes(params: Params, m: int, n: int, value_bits: int) -> tuple[int, int]:
    """(r, s) of a product, or (rank, entries) of a sum, that fit into keep · m·n values."""
    budget = params.keep * m * n * value_bits
    if params.form == "product":
        r = min(int(params.dense * params.keep * n), m)
        return r, min(int((budget - r * m * value_bits) / (n * (value_bits + _index_bits(r)))), r)
    k = min(int(params.dense * params.keep * m * n / (m + n)), m, n)
    left = budget - k * (m + n) * value_bits
    by_bitmap, by_index = (left - m * n) / value_bits, (left - m * _index_bits(n + 1)) / (value_bits + _index_bits(n))
    return k, min(int(max(by_bitmap, by_index)), m * n)


def stored_bits(params: Params, m: int, n: int, value_bits: int) -> float:
    """Bits of a factorised part: factors, entries and where they are; of a sum by bitmap, or by column index and a count each row."""
    if params.keep >= 1:
        return float(m * n * value_bits)
    first, second = sizes(params, m, n, value_bits)
    if params.form == "product":
        return float(first * m * value_bits + second * n * (value_bits + _index_bits(first)))
    where = min(m * n, second * _index_bits(n) + m * _index_bits(n + 1))
    return float(first * (m + n) * value_bits + second * value_bits + where)


def _index_bits(n: int) -> int:
    return max(n - 1, 0).bit_length()


def foresee(params: Params, outline: Outline) -> Outline:
    def bits(m: Matrix) -> float:
        if params.keep >= 1 or outline.value_bits(m) == 0:
            return outline.value_bits(m) * m.n_out * m.n_in
        return sum(stored_bits(params, n, m.n_in, outline.dense) for n in part_rows(m))

    return outline.storing({m: bits(m) for m in outline.shape.chosen(params.which)})


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    shape, plan = shape_of(model), Plan({}, {}, {}, {}, {}, {}, {})
    chosen = shape.chosen(params.which)

    def solve(matrix: Matrix, weight: torch.Tensor, inputs: Channels | None) -> torch.Tensor:
        scale = torch.ones(matrix.n_in, dtype=torch.float64) if inputs is None else (inputs.square_sum / inputs.tokens).sqrt()
        scale = scale.clamp(min=1e-6 * float(scale.max().clamp(min=1e-300)))
        known, stored = known_bits(model, matrix), 0.0
        for key, rows in parts_by_key(shape, matrix).items():
            stored += stored_bits(params, len(rows), matrix.n_in, dtype_bits(model))
            if params.keep < 1:
                _factorise(plan, key, weight[rows].double(), scale, params, dtype_bits(model))
        plan.bits[matrix.key] = torch.tensor(float(known if known is not None and (known == 0 or params.keep >= 1) else stored))
        return weight

    if calibrated(params):
        solve_matrices(model, calibration, chosen, "parallel", False, solve, progress)
    else:
        for i, m in enumerate(chosen):
            solve(m, model.matrix(m.layer, m.name), None)
            progress.step(i + 1, len(chosen), f"block {m.layer}, {m.name}")
    return plan


def _factorise(plan: Plan, key: str, weight: torch.Tensor, scale: torch.Tensor, params: Params, value_bits: int) -> None:
    """Factors of one part, found with its columns scaled and kept without."""
    first, second = sizes(params, *weight.shape, value_bits)
    if params.form == "product":
        found = product(weight * scale, first, second, params.steps)
        plan.left[key], plan.value[key], plan.place[key] = found.dense.float(), (found.value / scale).float(), found.index.to(torch.int16)
    else:
        found = low_rank_plus_sparse(weight * scale, first, second, params.steps)
        plan.left[key], plan.right[key] = found.left.float(), (found.right / scale).float()
        plan.value[key], plan.place[key] = (found.value / scale[found.position % weight.shape[1]]).float(), found.position
    plan.objective[key] = found.objective
    plan.error[key] = torch.tensor(relative(rebuilt(plan, key, weight.shape).double() - weight, weight), dtype=torch.float64)


def rebuilt(plan: Plan, key: str, size: tuple[int, int]) -> torch.Tensor:
    """The part [rows, in] in float32."""
    left, value, place = plan.left[key], plan.value[key], plan.place[key].long()
    if key not in plan.right:
        return left @ scattered(value, place, left.shape[1])
    return left @ plan.right[key] + torch.zeros(size).view(-1).scatter_(0, place, value).view(size)


def apply(model: Model, plan: Plan) -> None:
    shape = shape_of(model)
    for m in shape.matrices:
        parts = {key: rows for key, rows in parts_by_key(shape, m).items() if key in plan.left}
        if parts:
            new = model.matrix(m.layer, m.name).clone()
            for key, rows in parts.items():
                new[rows] = rebuilt(plan, key, (len(rows), m.n_in)).to(new)
            model.set_matrix(m.layer, m.name, new)
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(model.matrix(*split_key(key)).numel() for key in plan.bits)
    return Storage(total_bits(plan.bits), weights, False, "dense factors, the entries of the sparse one and where they are; only smaller, run here as the dense matrix")
