"""The mean of several models' weights, each weight counted by how much its own model depends on it.

θ = Σ wᵢ Fᵢ ∘ θᵢ / Σ wᵢ Fᵢ with Fᵢ the diagonal of model i's Fisher information on the text: the squared gradient of the log likelihood of
tokens that the model itself draws, summed over a sequence. Independent draws make the cross terms vanish on average, so one backward
pass a sequence suffices. A floor of `floor` times the model's mean F keeps weights that no text touches at the plain average.

Use it on fine-tunes of one checkpoint with text that all of them know. It does not order units: models trained apart need that first.
Source: Matena & Raffel, “Merging Models with Fisher-Weighted Averaging”, NeurIPS 2022.
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

TITLE = "Fisher average"
PARENTS = (2, 8)
BASED = False
Plan = parents.Merged


@dataclass(frozen=True)
class Params:
    sequences: int = param(32, "Sequences read", first=True, low=1, high=100_000, help="The first of the text, one backward pass each and model")
    weights: tuple[int, ...] = param((), "Relative weights", help="One whole number for each parent; none means equal")
    floor: float = param(1e-3, "Floor, share of the mean", low=1e-9, high=1e3)
    seed: int = param(0, "Seed of the drawn tokens", low=0, high=10**9)


NEUTRAL = (Params(sequences=2), 1e-5)


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    pass


def information(model: Model, ids: torch.Tensor, keep: torch.Tensor, generator: torch.Generator, step=lambda i: None) -> parents.State:
    """The diagonal of the Fisher information per token, float64, by parameter name; ids [sequence, position]."""
    state = {name: p.detach() for name, p in model.module.named_parameters()}
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in state.items()}
    tokens = 0
    for i in range(len(ids)):
        step(i)
        own = {name: p.clone().requires_grad_() for name, p in state.items()}
        n = int(keep[i].sum())
        logits = torch.func.functional_call(model.module, own, kwargs=dict(input_ids=ids[i : i + 1, :n].to(model.device), use_cache=False)).logits[0].float()
        drawn = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=generator)[:, 0].to(logits.device)
        loss = torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")
        for name, g in zip(own, torch.autograd.grad(loss, list(own.values()))):
            total[name] += g.double().square()
        tokens += n
    return {name: t / tokens for name, t in total.items()}


def decide(models: tuple[Model, ...], params: Params, calibration, progress) -> Plan:
    share, given = parents.shares(params.weights, len(models)), parents.states(models)
    ids, keep = calibration.ids[: params.sequences], calibration.keep[: params.sequences]
    above, below = ({name: torch.zeros_like(t) for name, t in given[0].items()} for _ in range(2))
    for i, (model, state, w) in enumerate(zip(models, given, share)):
        step = lambda k: progress.step(i * len(ids) + k, len(models) * len(ids), f"Fisher information of model {i + 1}, sequence {k + 1}")
        found = information(model, ids, keep, torch.Generator().manual_seed(params.seed), step)
        floor = params.floor * sum(float(f.sum()) for f in found.values()) / sum(f.numel() for f in found.values())
        for name, f in found.items():
            above[name] += w * (f + floor) * state[name]
            below[name] += w * (f + floor)
    return parents.plan_of(models, {name: above[name] / below[name].clamp(min=1e-300) for name in above})


def apply(model: Model, plan: Plan) -> None:
    parents.put(model, plan)


def storage(model: Model, plan: Plan) -> Storage:
    return parents.stored(model)


def foresee(params: Params, outline: Outline) -> Outline:
    return parents.same_size(outline)
