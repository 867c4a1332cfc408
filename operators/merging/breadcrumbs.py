"""Task vectors without their smallest and their largest entries, layer by layer.

The first parent is the base. In each parameter tensor of each task vector the `small` share of entries with the smallest size and the
`large` share with the largest become 0: the small are noise, the large are outliers of one task. θ = base + scale · Σ masked τᵢ.

Use it where a scale must serve many fine-tunes at once. Not where a few large weights are the task.
Source: Davari & Belilovsky, “Model Breadcrumbs”, ECCV 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import Refused
from models.shape import Shape
from operators.contract import Storage
from operators.merging import parents

TITLE = "Breadcrumbs"
PARENTS = (2, 8)
BASED = True
Plan = parents.Merged


@dataclass(frozen=True)
class Params:
    small: float = param(0.85, "Smallest share removed", first=True, low=0.0, high=0.999)
    large: float = param(0.01, "Largest share removed", first=True, low=0.0, high=0.5)
    scale: float = param(0.4, "Scale of the task vectors", first=True, low=-5.0, high=5.0)


NEUTRAL = (Params(), 0.0)


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    if params.small + params.large >= 1:
        raise Refused(f"small = {params.small} and large = {params.large} leave nothing of a task vector; together they must stay below 1.")


def crumbs(task: torch.Tensor, small: float, large: float) -> torch.Tensor:
    """One tensor of a task vector without its ⌊small · n⌋ smallest and ⌊large · n⌋ largest entries; of equal ones the first count as smaller."""
    order = task.abs().reshape(-1).argsort(stable=True)
    n = len(order)
    keep = torch.zeros(n, dtype=torch.bool, device=task.device)
    keep[order[int(small * n + 1e-9) : n - int(large * n + 1e-9)]] = True
    return task * keep.view(task.shape)


def decide(models: tuple[Model, ...], params: Params, calibration, progress) -> Plan:
    base, tasks = parents.task_vectors(models)
    return parents.plan_of(models, {name: base[name] + params.scale * sum(crumbs(t[name], params.small, params.large) for t in tasks) for name in base})


def apply(model: Model, plan: Plan) -> None:
    parents.put(model, plan)


def storage(model: Model, plan: Plan) -> Storage:
    return parents.stored(model)


def foresee(params: Params, outline: Outline) -> Outline:
    return parents.same_size(outline)
