"""Zero the smallest weights.

Score |W_ij|; the lowest share `sparsity` is set to zero, compared within each output row, within each matrix (`layer`, the
usual baseline) or over all matrices at once (`global`). Patterns 2:4 and 4:8 keep the largest 2 of every 4, or 4 of every 8,
consecutive inputs, whatever the scope. The count of zeros is exact; ties go to the lower index; nothing is calibrated.

Use it as the baseline every other pruner has to beat, and at low sparsity. Not with `global` on large models, whose layers
of small weights it wipes out, and not where a few input channels are much larger than the rest: Wanda sees those.
Source: Han et al., NeurIPS 2015; the layer-wise baseline of Sun et al., ICLR 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.sparsity import keep_by, keep_in_all, mask_bits, pack, unpack
from metrics.stored_bits import note_bits, split_key, total_bits, value_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape, shape_of
from operators.contract import Storage, foresee_mask, require_whole_groups, sparse_storage

TITLE = "Magnitude pruning"


@dataclass(frozen=True)
class Params:
    sparsity: float = param(0.5, "Share of zeros", first=True, low=0.0, high=0.99)
    pattern: Literal["unstructured", "2:4", "4:8"] = param("unstructured", "Pattern", first=True, help="N:M keeps N of every M consecutive inputs; the share of zeros is then one half")
    scope: Literal["row", "layer", "global"] = param("layer", "Compared within", help="An output row, a matrix, or the whole model")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")


NEUTRAL = (Params(sparsity=0.0), 0.0)
SWEEP = ("sparsity=0.3", "sparsity=0.5", "sparsity=0.7", "pattern=2:4")


@dataclass(frozen=True, eq=False)
class Plan:
    kept: dict[str, torch.Tensor]  # packed masks, uint8 [out, ceil(in/8)]
    bits: dict[str, torch.Tensor]
    pattern: str


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    require_whole_groups(shape.chosen(params.which), params.pattern)


def foresee(params: Params, outline: Outline) -> Outline:
    return foresee_mask(outline, outline.shape.chosen(params.which), params.sparsity, params.pattern)


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    chosen = shape_of(model).chosen(params.which)
    scores = [model.matrix(m.layer, m.name).abs() for m in chosen]
    if params.pattern != "unstructured" or params.scope == "row":
        masks = [keep_by(s, params.sparsity, params.pattern) for s in scores]
    elif params.scope == "layer":
        masks = [keep_in_all([s], params.sparsity)[0] for s in scores]
    else:
        masks = keep_in_all(scores, params.sparsity)
    bits = {m.key: torch.tensor(mask_bits(k, value_bits(model, m), params.pattern)) for m, k in zip(chosen, masks)}
    return Plan({m.key: pack(k) for m, k in zip(chosen, masks)}, bits, params.pattern)


def apply(model: Model, plan: Plan) -> None:
    for key, packed in plan.kept.items():
        weight = model.matrix(*split_key(key))
        model.set_matrix(*split_key(key), weight * unpack(packed.to(weight.device), weight.shape[1]))
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    return sparse_storage(total_bits(plan.bits), sum(model.matrix(*split_key(key)).numel() for key in plan.kept), plan.pattern)
