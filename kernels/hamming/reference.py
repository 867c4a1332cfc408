"""Definition of search over packed codes, uint8 [code, bytes]: distance is the number of bits that differ."""

from __future__ import annotations

import numpy as np


def distances(codes: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """[query, code] int64."""
    return np.unpackbits(queries[:, None, :] ^ codes[None, :, :], axis=2).sum(2, dtype=np.int64)


def nearest(codes: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices [query, k] int64, distances [query, k] int32), nearest first, ties by the lowest index; k ≤ number of codes."""
    found = distances(codes, queries)
    order = np.argsort(found, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(found, order, 1).astype(np.int32)


def histogram(codes: np.ndarray, n_bits: int) -> np.ndarray:
    """int64 [n_bits + 1]: pairs i < j of codes at each distance."""
    i, j = np.triu_indices(len(codes), 1)
    return np.bincount(distances(codes, codes)[i, j], minlength=n_bits + 1)
