"""Task vectors without what contradicts: trim, elect a sign, mean of those that agree.

The first parent is the base. Of each task vector the `keep` largest entries (by size, over the whole model) stay; for each parameter the
sign with the larger sum wins, γ = sgn Σ τᵢ (where the sum is 0, the sign of the majority); the merged vector is the mean of the entries
that are not 0 and have this sign. θ = base + scale · τ.

Use it for several fine-tunes of one checkpoint that pull in different directions. Not for one fine-tune, where only the trimming is left.
Source: Yadav et al., “TIES-Merging”, NeurIPS 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape
from operators.contract import Storage
from operators.merging import parents

TITLE = "TIES"
PARENTS = (2, 8)
BASED = True
Plan = parents.Merged


@dataclass(frozen=True)
class Params:
    keep: float = param(0.2, "Share of each task vector kept", first=True, low=0.001, high=1.0)
    scale: float = param(1.0, "Scale of the merged vector", first=True, low=-5.0, high=5.0)


NEUTRAL = (Params(), 0.0)


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    pass


def elect(tasks: torch.Tensor, keep: float) -> torch.Tensor:
    """The merged vector [parameter] of tasks [task, parameter]."""
    n = max(1, round(keep * tasks.shape[1]))
    kept = torch.stack([t * (t.abs() >= t.abs().kthvalue(len(t) - n + 1).values) for t in tasks])
    sign = kept.sum(0).sign()
    sign[sign == 0] = sign.sum().sign()
    agree = kept * ((kept.sign() == sign) & (kept != 0))
    return agree.sum(0) / (agree != 0).sum(0).clamp(min=1)


def decide(models: tuple[Model, ...], params: Params, calibration, progress) -> Plan:
    base, tasks = parents.task_vectors(models)
    merged = parents.unflat(elect(torch.stack([parents.flat(t) for t in tasks]), params.keep), base)
    return parents.plan_of(models, {name: base[name] + params.scale * merged[name] for name in base})


def apply(model: Model, plan: Plan) -> None:
    parents.put(model, plan)


def storage(model: Model, plan: Plan) -> Storage:
    return parents.stored(model)


def foresee(params: Params, outline: Outline) -> Outline:
    return parents.same_size(outline)
