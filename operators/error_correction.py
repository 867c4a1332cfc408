"""Keep a thin low-rank product beside every compressed matrix, fitted to what the steps before took away.

E = W − Ŵ is the difference between the original's matrix and the one that stands there now; beside Ŵ is kept B·A of rank r, with B the r
leading eigenvectors of E C Eᵀ and A = Bᵀ E: of all products of that rank the one that lowers ‖(E − B·A) X‖ on the text most, C = Σ x xᵀ
the inputs that the compressed model sees. Both factors are 16 bit numbers, r · (in + out) a matrix; matrices that no step
touched get none, and a copy of a shared block gets what makes it its own. Nothing is trained: heal does that.

Use it right after a quantiser at 3 bits and fewer, or after shared blocks, and compare the bits: a finer grid may give more for as
many. Not alone, nor after a step that trains weights (what was learned would be taken for an error), nor before any other compression.
Source: the error correction of Chai et al., “INT2.1”, arXiv 2306.08162, here in closed form and without its fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.calibration import matrix_inputs
from metrics.solvers import output_subspace
from metrics.stored_bits import known_bits, note_bits, split_key, total_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import Refused
from models.shape import Shape, shape_of
from operators.contract import Storage

TITLE = "Error correction"
FACTOR_BITS = 16
NOTHING = "No step before this one changed how a matrix is stored, so there is no error to correct; put it after a quantiser, for instance round_to_nearest:bits=2."


@dataclass(frozen=True)
class Params:
    rank: int = param(8, "Rank", first=True, low=0, high=4096)
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")


NEUTRAL = (Params(rank=0), 0.0)
SWEEP = ()  # alone it has nothing to correct


@dataclass(frozen=True, eq=False)
class Plan:
    up: dict[str, torch.Tensor]  # B [out, rank] float16, orthonormal columns
    down: dict[str, torch.Tensor]  # A [rank, in] float16
    left: dict[str, torch.Tensor]  # share of ‖E·X‖² that stays, float64
    bits: dict[str, torch.Tensor]  # of the matrix and what is kept beside it


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    shape.chosen(params.which)


def numbers(rank: int, n_out: int, n_in: int) -> int:
    return min(rank, n_out, n_in) * (n_out + n_in)


def foresee(params: Params, outline: Outline) -> Outline:
    touched = [m for m in outline.shape.chosen(params.which) if outline.name(m) in outline.bits]
    if not touched and outline.known:
        raise Refused(NOTHING)
    return outline.storing({m: outline.bits[outline.name(m)] + FACTOR_BITS * numbers(params.rank, m.n_out, m.n_in) for m in touched})


def correction(error: torch.Tensor, gram: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(B [out, rank], A [rank, in], share of tr(E C Eᵀ) that stays) in float64."""
    energy, vectors = output_subspace(error, gram)
    up = vectors[:, :rank]
    return up, up.T @ error, float(energy[rank:].sum() / energy.sum().clamp(min=1e-300))


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    touched = [m for m in shape_of(model).chosen(params.which) if known_bits(model, m) is not None]
    if not touched:
        raise Refused(NOTHING)
    plan, inputs = Plan({}, {}, {}, {}), matrix_inputs(calibration, True, progress)
    with calibration.original() as original:
        for i, m in enumerate(touched):
            error = original.matrix(m.layer, m.name).double() - model.matrix(m.layer, m.name).double()
            up, down, left = correction(error, inputs.of(m).gram, params.rank)
            plan.up[m.key], plan.down[m.key], plan.left[m.key] = up.to(torch.float16), down.to(torch.float16), torch.tensor(left, dtype=torch.float64)
            plan.bits[m.key] = torch.tensor(float(known_bits(model, m) + FACTOR_BITS * numbers(params.rank, m.n_out, m.n_in)))
            progress.step(i + 1, len(touched), f"block {m.layer}, {m.name}")
    return plan


def apply(model: Model, plan: Plan) -> None:
    for key, up in plan.up.items():
        weight = model.matrix(*split_key(key))
        if up.shape[1]:
            model.set_matrix(*split_key(key), weight + (up.float() @ plan.down[key].float()).to(weight))
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(model.matrix(*split_key(key)).numel() for key in plan.bits)
    return Storage(total_bits(plan.bits), weights, False, "what the steps before store, and two thin factors of 16-bit numbers beside it; a little slower than without them")
