"""Round column by column and let the columns that are still free make up for the error.

SparseGPT's recursion with q = the nearest grid value: H = (2/n) Σ x xᵀ, damped, U upper with UᵀU = H⁻¹; after column j the
error (w − q)/U_jj is subtracted from the columns to its right along U_j. Σ loss = ½ tr(ΔW H ΔWᵀ). A group's grid is taken from
its already compensated weights when the first of its columns is reached. `order` by activation quantises the columns with the
largest inputs first, on grids fixed beforehand. The weight error rises, the output error falls: that is the method.
Zeros of an earlier pruning step stay zero. A factorisation that fails raises the damping tenfold; the plan reports it.

Use it at 4 bits and fewer. Not at 8 bits, where rounding is as good, nor on text unlike what the model will read.
Source: Frantar, Ashkboos, Hoefler & Alistarh, “GPTQ”, ICLR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.calibration import solve_matrices
from metrics.grid import Grid, dequantised, grid_bits, grid_of, grouped
from metrics.solvers import BLOCK, Compensated, InverseFactor, compensate, inverse_factor
from metrics.stored_bits import known_bits, note_bits, quantised_bits, split_key, total_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape, shape_of
from operators.contract import Storage, foresee_grid, quantised_storage, require_group_size

TITLE = "GPTQ"


@dataclass(frozen=True)
class Params:
    bits: Literal[8, 4, 3, 2] = param(4, "Bits", first=True)
    group: int = param(32, "Group size", first=True, low=0, high=4096, help="Inputs that share a scale; 0 is the whole row")
    symmetric: bool = param(False, "Symmetric", help="No zero point; one code fewer")
    order: Literal["given", "activation"] = param("given", "Column order", help="By activation: largest inputs first, grids fixed beforehand")
    scale_bits: Literal[16, 32] = param(16, "Bits of a scale")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")
    propagation: Literal["parallel", "sequential"] = param("parallel", "Propagation", help="Statistics on original activations, or on those of the compressed blocks before")
    damping: float = param(0.01, "Damping", low=0.0, high=1.0, help="Share of the mean diagonal added to the second moments")


NEUTRAL = None  # weights on the grid already are the identity
SWEEP = ("bits=8", "bits=4", "bits=3", "bits=2")


@dataclass(frozen=True, eq=False)
class Plan:
    codes: dict[str, torch.Tensor]  # uint8 or int8 [out, in]
    scale: dict[str, torch.Tensor]  # [out, groups], float16 or float32
    zero: dict[str, torch.Tensor]  # uint8 [out, groups]; no entries when symmetric
    bits: dict[str, torch.Tensor]
    loss: dict[str, torch.Tensor]  # [in] float64, summed over rows
    damping: dict[str, torch.Tensor]  # share of the mean diagonal that succeeded


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    require_group_size(shape.chosen(params.which), params.group)


def foresee(params: Params, outline: Outline) -> Outline:
    return foresee_grid(outline, outline.shape.chosen(params.which), params.bits, params.group, params.symmetric, params.scale_bits)


@dataclass(frozen=True, eq=False)
class Quantised:
    codes: torch.Tensor  # [out, in], in the weights' dtype
    scale: torch.Tensor  # [out, groups]
    zero: torch.Tensor  # [out, groups]
    solved: Compensated


def quantise(weight: torch.Tensor, factor: InverseFactor, params: Params, dropped: torch.Tensor | None = None) -> Quantised:
    """Codes of a matrix in the given column order; `dropped` bool [out, in] marks weights that must stay zero."""
    n_out, n_in = weight.shape
    group = params.group or n_in
    codes, scales, zeros = torch.empty_like(weight), [], []
    block = group if BLOCK % group and group % BLOCK else BLOCK  # a group starts at the start of a block, or ends inside one
    grid: list[Grid] = []
    free = weight.clone()

    def replace(j, current):
        if j % group == 0:
            ahead = current[:, :group] if current.shape[1] >= group else free[:, j : j + group]  # at a block's start both are current
            grid[:] = [grid_of(ahead, params.bits, params.symmetric, params.scale_bits)]
            scales.append(grid[0].stored)
            zeros.append(grid[0].zero)
        code = grid[0].codes(current[:, :1])
        if dropped is not None:
            code = torch.where(dropped[:, j : j + 1], grid[0].zero, code)
        codes[:, j] = code[:, 0]
        return grid[0].values(code)[:, 0]

    solved = compensate(free, factor, replace, block)
    return Quantised(codes, torch.cat(scales, 1), torch.cat(zeros, 1), solved)


def quantise_by_activation(weight: torch.Tensor, gram: torch.Tensor, tokens: int, params: Params, dropped: torch.Tensor | None) -> tuple[Quantised, float]:
    """Columns in falling order of Σ x², each on the grid that its group has before anything is moved; results in the given order."""
    order = gram.diagonal().argsort(descending=True, stable=True)
    back = order.argsort()
    factor = inverse_factor(gram[order][:, order], tokens, params.damping)
    grids = grid_of(grouped(weight, params.group), params.bits, params.symmetric, params.scale_bits)
    of_column = torch.arange(weight.shape[1], device=weight.device) // (params.group or weight.shape[1])
    codes = torch.empty_like(weight)

    def replace(j, current):
        column = order[j]
        g = of_column[column]
        grid = Grid(grids.scale[:, g], grids.zero[:, g], grids.stored[:, g], grids.low, grids.high)
        code = grid.codes(current[:, :1])
        if dropped is not None:
            code = torch.where(dropped[:, column][:, None], grid.zero, code)
        codes[:, column] = code[:, 0]
        return grid.values(code)[:, 0]

    solved = compensate(weight[:, order], factor, replace)
    solved = Compensated(solved.weight[:, back], solved.loss[back])
    return Quantised(codes, grids.stored[..., 0], grids.zero[..., 0], solved), factor.damping


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    plan = Plan({}, {}, {}, {}, {}, {})

    def solve(matrix, weight, inputs):
        dropped = weight == 0 if known_bits(model, matrix) is not None else None
        w = weight.float()
        if params.order == "activation":
            done, damping = quantise_by_activation(w, inputs.gram, inputs.tokens, params, dropped)
        else:
            factor = inverse_factor(inputs.gram, inputs.tokens, params.damping)
            done, damping = quantise(w, factor, params, dropped), factor.damping
        plan.codes[matrix.key] = done.codes.to(torch.int8 if params.symmetric else torch.uint8)
        plan.scale[matrix.key] = done.scale.to(torch.float16 if params.scale_bits == 16 else torch.float32)
        if not params.symmetric:
            plan.zero[matrix.key] = done.zero.to(torch.uint8)
        plan.loss[matrix.key] = done.solved.loss
        plan.damping[matrix.key] = torch.tensor(damping, dtype=torch.float64)
        dense = grid_bits(matrix.n_out, matrix.n_in, params.bits, params.group, params.symmetric, params.scale_bits)
        plan.bits[matrix.key] = torch.tensor(quantised_bits(model, matrix, dense, params.bits))
        return rebuilt(plan, matrix.key).to(weight)

    solve_matrices(model, calibration, shape_of(model).chosen(params.which), params.propagation, True, solve, progress)
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
