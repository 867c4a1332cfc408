"""Split each matrix into three by the size of its weights and quantise each third on its own grid.

One-dimensional k-means (k = 3, started at quantiles, run to convergence) on all weights of a matrix; lower, middle and upper
cluster become three matrices with zeros elsewhere, each rounded on one asymmetric grid for the whole matrix, and added up.
The three parts sum to W exactly before rounding, their supports are disjoint. Every part holds zeros, so every range includes
0 and the outer clusters gain less than one hopes. Stored as published, three dense tensors take 3·b bits a weight; counted
here is the smallest coding, b bits and the cluster's index as a base-3 digit, five to a byte: b + 1.6.

Use it where only one scale per matrix can be had and outliers spoil it. Not where a scale per row or group is possible: compare
round_to_nearest, which withstands an outlier better and takes a bit less per weight.
Source: Song et al., SplitQuant (2025), V2 for language models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.grid import grid_of
from metrics.stored_bits import note_bits, quantised_bits, split_key, total_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape, shape_of
from operators.contract import Storage, quantised_storage

TITLE = "SplitQuant"
CLUSTER_BITS = 8 / 5  # five base-3 digits in a byte


@dataclass(frozen=True)
class Params:
    bits: Literal[8, 4, 3, 2] = param(4, "Bits", first=True)
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")


NEUTRAL = None  # rounding always moves weights that are not on the grid; on it, it is the identity
SWEEP = ("bits=4", "bits=3")


@dataclass(frozen=True, eq=False)
class Plan:
    codes: dict[str, torch.Tensor]  # uint8 [out, in]
    cluster: dict[str, torch.Tensor]  # uint8 [out, in]: 0 lower, 1 middle, 2 upper
    scale: dict[str, torch.Tensor]  # float16 [3]
    zero: dict[str, torch.Tensor]  # uint8 [3]
    bits: dict[str, torch.Tensor]


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    shape.chosen(params.which)


def foresee(params: Params, outline: Outline) -> Outline:
    per_code = params.bits + CLUSTER_BITS
    dense = {m: m.n_out * m.n_in * per_code + 3 * (16 + params.bits) for m in outline.shape.chosen(params.which)}
    return outline.storing({m: outline.quantised(m, d, per_code) for m, d in dense.items()})


def clusters(weight: torch.Tensor) -> torch.Tensor:
    """uint8 [out, in]: the k-means cluster of every weight, in order of value."""
    values = weight.double().reshape(-1).sort().values
    running = torch.cat([values.new_zeros(1), values.cumsum(0)])
    centres = values[[len(values) // 6, len(values) // 2, 5 * len(values) // 6]]
    edges = torch.empty(0)
    for _ in range(200):
        new = torch.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        if torch.equal(new, edges):
            break
        edges = new
        cuts = torch.tensor([0, *edges.tolist(), len(values)])
        sizes = cuts[1:] - cuts[:-1]
        centres = torch.where(sizes > 0, (running[cuts[1:]] - running[cuts[:-1]]) / sizes.clamp(min=1), centres)
    return torch.bucketize(weight.double().contiguous(), (centres[1:] + centres[:-1]) / 2).to(torch.uint8)


def parts(weight: torch.Tensor, cluster: torch.Tensor) -> torch.Tensor:
    """[3, out, in]: the matrix split by cluster, zeros elsewhere; they add up to it exactly."""
    return torch.stack([weight.where(cluster == i, 0) for i in range(3)])


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    plan = Plan({}, {}, {}, {}, {})
    chosen = shape_of(model).chosen(params.which)
    for i, m in enumerate(chosen):
        weight = model.matrix(m.layer, m.name).float()
        cluster = clusters(weight)
        grid = grid_of(parts(weight, cluster).reshape(3, -1), params.bits, symmetric=False)
        codes = grid.codes(parts(weight, cluster).reshape(3, -1)).reshape(3, *weight.shape)
        plan.codes[m.key] = codes.gather(0, cluster[None].long())[0].to(torch.uint8)
        plan.cluster[m.key] = cluster
        plan.scale[m.key], plan.zero[m.key] = grid.stored[:, 0].to(torch.float16), grid.zero[:, 0].to(torch.uint8)
        dense = m.n_out * m.n_in * (params.bits + CLUSTER_BITS) + 3 * (16 + params.bits)
        plan.bits[m.key] = torch.tensor(quantised_bits(model, m, dense, params.bits + CLUSTER_BITS))
        progress.step(i + 1, len(chosen), f"block {m.layer}, {m.name}")
    return plan


def rebuilt(plan: Plan, key: str) -> torch.Tensor:
    """The quantised matrix [out, in] in float32."""
    cluster = plan.cluster[key].long()
    return (plan.codes[key].float() - plan.zero[key].float()[cluster]) * plan.scale[key].float()[cluster]


def apply(model: Model, plan: Plan) -> None:
    for key in plan.codes:
        model.set_matrix(*split_key(key), rebuilt(plan, key))
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    return quantised_storage(total_bits(plan.bits), sum(codes.numel() for codes in plan.codes.values()))
