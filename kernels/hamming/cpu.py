"""Search on the CPU: few queries by xor and population count, codes passing once through the cache for each group of queries; many
queries as in sliced.py."""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels import tokens
from kernels.compiled import kernel
from kernels.hamming import sliced
from kernels.hamming.ordered import place

QUERIES = 8  # queries compared with a code while it is in cache
MOST = 64  # queries whose sums stay in the nearest cache


def many(n_words: int) -> int:
    """Queries from which turning the codes pays; measured at 4 to 5 for codes of 2 words, 8 at 8, 11 at 16, 18 at 32."""
    return min(4 + 7 * n_words // 16, MOST // 2)


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
    last = distances.shape[1] - 1
    for first in range(0, len(queries), QUERIES):
        for i in range(len(codes)):
            for q in range(first, min(len(queries), first + QUERIES)):
                d = _distance(codes[i], queries[q])
                if d < distances[q, last]:
                    place(indices[q], distances[q], i, d)


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
    enough, n_threads = many(words.shape[1]), torch.get_num_threads()
    size = QUERIES if len(asked) < enough else min(MOST, max(enough, -(-len(asked) // n_threads)))

    def chunk(lo: int, hi: int) -> None:
        search = sliced.nearest if hi - lo >= enough and words.shape[1] else _nearest
        search(words, asked[lo:hi], indices[lo:hi], distances[lo:hi])

    tokens.over_chunks(chunk, len(asked), words.size, size=size)
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
