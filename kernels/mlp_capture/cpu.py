"""Fused MLP capture on the CPU: pieces of tokens small enough to stay in cache go through the library's own vector code for the
function, then through the compiled loops of moments and sign codes, before the next piece is touched."""

from __future__ import annotations

import numpy as np
import torch

from kernels import tokens
from kernels.moments.cpu import _accumulate, sample_mean
from kernels.sign_codes.cpu import _count, _pack
from kernels.sign_codes.reference import n_bytes

PIECE = 1 << 16  # elements of a piece: 256 KB of pre and as much of post


def _functions():
    f = torch.nn.functional
    return {"gelu": f.gelu, "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"), "silu": f.silu, "relu": f.relu}


def mlp_capture(pre: torch.Tensor, up: torch.Tensor | None, keep: torch.Tensor | None, activation: str, threshold: float, near: torch.Tensor | None):
    """(post, (count, mean, m2, Σ|x|, max|x|) of the kept tokens, codes uint8 [n, bytes], on-counts int64 [c]).

    `near` [c] float64 is a mean to measure from, None to take it from a sample of the first piece.
    """
    n, c = pre.shape
    function, post = _functions()[activation], torch.empty_like(pre, memory_format=torch.contiguous_format)
    codes = np.zeros((n, n_bytes(c) // 8), np.uint64)
    size = max(8, PIECE // max(c, 1) // 8 * 8)

    def fill(lo: int, hi: int) -> None:
        part = function(pre[lo:hi])
        post[lo:hi] = part if up is None else part.mul_(up[lo:hi])

    ready = 0
    if near is None:
        ready = min(n, size)
        fill(0, ready)
        shift = sample_mean(post[:ready], None if keep is None else keep[:ready])
    else:
        shift = near.numpy()

    def chunk(lo: int, hi: int):
        sums, largest, on, count = np.zeros((3, c)), np.zeros(c, np.float32), np.zeros(c, np.int64), 0
        for a, b in ((a, min(a + size, hi)) for a in range(lo, hi, size)):
            if b > ready:
                fill(a, b)
            rows = tokens.kept_rows(keep, a, b)
            _accumulate(tokens.block(post, a, b), rows, shift, sums[0], sums[1], sums[2], largest)
            _pack(tokens.block(pre, a, b), rows, np.float32(threshold), codes[a:b])
            _count(codes[a:b], rows, np.zeros((len(rows).bit_length(), codes.shape[1]), np.uint64), np.zeros(codes.shape[1], np.uint64), on)
            count += rows.size
        return count, sums, largest, on

    count, total, largest, on = 0, np.zeros((3, c)), np.zeros(c, np.float32), np.zeros(c, np.int64)
    for part in tokens.over_chunks(chunk, n, c, size=max(size, tokens.CHUNK // size * size)):
        count, total, on = count + part[0], total + part[1], on + part[3]
        np.maximum(largest, part[2], out=largest)
    s1, s2, absolute = total
    if count == 0:
        sums = (0, *(torch.zeros(c, dtype=torch.float64) for _ in range(4)))
    else:
        sums = (count, *(torch.from_numpy(a) for a in (shift + s1 / count, np.maximum(s2 - s1 * s1 / count, 0.0), absolute, largest)))
    return post, sums, codes.view(np.uint8), torch.from_numpy(on)
