"""Search on the CPU: codes pass once through the cache for each group of queries; xor and population count run over vector lanes."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels import tokens
from kernels.compiled import kernel

QUERIES = 8  # queries compared with a code while it is in cache
TOGETHER = 4  # of them compared in one loop, so that a word of the code is loaded once for four


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
def _distances(code, a, b, c, d, out):
    """out [4] = distance of the code to each of four queries."""
    to_a = to_b = to_c = to_d = 0
    for w in range(code.size):
        word = code[w]
        to_a += ones(word ^ a[w])
        to_b += ones(word ^ b[w])
        to_c += ones(word ^ c[w])
        to_d += ones(word ^ d[w])
    out[0], out[1], out[2], out[3] = to_a, to_b, to_c, to_d


@kernel
def _place(indices, distances, i, d):
    """Puts code i at distance d into one query's list [k], which is in order, if it belongs there; among equals it comes last."""
    place = distances.size - 1
    if d >= distances[place]:
        return
    while place > 0 and distances[place - 1] > d:
        distances[place] = distances[place - 1]
        indices[place] = indices[place - 1]
        place -= 1
    distances[place] = d
    indices[place] = i


@kernel
def _nearest(codes, queries, out, indices, distances):
    """codes [n, w], queries [q, w] uint64; out int64 [4] to work in; indices int64 and distances int32 [q, k] come filled with
    the largest distance."""
    whole = len(queries) - len(queries) % TOGETHER
    for first in range(0, whole, QUERIES):
        for i in range(len(codes)):
            for q in range(first, min(whole, first + QUERIES), TOGETHER):
                _distances(codes[i], queries[q], queries[q + 1], queries[q + 2], queries[q + 3], out)
                for j in range(TOGETHER):
                    if out[j] < distances[q + j, -1]:
                        _place(indices[q + j], distances[q + j], i, out[j])
    for q in range(whole, len(queries)):
        for i in range(len(codes)):
            _place(indices[q], distances[q], i, _distance(codes[i], queries[q]))


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
        lambda lo, hi: _nearest(words, asked[lo:hi], np.zeros(TOGETHER, np.int64), indices[lo:hi], distances[lo:hi]), len(asked), words.size, size=QUERIES
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
