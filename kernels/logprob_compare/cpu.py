"""Comparison on the CPU: each row of logits is read twice while in cache (maximum, then exponentials); no softmax is stored."""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from kernels import tokens
from kernels.compiled import kernel

PIECE = 1024  # logits whose exponentials are held at once
LOG2E, LN2_HIGH, LN2_LOW = np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
ROUND = np.float32(12582912.0)  # 1.5 · 2²³: adding it leaves the nearest integer in the low bits


@intrinsic
def bits_of(typingctx, value):
    """The 32 bits of a float32, as int32."""
    return types.int32(value), lambda context, builder, signature, arguments: builder.bitcast(arguments[0], ir.IntType(32))


@intrinsic
def float_of(typingctx, bits):
    """The float32 with these 32 bits."""
    return types.float32(bits), lambda context, builder, signature, arguments: builder.bitcast(arguments[0], ir.FloatType())


@kernel
def _exponentials(x, peak, out):
    """out = exp(x − peak), float32, for x ≤ peak; Cephes' degree-5 polynomial, error below 2 units in the last place.

    Plain arithmetic so that the loop runs over vector lanes; library exp would be called one number at a time.
    """
    for i in range(x.size):
        t = max(x[i] - peak, np.float32(-87.0))
        shifted = t * LOG2E + ROUND
        n = shifted - ROUND
        r = (t - n * LN2_HIGH) - n * LN2_LOW
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        p = p * r * r + r + np.float32(1.0)
        out[i] = p * float_of(np.int32((bits_of(shifted) - bits_of(ROUND) + np.int32(127)) << np.int32(23)))


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _sum(x):
    total = 0.0
    for i in range(x.size):
        total += x[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _weighted(weight, a, b, offset):
    """Σ weight (a − b − offset) in float64."""
    total = 0.0
    for i in range(a.size):
        total += np.float64(weight[i]) * ((np.float64(a[i]) - np.float64(b[i])) - offset)
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nnan", "nsz"})
def _largest(x):
    top = x[0]
    for i in range(x.size):
        top = max(top, x[i])
    return top


@kernel
def _first(x, value):
    for i in range(x.size):
        if x[i] == value:
            return i
    return -1


@kernel
def _compare(a, b, targets, rows, held, out):
    """a, b [n, v] float32; targets int64 [n]; rows: kept indices; held float32 [PIECE] to work in; out [n, 4] float64, only
    kept rows are written."""
    vocabulary = a.shape[1]
    for i in rows:
        u, v = a[i], b[i]
        top_u, top_v = _largest(u), _largest(v)
        offset = np.float64(top_u) - np.float64(top_v)
        sum_u = sum_v = cross = 0.0
        for lo in range(0, vocabulary, PIECE):
            hi = min(vocabulary, lo + PIECE)
            piece = held[: hi - lo]
            _exponentials(v[lo:hi], top_v, piece)
            sum_v += _sum(piece)
            _exponentials(u[lo:hi], top_u, piece)
            sum_u += _sum(piece)
            cross += _weighted(piece, u[lo:hi], v[lo:hi], offset)
        out[i, 0] = cross / sum_u - np.log(sum_u) + np.log(sum_v)
        out[i, 1] = _first(u, top_u) == _first(v, top_v)
        target = targets[i]
        if target < 0:
            out[i, 2] = out[i, 3] = np.nan
        else:
            out[i, 2] = np.float64(u[target]) - top_u - np.log(sum_u)
            out[i, 3] = np.float64(v[target]) - top_v - np.log(sum_v)


def compare(a: torch.Tensor, b: torch.Tensor, targets: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """As reference.compare; NaN also where a token is not kept."""
    n_tokens, vocabulary = a.shape
    out = np.full((n_tokens, 4), np.nan)
    ids = targets.numpy()

    def chunk(lo: int, hi: int) -> None:
        _compare(tokens.block(a, lo, hi), tokens.block(b, lo, hi), ids[lo:hi], tokens.kept_rows(keep, lo, hi), np.zeros(PIECE, np.float32), out[lo:hi])

    tokens.over_chunks(chunk, n_tokens, vocabulary, size=64)
    return torch.from_numpy(out)
