"""The mean of several models' weights, after their units have been put in one order.

θ = Σ wᵢ πᵢ(θᵢ) with shares w. Without alignment this is a plain average: right for fine-tunes of one checkpoint, ruinous for
models trained apart, whose units are in unrelated orders. `align` puts the units of all others in the first one's order: by weights
(Git Re-Basin), by activations on the text, learned from the loss of the merged model on the text (Sinkhorn, straight through), or
all at each other's mean (MergeMany). With a rotated stream all norms are folded first and tied embeddings come apart.

Use it to see how far two models are one model in two orders; with `learned` and a rotated stream where a usable merge is wanted. Not as
proof of it: transformers trained apart keep a barrier under every order that is known.
Sources: Wortsman et al., ICML 2022 (soups); Ainsworth et al., ICLR 2023; Peña et al., CVPR 2023; Theus et al., NeurIPS 2025 (rotation).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape
from operators.contract import Storage
from operators.merging import parents

TITLE = "Average"
PARENTS = (2, 8)
BASED = False
Plan = parents.Merged


@dataclass(frozen=True)
class Params:
    align: Literal["none", "weights", "activations", "learned", "merge_many"] = param("none", "Units ordered by", first=True)
    stream: Literal["permuted", "rotated"] = param("permuted", "Residual stream", first=True, help="Rotated: norms are folded into the matrices, tied embeddings come apart")
    weights: tuple[int, ...] = param((), "Relative weights", help="One whole number for each parent, such as 3.1; none means equal shares")
    steps: int = param(40, "Learning steps", low=1, high=100_000, help="Of the learned order")


NEUTRAL = (Params(), 0.0)


def calibrated(params: Params) -> bool:
    return params.align in ("activations", "learned")


def check(params: Params, shape: Shape) -> None:
    pass


def decide(models: tuple[Model, ...], params: Params, calibration, progress) -> Plan:
    share = parents.shares(params.weights, len(models))
    given, untied = parents.ordered(models, params.align, params.stream, params.steps, calibration, progress)
    return parents.plan_of(models, {name: sum(w * s[name] for w, s in zip(share, given)) for name in given[0]}, untied)


def apply(model: Model, plan: Plan) -> None:
    parents.put(model, plan)


def storage(model: Model, plan: Plan) -> Storage:
    return parents.stored(model)


def foresee(params: Params, outline: Outline) -> Outline:
    untied = params.align != "none" and params.stream == "rotated"
    return replace(parents.same_size(outline), known=not untied)  # a head that comes apart is not in the outline
