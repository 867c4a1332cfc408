"""Two models merged in part: well-matched MLP units become one, the others are kept of both, and the weights are fitted to the text.

B's units are put in A's order. In each MLP the `partial` share of pairs with the lowest cosine of weights stays apart: both units are
kept, each writing half, beside the mean of the others, so the MLP grows to (1 + partial) its width; all else is the mean. Then
each matrix is fitted: ridge regression, towards the merged weights, of the parents' mean outputs on their mean inputs (in A's order),
W = W̄ + (Z Xᵀ − W̄ X Xᵀ)(X Xᵀ + damping)⁻¹, with a bias where the architecture has one. 0 without fitting is the average after ordering.

Use it for two models trained apart when some more room is allowed. Not for heads and the stream: their number is the architecture's, so
they are merged whole. One pass and closed form; the paper fits by gradient and finds the layers' shares from a budget.
Source: Nasery, Hayase, Koh & Oh, “PLeaS”, CVPR 2025.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from metrics.calibration import require_text
from metrics.permutation.activations import activation_matching
from metrics.permutation.matching import gains, weight_matching
from metrics.permutation.spec import Maps, apply as reorder
from metrics.permutation.transformer import Symmetry, checked, symmetry_of
from metrics.permutation.units import cosines
from metrics.stored_bits import dtype_bits
from models.layout import is_conv1d
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape
from operators.contract import Storage
from operators.merging import fitting, parents

TITLE = "Partial merge (PLeaS)"
PARENTS = (2, 2)
BASED = False


@dataclass(frozen=True)
class Params:
    partial: float = param(0.25, "Share of MLP units kept of both", first=True, low=0.0, high=1.0)
    fit: bool = param(True, "Least squares on the text", first=True)
    align: Literal["weights", "activations"] = param("weights", "Units ordered by", first=True)
    damping: float = param(0.1, "Damping, share of the mean input", low=1e-6, high=1e6)


NEUTRAL = (Params(), 1e-2)


@dataclass(frozen=True, eq=False)
class Plan:
    tensors: dict[str, torch.Tensor]
    untied: bool
    removed: tuple
    width: int  # of each MLP


def calibrated(params: Params) -> bool:
    return params.fit or params.align == "activations"


def check(params: Params, shape: Shape) -> None:
    pass


def decide(models: tuple[Model, ...], params: Params, calibration, progress) -> Plan:
    parents.require_parents(models)
    a, b = models
    symmetry = checked(a, symmetry_of(a))
    if calibrated(params):
        require_text(calibration)
    one, other = symmetry.pieces(a), symmetry.pieces(b)
    maps = (weight_matching(symmetry.spec, one, other, progress=progress).maps if params.align == "weights"
            else activation_matching(a, b, symmetry, calibration.ids, calibration.keep, progress=progress))
    moved = symmetry.permuted(b, maps, "B in A's order")
    orders = apart(symmetry, one, other, maps, params.partial)
    tensors = joined_mean(a, moved, orders)
    if params.fit:
        tensors |= fitting.fitted(a, moved, orders, tensors, params.damping, calibration.ids, calibration.keep, progress)
    made = parents.plan_of(models, tensors)
    return Plan(made.tensors, False, made.removed, sum(len(x) for x in orders[0]))


def apart(symmetry: Symmetry, a: parents.State, b: parents.State, maps: Maps, partial: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each block (units merged in pairs, units kept of both), in A's numbering: the worst-matched `partial` share stays apart."""
    out = []
    for layer in range(symmetry.n_layers):
        space = f"mlp.{layer}"
        n = symmetry.spec.sizes[space]
        cosine = cosines(symmetry.spec, a, b, gains(symmetry.spec, a, b, maps, space)[space], space)
        order = torch.from_numpy(np.argsort(cosine[np.arange(n), maps[space].numpy()], kind="stable"))
        k = round(partial * n)
        kept = order[:k].sort().values
        out.append((order[k:].sort().values, torch.cat([kept, kept])))
    return out


def joined_mean(a: Model, b: Model, orders: list[tuple[torch.Tensor, torch.Tensor]]) -> parents.State:
    """All parameters of the merged model before fitting, float64; b in a's order."""
    first, second = parents.states((a, b))
    out = {name: (first[name] + second[name]) / 2 for name in first}
    layout = a.layout
    for layer, (pairs, both) in enumerate(orders):
        kept = both[: len(both) // 2]
        for name in filter(None, (layout.mlp_input, layout.mlp_gated, layout.mlp_output)):
            module = a.blocks[layer].get_submodule(name)
            for kind in ("weight", "bias"):
                path = f"{layout.blocks}.{layer}.{name}.{kind}"
                if path not in first or (name == layout.mlp_output and kind == "bias"):
                    continue
                reads = name == layout.mlp_output
                axis = 0 if kind == "bias" else int(reads) ^ int(is_conv1d(module))
                half = 0.5 if reads else 1.0
                parts = [out[path].index_select(axis, pairs), half * first[path].index_select(axis, kept), half * second[path].index_select(axis, kept)]
                out[path] = torch.cat(parts, axis)
    return out


def apply(model: Model, plan: Plan) -> None:
    layout = model.layout
    for block in model.blocks:
        for name in filter(None, (layout.mlp_input, layout.mlp_gated, layout.mlp_output)):
            widen(block.get_submodule(name), plan.width, reads=name == layout.mlp_output)
    for field in ("n_inner", "intermediate_size"):
        if hasattr(model.config, field):
            setattr(model.config, field, plan.width)
    parents.put(model, plan)


def widen(module: torch.nn.Module, width: int, reads: bool) -> None:
    """Give a linear module this many inputs or outputs; its values are set afterwards."""
    rows = int(reads) ^ int(is_conv1d(module))
    shape = list(module.weight.shape)
    shape[rows] = width
    module.weight = torch.nn.Parameter(module.weight.new_zeros(shape), requires_grad=False)
    if not reads and module.bias is not None:
        module.bias = torch.nn.Parameter(module.bias.new_zeros(width), requires_grad=False)
    for field in (("nx",) if reads else ("nf",)) if is_conv1d(module) else (("in_features",) if reads else ("out_features",)):
        if hasattr(module, field):
            setattr(module, field, width)


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(p.numel() for p in model.module.parameters())
    made = sum(t.numel() for t in plan.tensors.values()) + sum(p.numel() for name, p in model.module.named_parameters() if name not in plan.tensors)
    return Storage(float(made * dtype_bits(model)), weights, False, "all weights at the model's dtype; MLPs are wider where units of both parents are kept")


def foresee(params: Params, outline: Outline) -> Outline:
    return replace(parents.same_size(outline), known=params.partial == 0)  # wider than a parent otherwise
