"""The corpus read once: the sparse codes of every token, kept, so that looking at another feature reads nothing again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.feature_contexts import windows
from models.loaded import Model
from models.saes import Sae
from models.saes.inside import activations

MOST = 64  # features kept at a token, the largest
TOP, BANDS, PER_BAND = 8, 4, 2  # examples: the largest, then two from each band of activation below


@dataclass(frozen=True, eq=False)
class Codes:
    """features int32 [token, m] (−1: none) and values float32 [token, m], largest first, over all positions of the corpus; first positions
    and padding are empty. fired int64, largest float32 [d_sae]. left_out: activations beyond the m largest of a token."""

    features: np.ndarray
    values: np.ndarray
    fired: np.ndarray
    largest: np.ndarray
    left_out: int


def read(model: Model, sae: Sae, ids: torch.Tensor, keep: torch.Tensor, progress, batch: int = 16) -> Codes:
    most = min(sae.k or MOST, MOST, sae.d_sae)
    counted = keep.clone()
    counted[:, 0] = False
    features, values = np.full((ids.numel(), most), -1, np.int32), np.zeros((ids.numel(), most), np.float32)
    fired, largest, left_out = torch.zeros(sae.d_sae, dtype=torch.int64), torch.zeros(sae.d_sae), 0
    for lo in range(0, len(ids), batch):
        here = counted[lo : lo + batch].flatten()
        z = sae.encode(activations(model, sae.site, ids[lo : lo + batch]).cpu()).flatten(0, 1)
        z[~here] = 0
        value, feature = z.topk(most, dim=1)
        rows = slice(lo * ids.shape[1], lo * ids.shape[1] + len(z))
        features[rows], values[rows] = feature.masked_fill(value <= 0, -1).numpy(), value.clamp(min=0).numpy()
        fired += (z > 0).sum(0)
        largest = torch.maximum(largest, z.amax(0))
        left_out += int((z > 0).sum() - (value > 0).sum())
        progress.step(min(lo + batch, len(ids)), len(ids), f"features of {min(lo + batch, len(ids))} of {len(ids)} sequences")
    return Codes(features, values, fired.numpy(), largest.numpy(), left_out)


def of_feature(codes: Codes, feature: int) -> np.ndarray:
    """Its activation at every position, float32 [token]."""
    return np.where(codes.features == feature, codes.values, 0).sum(1)


def examples(z: np.ndarray, ids: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(window [example, width] of flat token indices, band [example]) for a feature's activations z [token]: band 0 are the largest, one
    a sequence; bands 1 … BANDS cut the range from its largest activation to 0 into equal parts, each with its middle ones by position."""
    length = ids.shape[1]
    order = np.argsort(-z, kind="stable")[: int((z > 0).sum())]
    _, first = np.unique(order // length, return_index=True)
    top = order[np.sort(first)][:TOP]
    places, bands = [*top], [0] * len(top)
    for band in range(BANDS):
        high, low = z.max() * (1 - band / BANDS), z.max() * (1 - (band + 1) / BANDS)
        inside = np.flatnonzero((z > max(low, 0)) & (z <= high) & ~np.isin(np.arange(len(z)), top))
        chosen = inside[np.unique(np.linspace(0, len(inside) - 1, PER_BAND + 2).round().astype(int)[1:-1])] if len(inside) else []
        places += [*chosen]
        bands += [band + 1] * len(chosen)
    return windows(ids, keep, np.array(places, np.int64)), np.array(bands, np.int64)
