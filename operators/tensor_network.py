"""Write each matrix as a matrix product operator: a chain of small tensors tied by bonds, cut to a bond dimension.

Outputs and inputs are split into factors (160 = 10·16), W is read as a tensor with one output and one input factor at each site, and
singular value decompositions from the left separate the sites; of each only `bond` values stay, and the squared error is the sum of the
squares cut off. With two cores that is the best sum of `bond` Kronecker products; a bond of 1 stores one Kronecker product exactly.
Where the cores would be larger than the matrix, it stays dense. Fused Q, K, V are split first.

Use it to ask how much of a matrix is structure between coarse and fine indices, and before healing: the method is meant to be trained
afterwards. It looks at weights alone, so low_rank with a text is the first thing to compare. Not for speed: run core by core it takes
more operations than the dense matrix, so the chain is multiplied out when loaded.
Source: Tomut et al., “CompactifAI”, 2024 (which matrices, bond dimension as the dial); Oseledets, “Tensor-Train Decomposition”, 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.damage import relative
from metrics.matrix_product import chain, multiplied, n_numbers, site_sizes
from metrics.stored_bits import dtype_bits, known_bits, note_bits, split_key, total_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Matrix, Shape, part_rows, parts_by_key, shape_of
from operators.contract import Storage

TITLE = "Tensor network"


@dataclass(frozen=True)
class Params:
    bond: int = param(64, "Bond dimension", first=True, low=1, high=65_536)
    cores: int = param(2, "Cores", first=True, low=2, high=4, help="Tensors in the chain of one matrix")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")


NEUTRAL = (Params(bond=65_536), 0.0)  # every chain would be larger than its matrix
SWEEP = ("bond=64", "bond=32", "bond=16", "bond=32,cores=3")


@dataclass(frozen=True, eq=False)
class Plan:
    """Keys are layer.name, with :q, :k, :v for the parts of a fused matrix; parts that stay dense have no cores."""

    cores: dict[str, torch.Tensor]  # "part/0", "part/1", …: [bond, o, i, bond'] float32
    spectrum: dict[str, torch.Tensor]  # "part/0", …: singular values at the cut after that core, float64, before truncation
    error: dict[str, torch.Tensor]  # by part: ‖W' − W‖ / ‖W‖, float64
    bits: dict[str, torch.Tensor]


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    shape.chosen(params.which)


def numbers(params: Params, n_out: int, n_in: int) -> int | None:
    """Numbers in the chain of a matrix; None where that is not less than the matrix has."""
    n = n_numbers(site_sizes(n_out, n_in, params.cores), params.bond)
    return n if n < n_out * n_in else None


def foresee(params: Params, outline: Outline) -> Outline:
    def bits(m: Matrix) -> float:
        if outline.value_bits(m) == 0:
            return 0.0
        return float(outline.dense * sum(numbers(params, n, m.n_in) or n * m.n_in for n in part_rows(m)))

    return outline.storing({m: bits(m) for m in outline.shape.chosen(params.which)})


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    shape, plan = shape_of(model), Plan({}, {}, {}, {})
    chosen = shape.chosen(params.which)
    for i, m in enumerate(chosen):
        weight, stored = model.matrix(m.layer, m.name), 0
        for key, rows in parts_by_key(shape, m).items():
            n = numbers(params, len(rows), m.n_in)
            stored += n or len(rows) * m.n_in
            if n is not None:
                cores, spectra = chain(weight[rows], site_sizes(len(rows), m.n_in, params.cores), params.bond)
                plan.cores.update({f"{key}/{k}": core.float() for k, core in enumerate(cores)})
                plan.spectrum.update({f"{key}/{k}": values for k, values in enumerate(spectra)})
                plan.error[key] = torch.tensor(relative(multiplied(cores) - weight[rows].double(), weight[rows].double()), dtype=torch.float64)
        plan.bits[m.key] = torch.tensor(0.0 if known_bits(model, m) == 0 else float(stored * dtype_bits(model)))
        progress.step(i + 1, len(chosen), f"block {m.layer}, {m.name}")
    return plan


def rebuilt(plan: Plan, key: str) -> torch.Tensor:
    """The part [rows, in] in float32."""
    n = sum(name.rpartition("/")[0] == key for name in plan.cores)
    return multiplied([plan.cores[f"{key}/{k}"] for k in range(n)])


def apply(model: Model, plan: Plan) -> None:
    shape = shape_of(model)
    for m in shape.matrices:
        keys = {key: rows for key, rows in parts_by_key(shape, m).items() if key in plan.error}
        if keys:
            new = model.matrix(m.layer, m.name).clone()
            for key, rows in keys.items():
                new[rows] = rebuilt(plan, key).to(new)
            model.set_matrix(m.layer, m.name, new)
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(model.matrix(*split_key(key)).numel() for key in plan.bits)
    return Storage(total_bits(plan.bits), weights, False, "the cores of each chain at the model's dtype; only smaller, multiplied out when loaded")
