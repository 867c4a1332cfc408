"""Search on the CPU: codes pass once through the cache for each group of queries; xor and population count run over vector lanes."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels import tokens
from kernels.compiled import kernel

QUERIES = 8  # queries compared with a code while it is in cache


@intrinsic
def ones(typingctx, word):
    """Number of one bits of a uint64, as int64."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@kernel
def _distance(a, b):
    total = 0
    for w in range(a.size):
        total += ones(a[w] ^ b[w])
    return total


@kernel
def _nearest(codes, queries, indices, distances):
    """codes [n, w], queries [q, w] uint64; indices int64 and distances int32 [q, k] come filled with the largest distance."""
    k = indices.shape[1]
    for first in range(0, len(queries), QUERIES):
        for i in range(len(codes)):
            code = codes[i]
            for q in range(first, min(len(queries), first + QUERIES)):
                d = _distance(code, queries[q])
                if d < distances[q, k - 1]:
                    place = k - 1
                    while place > 0 and distances[q, place - 1] > d:
                        distances[q, place] = distances[q, place - 1]
                        indices[q, place] = indices[q, place - 1]
                        place -= 1
                    distances[q, place] = d
                    indices[q, place] = i


@kernel
def _histogram(codes, lo, hi, counts):
    """Adds pairs i < j with lo ≤ i < hi to counts int64 [bits + 1]."""
    for first in range(lo, hi, QUERIES):
        last = min(hi, first + QUERIES)
        for j in range(first + 1, len(codes)):
            for i in range(first, min(last, j)):
                counts[_distance(codes[i], codes[j])] += 1


def nearest(codes: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As reference.nearest."""
    words, asked = codes.view(np.uint64), queries.view(np.uint64)
    indices = np.zeros((len(asked), k), np.int64)
    distances = np.full((len(asked), k), np.iinfo(np.int32).max, np.int32)
    tokens.over_chunks(
        lambda lo, hi: _nearest(words, asked[lo:hi], indices[lo:hi], distances[lo:hi]), len(asked), words.size, size=QUERIES
    )
    return indices, distances


def histogram(codes: np.ndarray, n_bits: int) -> np.ndarray:
    """As reference.histogram."""
    words = codes.view(np.uint64)

    def chunk(lo: int, hi: int) -> np.ndarray:
        counts = np.zeros(words.shape[1] * 64 + 1, np.int64)
        _histogram(words, lo, hi, counts)
        return counts

    parts = tokens.over_chunks(chunk, len(words), words.size, size=64)
    return np.sum([np.zeros(words.shape[1] * 64 + 1, np.int64), *parts], axis=0)[: n_bits + 1]
