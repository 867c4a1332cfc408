"""Search over packed codes (kernels.sign_codes): nearest neighbours, duplicates, histogram of distances.

Codes are uint8 [code, bytes] with whole 64-bit words, C-contiguous, as SignCodes.codes() gives them (a memory map will do).
They live in host memory, so there is one fast form, for the CPU.
"""

from __future__ import annotations

import numpy as np

from kernels.hamming import reference


def nearest(codes: np.ndarray, queries: np.ndarray, k: int, impl: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(indices [query, min(k, codes)] int64, distances in bits int32), nearest first, ties by the lowest index."""
    codes, queries = _words(codes), _words(queries)
    if k < 1 or codes.shape[1] != queries.shape[1]:
        raise ValueError(f"Expected k ≥ 1 and codes of one width, found k={k}, {codes.shape[1]} and {queries.shape[1]} bytes.")
    k = min(k, len(codes))
    if k == 0:
        return np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.int32)
    return _implementation(impl).nearest(codes, queries, k)


def histogram(codes: np.ndarray, n_bits: int, impl: str | None = None) -> np.ndarray:
    """int64 [n_bits + 1]: pairs i < j of codes at each distance; n (n − 1) / 2 comparisons."""
    codes = _words(codes)
    if n_bits > codes.shape[1] * 8:
        raise ValueError(f"Codes of {codes.shape[1]} bytes do not hold {n_bits} bits.")
    return _implementation(impl).histogram(codes, n_bits)


def duplicates(codes: np.ndarray) -> np.ndarray:
    """int64 [code]: the lowest index of an equal code, so that `duplicates(c) != arange` marks repeats."""
    codes = _words(codes)
    if codes.size == 0:
        return np.zeros(len(codes), np.int64)
    _, first, inverse = np.unique(codes.view(f"V{codes.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def _implementation(impl: str | None):
    if impl == "reference":
        return reference
    if impl not in (None, "cpu"):
        raise ValueError(f"Unknown implementation “{impl}”; known: reference, cpu.")
    from kernels.hamming import cpu

    return cpu


def _words(codes: np.ndarray) -> np.ndarray:
    if codes.ndim != 2 or codes.dtype != np.uint8 or codes.shape[1] % 8:
        raise ValueError(f"Expected uint8 [code, whole 8-byte words], found {codes.dtype} {list(codes.shape)}.")
    return np.ascontiguousarray(codes)
