"""Add what fine-tunes learned: the first parent is the base, the others are its fine-tunes.

θ = base + scale · Σ (θᵢ − base). With one fine-tune and a negative scale its task is taken away instead. No text is read.

Use it where all parents come from one checkpoint; it is the baseline of TIES, Breadcrumbs and PCB. Not for models trained apart: their
differences from anything are not directions of a task.
Source: Ilharco et al., “Editing models with task arithmetic”, ICLR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape
from operators.contract import Storage
from operators.merging import parents

TITLE = "Task arithmetic"
PARENTS = (2, 8)
BASED = True
Plan = parents.Merged


@dataclass(frozen=True)
class Params:
    scale: float = param(0.4, "Scale of the task vectors", first=True, low=-5.0, high=5.0)


NEUTRAL = (Params(), 0.0)


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    pass


def decide(models: tuple[Model, ...], params: Params, calibration, progress) -> Plan:
    base, tasks = parents.task_vectors(models)
    return parents.plan_of(models, {name: base[name] + params.scale * sum(t[name] for t in tasks) for name in base})


def apply(model: Model, plan: Plan) -> None:
    parents.put(model, plan)


def storage(model: Model, plan: Plan) -> Storage:
    return parents.stored(model)


def foresee(params: Params, outline: Outline) -> Outline:
    return parents.same_size(outline)
