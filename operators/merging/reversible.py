"""Not one set of weights but a small basis from which each parent comes back: θᵢ ≈ Σₖ cᵢₖ Bₖ.

Row by row of every matrix [out, in] (vectors whole) the n parents' rows are the columns of X [in, n]; its best approximation of rank `basis` is that of
the singular value decomposition, X ≈ B C with B the leading left vectors times their values and C [basis, n] the coefficients of each
parent. With `basis` = n every parent comes back exactly, with 1 they share one direction and differ by a factor. This variant
is the parent number `restore`; all n of them need the same basis, which is what is stored.

Use it where several fine-tunes must be kept in the room of a few and no merged model will do. Not to get one model for all tasks.
Source: Alipour & Amiri, “Towards Reversible Model Merging for Low-rank Weights”, 2025 (arXiv 2510.14163), there on the rows and columns of low-rank
factors of differences to a base; here on whole weights, after the first parent's order of units where asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.stored_bits import dtype_bits
from models.layout import is_conv1d
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import Refused
from models.shape import Shape
from operators.contract import Storage
from operators.merging import parents

TITLE = "Reversible basis"
PARENTS = (2, 8)
BASED = False


@dataclass(frozen=True)
class Params:
    basis: int = param(1, "Models' worth of basis", first=True, low=1, high=8)
    restore: int = param(0, "Parent restored", first=True, low=0, high=7, help="0 is the first")
    align: Literal["none", "weights"] = param("none", "Units ordered by")


NEUTRAL = (Params(), 1e-3)


@dataclass(frozen=True, eq=False)
class Plan:
    """The restored parent's tensors, as a merge's; numbers in the basis and in the coefficients of all parents."""

    tensors: dict[str, torch.Tensor]
    untied: bool
    removed: tuple
    numbers: int
    n_parents: int


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    pass


def restored(x: torch.Tensor, basis: int, which: int) -> torch.Tensor:
    """Parent `which` from a basis of x [..., in, n]: the best approximation of rank `basis` of each [in, n], one column of it."""
    values, c = torch.linalg.eigh(x.mT @ x)  # n × n: right singular vectors, ascending
    leading = c[..., -basis:]
    return (x @ leading @ leading.mT)[..., which]


def decide(models: tuple[Model, ...], params: Params, calibration, progress) -> Plan:
    n = len(models)
    if params.restore >= n or params.basis > n:
        raise Refused(f"restore = {params.restore} and basis = {params.basis} do not fit {n} parents; expected restore up to {n - 1} and basis up to {n}.")
    given, untied = parents.ordered(models, params.align, "permuted", 0, calibration, progress)
    tensors, numbers = {}, 0
    turned = {f"{path}.weight" for path, module in models[0].module.named_modules() if is_conv1d(module)}  # stored [in, out]
    for i, name in enumerate(given[0]):
        progress.step(i, len(given[0]), f"basis of {name}")
        x = torch.stack([s[name].T if name in turned else s[name] for s in given], -1)  # [out, in, parent]
        back = restored(x, params.basis, params.restore)
        tensors[name] = back.T if name in turned else back
        rows = x[..., 0].numel() // x.shape[-2]
        numbers += params.basis * x[..., 0].numel() + params.basis * n * rows
    made = parents.plan_of(models, tensors, untied)
    return Plan(made.tensors, made.untied, made.removed, numbers, n)


def apply(model: Model, plan: Plan) -> None:
    parents.put(model, plan)


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(p.numel() for p in model.module.parameters())
    how = f"basis and coefficients that give back all {plan.n_parents} parents, at the model's dtype; one parent alone would need no basis"
    return Storage(float(plan.numbers * dtype_bits(model)), weights, False, how)


def foresee(params: Params, outline: Outline) -> Outline:
    return parents.same_size(outline)
