"""Write the same matrix of all blocks as combinations of a few shared atoms: W_block = Σ_s c_block,s · D_s.

For each projection (queries, keys, values, output; each MLP matrix) by itself the matrices of the blocks are laid out as vectors, and the
atoms are their leading directions: orthonormal, the best `atoms` of them for the squared error, which is the sum of the squares of the
singular values left out. With as many atoms as blocks nothing changes; equal blocks need one. `span` gives runs of so many
consecutive blocks a dictionary each. The residual's low rank of the paper is a step of its own: put error_correction after.

Use it to see how much blocks have in common, and before healing. Without the residual it hurts more than it saves: the matrices of
trained blocks are nearly orthogonal to one another, so each atom left out costs about what a block's matrix holds. Nor for speed.
Source: “Share Your Attention: Transformer Weight Sharing via Matrix-based Dictionary Learning” (MASA), arXiv 2508.04581, its matrix PCA
for pretrained models; the blocks of a dictionary are runs here, not chosen by their predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from metrics.solvers import oriented
from metrics.stored_bits import dtype_bits, note_bits, split_key, total_bits, value_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Matrix, Shape, parts_by_key, shape_of
from operators.contract import Storage

TITLE = "Matrix atoms"


@dataclass(frozen=True)
class Params:
    atoms: int = param(4, "Atoms", first=True, low=1, high=1024, help="For each projection and dictionary; as many as blocks changes nothing")
    span: int = param(0, "Blocks per dictionary", first=True, low=0, high=1024, help="Consecutive blocks with a dictionary of their own; 0 is one for all")
    which: Literal["all", "attn", "mlp"] = param("attn", "Matrices")


NEUTRAL = (Params(atoms=1024), 0.0)
TOGETHER = True  # what is stored serves several blocks
SWEEP = ("atoms=5", "atoms=4", "atoms=3")


@dataclass(frozen=True, eq=False)
class Plan:
    atoms: dict[str, torch.Tensor]  # by projection and first block, "self_attn.q_proj@0": [atom, rows, in] float32, orthonormal
    values: dict[str, torch.Tensor]  # the same: singular values of the stacked matrices, float64
    coefficients: dict[str, torch.Tensor]  # by part of a block's matrix: [atom] float32
    dictionary: dict[str, str]  # by part of a block's matrix: which atoms
    bits: dict[str, torch.Tensor]  # the dictionary's, divided evenly among its blocks


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    shape.chosen(params.which)


def runs(params: Params, shape: Shape) -> list[list[Matrix]]:
    """The matrices that share atoms, block by block."""
    chosen = shape.chosen(params.which)
    found = []
    for name in dict.fromkeys(m.name for m in chosen):
        same = [m for m in chosen if m.name == name]
        span = params.span or len(same)
        found += [same[i:i + span] for i in range(0, len(same), span)]
    return found


def run_bits(params: Params, run: list[Matrix], dense: int, before: Callable[[Matrix], float]) -> dict[Matrix, float]:
    """Bits of each matrix of a run; `before` is what a weight takes where it stays as it is."""
    if params.atoms >= len(run):
        return {m: m.n_out * m.n_in * before(m) for m in run}
    parts = 3 if run[0].name in ("attn.c_attn", "attention.query_key_value") else 1
    return {m: dense * params.atoms * (m.n_out * m.n_in / len(run) + parts) for m in run}


def foresee(params: Params, outline: Outline) -> Outline:
    return outline.storing({m: b for run in runs(params, outline.shape) for m, b in run_bits(params, run, outline.dense, outline.value_bits).items()})


def decompose(stack: torch.Tensor, atoms: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(atoms [atom, rows, in] orthonormal, coefficients [block, atom], singular values [block]) of matrices [block, rows, in], float64.
    Solved in the space of blocks, which are few."""
    flat = stack.to(torch.float64).flatten(1)
    values, vectors = torch.linalg.eigh(flat @ flat.T)
    values, vectors = values.flip(0).clamp(min=0).sqrt(), oriented(vectors.flip(1))
    used = vectors[:, :atoms]
    found = torch.where(values[:atoms, None] > 1e-12 * values[0], used.T @ flat / values[:atoms, None].clamp(min=1e-300), 0.0)
    return found.view(-1, *stack.shape[1:]), used * values[:atoms], values


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    shape, plan = shape_of(model), Plan({}, {}, {}, {}, {})
    found = runs(params, shape)
    for i, run in enumerate(found):
        if params.atoms < len(run):
            keys = [parts_by_key(shape, m) for m in run]
            for part in range(len(keys[0])):
                names, rows = zip(*(list(k.items())[part] for k in keys))
                stack = torch.stack([model.matrix(m.layer, m.name)[r] for m, r in zip(run, rows)])
                atoms, coefficients, values = decompose(stack, params.atoms)
                where = f"{names[0].partition('.')[2]}@{run[0].layer}"
                plan.atoms[where], plan.values[where] = atoms.float(), values
                plan.coefficients.update({name: c.float() for name, c in zip(names, coefficients)})
                plan.dictionary.update(dict.fromkeys(names, where))
        plan.bits.update({m.key: torch.tensor(float(b)) for m, b in run_bits(params, run, dtype_bits(model), lambda m: value_bits(model, m)).items()})
        progress.step(i + 1, len(found), run[0].name)
    return plan


def apply(model: Model, plan: Plan) -> None:
    shape = shape_of(model)
    for m in shape.matrices:
        parts = {key: rows for key, rows in parts_by_key(shape, m).items() if key in plan.dictionary}
        if parts:
            new = model.matrix(m.layer, m.name).clone()
            for key, rows in parts.items():
                new[rows] = torch.einsum("s,soi->oi", plan.coefficients[key], plan.atoms[plan.dictionary[key]]).to(new)
            model.set_matrix(m.layer, m.name, new)
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(model.matrix(*split_key(key)).numel() for key in plan.bits)
    return Storage(total_bits(plan.bits), weights, False, "the atoms once and a few coefficients a block; only smaller, each block's matrix is summed up when loaded")
