"""Clusters of neighbouring blocks that leave alike states; one block of each cluster stays and the others become it, or go.

Each calibration sequence's states after every block are pooled to one vector, and linear CKA compares neighbouring blocks over the
sequences (or the mean cosine does). Then the two neighbouring clusters whose touching blocks are most alike are merged, again and again,
until `clusters` are left. As touching states are never measured again, that is cutting between the least alike neighbours. The block in the
middle of each cluster stays; with rest=share it runs in the place of every other block of its cluster, norms included, with rest=remove those
are dropped. As many clusters as blocks change nothing, and the clusters are nested as their number falls.

Use it with rest=share before healing, to start a shared model where the network already repeats itself, and with rest=remove as a choice of
blocks that keeps one from every stretch of depth. Alike states are not equal work: compare with drop_layers by measured damage. Sharing is
not for speed. CKA of few sequences is biased upwards, for all neighbours alike; only its order is used.
Source: Zhang et al., “CRaSh: Clustering, Removing, and Sharing Enhance Fine-tuning without Full Large Language Model”, EMNLP 2023. There the
shared model is fine-tuned: see heal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from metrics.calibration import require_text
from metrics.rearrangement import kept_bits, rearrange, rearranged, require_same_kind
from metrics.redundancy import linear_cka, turn
from metrics.removal import attention_mask, batch_size
from metrics.residuals import record
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import Refused
from models.shape import Shape
from operators.contract import Storage

TITLE = "CRaSh: clusters of blocks"
FEWEST = 4  # sequences; CKA of fewer says nothing


@dataclass(frozen=True)
class Params:
    clusters: int = param(0, "Clusters", first=True, low=0, high=1024, help="Blocks that stay; 0 is half of them. As many as blocks changes nothing")
    rest: Literal["share", "remove"] = param("share", "The other blocks", first=True)
    alike: Literal["cka", "cosine"] = param("cka", "Alike by")
    pool: Literal["mean", "last", "max"] = param("mean", "A sequence's states", help="One vector for each sequence and block: over tokens")


NEUTRAL = (Params(clusters=1024), 0.0)
SWEEP = ("clusters=5", "clusters=4", "clusters=5,rest=remove")


@dataclass(frozen=True, eq=False)
class Plan:
    """`source` [position] int64: the block that runs there, −1 where none does; `alike` [neighbours] float64 of the blocks that were left;
    `cluster` [block that was left] int64; `bits` and `weights` of all block matrices."""

    source: torch.Tensor
    alike: np.ndarray
    cluster: np.ndarray
    bits: float
    weights: int


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    shape.chosen("all")


def n_clusters(params: Params, n_blocks: int) -> int:
    return min(params.clusters or -(-n_blocks // 2), n_blocks)


def foresee(params: Params, outline: Outline) -> Outline:
    """Which blocks stay is decided on the text; as many, here the first ones, the last standing for the rest."""
    layers = outline.layers
    kept = n_clusters(params, len(layers))
    place = {layer: layers[i] if i < kept else layers[kept - 1] if params.rest == "share" else -1 for i, layer in enumerate(layers)}
    found = rearranged(outline, tuple(place.get(p, -1) for p in range(outline.shape.n_layers)))
    return replace(found, sure=found.sure and kept == len(layers))


def clustered(alike: np.ndarray, n: int) -> np.ndarray:
    """[block] int64 number of its cluster, from how alike neighbours are [block − 1]: cut at the n − 1 least alike; ties cut the earlier."""
    cuts = np.sort(np.argsort(np.nan_to_num(alike, nan=-2.0), kind="stable")[: n - 1])  # a state that never changes is like no other
    return np.searchsorted(cuts, np.arange(len(alike) + 1), side="left")


def centres(cluster: np.ndarray) -> list[int]:
    """The block that stays, of each cluster: its middle, the later of two."""
    found = [np.flatnonzero(cluster == c) for c in range(cluster[-1] + 1)]
    return [int(own[len(own) // 2]) for own in found]


def neighbours(model: Model, params: Params, ids: torch.Tensor, keep: torch.Tensor, progress) -> np.ndarray:
    """float64 [block − 1]: how alike the states after neighbouring blocks are, over sequences."""
    pooled = []
    size = batch_size(ids.shape[1], model.config.vocab_size)
    for first in range(0, len(ids), size):
        progress.step(first, len(ids), f"states, sequence {first + 1} of {len(ids)}")
        kept = keep[first : first + size].to(model.device)
        states = torch.stack(record(model, ids[first : first + size], attention_mask(kept)).states[1:])
        pooled.append(pool(states.float(), kept, params.pool).cpu())
    vectors = torch.cat(pooled, 1)
    if params.alike == "cka":
        return linear_cka(vectors).diagonal(1).numpy().copy()
    return 1 - turn(vectors[:-1], vectors[1:]).double().mean(1).numpy()


def pool(states: torch.Tensor, keep: torch.Tensor, how: str) -> torch.Tensor:
    """[state, sequence, channel] of states [state, sequence, position, channel], over the tokens of each sequence."""
    if how == "last":
        last = keep.shape[1] - 1 - keep.flip(1).long().argmax(1)
        return states[:, torch.arange(len(keep), device=keep.device), last]
    if how == "max":
        return states.masked_fill(~keep[..., None], -torch.inf).amax(2)
    return (states * keep[..., None]).sum(2) / keep.sum(1)[:, None]


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    layers = model.layers
    require_text(calibration)
    if len(calibration.ids) < FEWEST:
        raise Refused(f"States are compared over sequences, and this text has {len(calibration.ids)}; expected at least {FEWEST}.")
    alike = neighbours(model, params, calibration.ids, calibration.keep, progress)
    cluster = clustered(alike, n_clusters(params, len(layers)))
    stays = [layers[i] for i in centres(cluster)]
    source = [-1] * model.n_layers
    for layer, c in zip(layers, cluster):
        source[layer] = stays[c] if params.rest == "share" or stays[c] == layer else -1
    require_same_kind(model, tuple(source))
    return Plan(torch.tensor(source, dtype=torch.int64), alike, cluster, *kept_bits(model, tuple(source)))


def apply(model: Model, plan: Plan) -> None:
    rearrange(model, tuple(plan.source.tolist()))


def storage(model: Model, plan: Plan) -> Storage:
    fewer = bool((plan.source[list(model.layers)] < 0).any())
    return Storage(plan.bits, plan.weights, fewer, "one block of each cluster; " + ("those removed cost no time" if fewer else "as many blocks run as before"))
