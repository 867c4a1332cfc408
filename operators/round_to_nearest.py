"""Round every weight to the nearest point of an integer grid, one grid for each group of inputs.

Asymmetric: s = (max(w, 0) − min(w, 0)) / (2^b − 1), z = round(−min / s), ŵ = s (q − z). Symmetric: s = max|w| / (2^(b−1) − 1),
no zero. Groups run along the inputs; group 0 is the whole row. 0 is always on the grid, rounding twice changes nothing, and
|ŵ − w| ≤ s/2 up to the rounding of the stored scale. Bits are b + (scale + zero) / group: 4 bits in groups of 64 is 4.31.

Use it at 8 bits, where nothing better is needed, and as the baseline below. Not at 3 bits and fewer without calibration:
GPTQ moves the error to where the inputs do not look. Embeddings and the output head are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.grid import dequantised, grid_bits, grid_of, grouped
from metrics.stored_bits import note_bits, quantised_bits, split_key, total_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape, shape_of
from operators.contract import Storage, foresee_grid, quantised_storage, require_group_size

TITLE = "Round to nearest"


@dataclass(frozen=True)
class Params:
    bits: Literal[8, 4, 3, 2] = param(4, "Bits", first=True)
    group: int = param(32, "Group size", first=True, low=0, high=4096, help="Inputs that share a scale; 0 is the whole row")
    symmetric: bool = param(False, "Symmetric", help="No zero point; one code fewer")
    scale_bits: Literal[16, 32] = param(16, "Bits of a scale")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")


NEUTRAL = None  # rounding always moves weights that are not on the grid; on it, it is the identity
SWEEP = ("bits=8", "bits=4", "bits=3", "bits=2")


@dataclass(frozen=True, eq=False)
class Plan:
    codes: dict[str, torch.Tensor]  # uint8 or int8 [out, in]
    scale: dict[str, torch.Tensor]  # [out, groups], float16 or float32
    zero: dict[str, torch.Tensor]  # uint8 [out, groups]; no entries when symmetric
    bits: dict[str, torch.Tensor]


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    require_group_size(shape.chosen(params.which), params.group)


def foresee(params: Params, outline: Outline) -> Outline:
    return foresee_grid(outline, outline.shape.chosen(params.which), params.bits, params.group, params.symmetric, params.scale_bits)


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    plan = Plan({}, {}, {}, {})
    chosen = shape_of(model).chosen(params.which)
    for i, m in enumerate(chosen):
        w = grouped(model.matrix(m.layer, m.name).float(), params.group)
        grid = grid_of(w, params.bits, params.symmetric, params.scale_bits)
        plan.codes[m.key] = grid.codes(w).reshape(m.n_out, m.n_in).to(torch.int8 if params.symmetric else torch.uint8)
        plan.scale[m.key] = grid.stored[..., 0].to(torch.float16 if params.scale_bits == 16 else torch.float32)
        if not params.symmetric:
            plan.zero[m.key] = grid.zero[..., 0].to(torch.uint8)
        dense = grid_bits(m.n_out, m.n_in, params.bits, params.group, params.symmetric, params.scale_bits)
        plan.bits[m.key] = torch.tensor(quantised_bits(model, m, dense, params.bits))
        progress.step(i + 1, len(chosen), f"block {m.layer}, {m.name}")
    return plan


def rebuilt(plan: Plan, key: str) -> torch.Tensor:
    """The quantised matrix [out, in] in float32."""
    return dequantised(plan.codes[key], plan.scale[key], plan.zero.get(key))


def apply(model: Model, plan: Plan) -> None:
    for key in plan.codes:
        model.set_matrix(*split_key(key), rebuilt(plan, key))
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    return quantised_storage(total_bits(plan.bits), sum(codes.numel() for codes in plan.codes.values()))
