"""Prune column by column and let the weights to the right make up for the error.

With H = (2/n) Σ x xᵀ, damped, and U the upper Cholesky factor of H⁻¹ (d_j = U_jj): in blocks of 128 columns the lowest share
of W²/d² over rows × block is zeroed (2:4, 4:8: the lowest of each group, chosen on reaching it); for each column the error
(w − q)/d_j is subtracted from the columns to its right along U_j. Σ loss = ½ tr(ΔW H ΔWᵀ). Zeros of earlier steps stay zero.
A factorisation that fails raises the damping tenfold until it succeeds; the plan reports the damping used.

Use it at half sparsity and beyond, where compensation pays; it needs the second moments of every input (4·in² bytes each)
and enough text that they are not degenerate. Not when weights must keep their values, as for masks learned later: Wanda.
Source: Frantar & Alistarh, “SparseGPT”, ICML 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.calibration import solve_matrices
from metrics.solvers import Compensated, inverse_factor, prune
from metrics.sparsity import mask_bits
from metrics.stored_bits import note_bits, split_key, total_bits, value_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape, shape_of
from operators.contract import Storage, foresee_mask, require_whole_groups, sparse_storage

TITLE = "SparseGPT"


@dataclass(frozen=True)
class Params:
    sparsity: float = param(0.5, "Share of zeros", first=True, low=0.0, high=0.99)
    pattern: Literal["unstructured", "2:4", "4:8"] = param("unstructured", "Pattern", first=True, help="N:M keeps N of every M consecutive inputs; the share of zeros is then one half")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")
    propagation: Literal["parallel", "sequential"] = param("parallel", "Propagation", help="Statistics on original activations, or on those of the compressed blocks before")
    damping: float = param(0.01, "Damping", low=0.0, high=1.0, help="Share of the mean diagonal added to the second moments")


NEUTRAL = (Params(sparsity=0.0), 0.0)
SWEEP = ("sparsity=0.3", "sparsity=0.5", "sparsity=0.7", "pattern=2:4")


@dataclass(frozen=True, eq=False)
class Plan:
    weights: dict[str, torch.Tensor]  # [out, in] in the model's dtype, zeros included: surviving weights have moved
    bits: dict[str, torch.Tensor]
    loss: dict[str, torch.Tensor]  # [in] float64, summed over rows
    damping: dict[str, torch.Tensor]  # share of the mean diagonal that succeeded
    pattern: str


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    require_whole_groups(shape.chosen(params.which), params.pattern)


def foresee(params: Params, outline: Outline) -> Outline:
    return foresee_mask(outline, outline.shape.chosen(params.which), params.sparsity, params.pattern)


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    plan = Plan({}, {}, {}, {}, params.pattern)
    untouched = params.pattern == "unstructured" and params.sparsity == 0

    def solve(matrix, weight, inputs):
        factor = inverse_factor(inputs.gram, inputs.tokens, params.damping)
        solved = Compensated(weight, torch.zeros(matrix.n_in).double()) if untouched else prune(weight, factor, params.sparsity, params.pattern)
        plan.weights[matrix.key] = solved.weight.contiguous()
        plan.loss[matrix.key] = solved.loss
        plan.damping[matrix.key] = torch.tensor(factor.damping, dtype=torch.float64)
        plan.bits[matrix.key] = torch.tensor(mask_bits(solved.weight != 0, value_bits(model, matrix), params.pattern))
        return solved.weight

    solve_matrices(model, calibration, shape_of(model).chosen(params.which), params.propagation, True, solve, progress)
    return plan


def apply(model: Model, plan: Plan) -> None:
    for key, weight in plan.weights.items():
        model.set_matrix(*split_key(key), weight)
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    return sparse_storage(total_bits(plan.bits), sum(w.numel() for w in plan.weights.values()), plan.pattern)
