"""Task vectors weighted by how each parameter competes, within its task and between tasks.

The first parent is the base. For task i of n: within, exp(n · norm(|τᵢ|)²); between, tanh(τᵢ ∘ Σ τ); their product βᵢ. What lies below the
`keep` share of the largest β becomes the lowest weight, and β scaled to 0–1 weighs: τ = Σ βᵢ τᵢ / Σ βᵢ, θ = base + scale · τ; norm scales a task vector
to 0–1 over the whole model. Sizes beyond the smallest and largest 0.01 % are clamped first.

Use it for several fine-tunes of one checkpoint without text to tune on. Not for a single one: there is nothing to compete with.
Source: Du et al., “Parameter Competition Balancing for Model Merging”, NeurIPS 2024, and its published code.
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

TITLE = "PCB"
PARENTS = (2, 8)
BASED = True
Plan = parents.Merged


@dataclass(frozen=True)
class Params:
    keep: float = param(0.1, "Share of parameters that weigh", first=True, low=0.001, high=1.0)
    scale: float = param(1.0, "Scale of the merged vector", first=True, low=-5.0, high=5.0)


NEUTRAL = (Params(), 0.0)


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    pass


CLAMPED = 1e-4  # share at each end


def balance(tasks: torch.Tensor, keep: float) -> torch.Tensor:
    """The merged vector [parameter] of tasks [task, parameter]."""
    sizes = torch.stack([clamped(t.abs(), CLAMPED, CLAMPED) for t in tasks])
    within = torch.stack([torch.exp(len(tasks) * scaled(s) ** 2) for s in sizes])
    beta = within * torch.tanh(tasks * tasks.sum(0))
    weight = torch.stack([scaled(clamped(b, 1 - keep, 0.0)) for b in beta])
    return (tasks.sign() * sizes * weight).sum(0) / weight.sum(0).clamp(min=1e-12)


def clamped(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """x [n] within its values at ranks ⌊low · n⌋ and n − 1 − ⌊high · n⌋."""
    n = len(x)
    at = lambda i: x.kthvalue(min(max(i, 0), n - 1) + 1).values
    return x.clamp(at(int(n * low + 1e-9)), at(n - 1 - int(n * high + 1e-9)))


def scaled(x: torch.Tensor) -> torch.Tensor:
    """x [n] to 0–1; all 0 where it is constant."""
    low, high = x.aminmax()
    return (x - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny)


def decide(models: tuple[Model, ...], params: Params, calibration, progress) -> Plan:
    base, tasks = parents.task_vectors(models)
    merged = parents.unflat(balance(torch.stack([parents.flat(t) for t in tasks]), params.keep), base)
    return parents.plan_of(models, {name: base[name] + params.scale * merged[name] for name in base})


def apply(model: Model, plan: Plan) -> None:
    parents.put(model, plan)


def storage(model: Model, plan: Plan) -> Storage:
    return parents.stored(model)


def foresee(params: Params, outline: Outline) -> Outline:
    return parents.same_size(outline)
