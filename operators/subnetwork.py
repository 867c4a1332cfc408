"""Keep only a few weights: those that imitate a bigram table or the model itself, or everything but those.

One mask logit per attention and MLP weight is trained with the weights frozen (continuous sparsification; Chang & Bergen, “Bigram
subnetworks”, arXiv 2504.15471). The table is counted on the calibration text, which is also the text to train on, so give it
enough: on=demo/stories:train:1000x128. A larger λ keeps fewer weights. Shown can be the subnetwork alone, the model without it,
or either with as many random weights of each matrix instead: the controls.

Use it to run any analysis on a bigram subnetwork, or on the model that lost it: what else breaks? It is a probe, not a way to a
smaller model that still works; “model” as target prunes for that, and the pruning operators do it faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics import subnetworks
from metrics.mask_training import Schedule, Wish, train
from metrics.sparsity import mask_bits, pack, unpack
from metrics.stored_bits import note_bits, split_key, total_bits, value_bits
from models.bigrams import count
from models.loaded import Model
from models.params import param
from models.shape import Shape, shape_of
from operators.contract import Storage, sparse_storage

TITLE = "Subnetwork"


@dataclass(frozen=True)
class Params:
    penalty: float = param(100.0, "λ", first=True, low=0.0, high=1e9, help="Price of the weights; the loss has λ/n · Σ mask")
    shown: Literal["alone", "without", "random-alone", "without-random"] = param("alone", "Shown", first=True, help="The subnetwork, the model without it, or the same with random weights")
    target: Literal["bigram", "model"] = param("bigram", "Imitates", first=True)
    steps: int = param(200, "Steps at most", low=1, high=100_000)
    rows: int = param(2, "Sequences in a batch", low=1, high=1024)
    rate: float = param(0.01, "Learning rate of the mask logits", low=0.0, high=10.0)
    growth: float = param(1.03819, "Growth of T per step", low=1.0, high=2.0)


NEUTRAL = None


@dataclass(frozen=True, eq=False)
class Plan:
    kept: dict[str, torch.Tensor]  # packed masks of what is shown, uint8 [out, ceil(in/8)]
    bits: dict[str, torch.Tensor]


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    shape.chosen("all")


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    ids, keep = calibration.ids, calibration.keep.clone()
    if model.tokenizer is not None and model.tokenizer.bos_token_id is not None:
        keep[:, 0] &= ids[:, 0] != model.tokenizer.bos_token_id  # what stands before a cut piece of text has no successor in it
    table = count([row[kept].tolist() for row, kept in zip(ids, keep)], model.config.vocab_size, "calibration")
    schedule = Schedule(params.steps, params.rows, params.rate, params.growth, reattain=params.steps // 10)
    (trained,) = train(model, ids, keep, table, [Wish(params.penalty, params.target)], schedule, progress)
    shape = shape_of(model)
    masks = subnetworks.unpacked(trained.kept, shape)
    if "random" in params.shown:
        masks = subnetworks.shuffled(masks, 0, {m.key: model.matrix(m.layer, m.name).cpu() != 0 for m in shape.matrices})
    if params.shown.startswith("without"):
        masks = subnetworks.complement(masks)
    bits = {m.key: torch.tensor(mask_bits(masks[m.key], value_bits(model, m), "unstructured")) for m in shape.matrices}
    return Plan({key: pack(mask) for key, mask in masks.items()}, bits)


def apply(model: Model, plan: Plan) -> None:
    for key, packed in plan.kept.items():
        weight = model.matrix(*split_key(key))
        model.set_matrix(*split_key(key), weight * unpack(packed.to(weight.device), weight.shape[1]))
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    return sparse_storage(total_bits(plan.bits), sum(model.matrix(*split_key(key)).numel() for key in plan.kept), "unstructured")
