"""Zero the weights that matter least to the outputs: |weight| times the size of the input it multiplies.

S_ij = |W_ij| · ‖X_j‖₂ with ‖X_j‖ over all calibration tokens; within each output row the lowest share `sparsity` becomes zero
(2:4 and 4:8: the lowest of every group of inputs). No weight is updated. The comparison within a row is the method: ranking
over a whole matrix is a different one. Inputs that never fire are pruned first.

Use it when one forward pass over a little text is affordable: it matches or beats magnitude wherever input channels differ
in size. On small models without outlier channels the two nearly agree. Not when surviving weights may move: SparseGPT.
Parallel propagation scores on the original activations, sequential on those of the blocks pruned so far (the paper's way).
Source: Sun, Liu, Bair & Kolter, “A Simple and Effective Pruning Approach for LLMs”, ICLR 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.calibration import solve_matrices
from metrics.sparsity import keep_by, mask_bits, pack, unpack
from metrics.stored_bits import note_bits, split_key, total_bits, value_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape, shape_of
from operators.contract import Storage, foresee_mask, require_whole_groups, sparse_storage

TITLE = "Wanda"


@dataclass(frozen=True)
class Params:
    sparsity: float = param(0.5, "Share of zeros", first=True, low=0.0, high=0.99)
    pattern: Literal["unstructured", "2:4", "4:8"] = param("unstructured", "Pattern", first=True, help="N:M keeps N of every M consecutive inputs; the share of zeros is then one half")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")
    propagation: Literal["parallel", "sequential"] = param("parallel", "Propagation", help="Statistics on original activations, or on those of the compressed blocks before")


NEUTRAL = (Params(sparsity=0.0), 0.0)
SWEEP = ("sparsity=0.3", "sparsity=0.5", "sparsity=0.7", "pattern=2:4")


@dataclass(frozen=True, eq=False)
class Plan:
    kept: dict[str, torch.Tensor]  # packed masks, uint8 [out, ceil(in/8)]
    bits: dict[str, torch.Tensor]
    pattern: str


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    require_whole_groups(shape.chosen(params.which), params.pattern)


def foresee(params: Params, outline: Outline) -> Outline:
    return foresee_mask(outline, outline.shape.chosen(params.which), params.sparsity, params.pattern)


def scores(weight: torch.Tensor, square_sum: torch.Tensor) -> torch.Tensor:
    """|W_ij| · ‖X_j‖₂, [out, in]; square_sum is Σ x_j² [in]."""
    return weight.abs() * square_sum.clamp(min=0).sqrt().to(weight)


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    kept, bits = {}, {}

    def solve(matrix, weight, inputs):
        mask = keep_by(scores(weight, inputs.square_sum), params.sparsity, params.pattern)
        kept[matrix.key] = pack(mask)
        bits[matrix.key] = torch.tensor(mask_bits(mask, value_bits(model, matrix), params.pattern))
        return weight * mask

    solve_matrices(model, calibration, shape_of(model).chosen(params.which), params.propagation, False, solve, progress)
    return Plan(kept, bits, params.pattern)


def apply(model: Model, plan: Plan) -> None:
    for key, packed in plan.kept.items():
        weight = model.matrix(*split_key(key))
        model.set_matrix(*split_key(key), weight * unpack(packed.to(weight.device), weight.shape[1]))
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    return sparse_storage(total_bits(plan.bits), sum(model.matrix(*split_key(key)).numel() for key in plan.kept), plan.pattern)
