"""Moments on the CPU: eight rows at a time, so that each accumulator is read and written once per eight rows of x."""

from __future__ import annotations

import numpy as np
import torch

from kernels import tokens
from kernels.compiled import kernel

SAMPLE = 32  # tokens whose mean is the shift of the first batch


@kernel
def _accumulate(x, rows, shift, s1, s2, absolute, largest):
    """x [n, c] float32; rows: kept indices; shift, s1 = Σ(x − shift), s2 = Σ(x − shift)², absolute [c] float64; largest [c] float32."""
    n_channels = x.shape[1]
    whole = rows.size - rows.size % 8
    for c0 in range(0, n_channels, 512):  # accumulators of 512 channels stay in the first-level cache
        c1 = min(n_channels, c0 + 512)
        shifts, sums, squares, absolutes, maxima = shift[c0:c1], s1[c0:c1], s2[c0:c1], absolute[c0:c1], largest[c0:c1]
        for i in range(0, whole, 8):
            x0, x1, x2, x3 = x[rows[i], c0:c1], x[rows[i + 1], c0:c1], x[rows[i + 2], c0:c1], x[rows[i + 3], c0:c1]
            x4, x5, x6, x7 = x[rows[i + 4], c0:c1], x[rows[i + 5], c0:c1], x[rows[i + 6], c0:c1], x[rows[i + 7], c0:c1]
            for c in range(c1 - c0):
                k = shifts[c]
                a0, a1, a2, a3 = abs(x0[c]), abs(x1[c]), abs(x2[c]), abs(x3[c])
                a4, a5, a6, a7 = abs(x4[c]), abs(x5[c]), abs(x6[c]), abs(x7[c])
                d0, d1, d2, d3 = x0[c] - k, x1[c] - k, x2[c] - k, x3[c] - k
                d4, d5, d6, d7 = x4[c] - k, x5[c] - k, x6[c] - k, x7[c] - k
                sums[c] += ((d0 + d1) + (d2 + d3)) + ((d4 + d5) + (d6 + d7))
                squares[c] += ((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)) + ((d4 * d4 + d5 * d5) + (d6 * d6 + d7 * d7))
                absolutes[c] += ((np.float64(a0) + a1) + (np.float64(a2) + a3)) + ((np.float64(a4) + a5) + (np.float64(a6) + a7))
                m = maxima[c]
                m = a0 if a0 > m else m
                m = a1 if a1 > m else m
                m = a2 if a2 > m else m
                m = a3 if a3 > m else m
                m = a4 if a4 > m else m
                m = a5 if a5 > m else m
                m = a6 if a6 > m else m
                maxima[c] = a7 if a7 > m else m
        for i in range(whole, rows.size):
            row = x[rows[i], c0:c1]
            for c in range(c1 - c0):
                d = row[c] - shifts[c]
                a = abs(row[c])
                sums[c] += d
                squares[c] += d * d
                absolutes[c] += a
                maxima[c] = a if a > maxima[c] else maxima[c]


def moments(x: torch.Tensor, keep: torch.Tensor | None, near: torch.Tensor | None):
    """As reference.moments. `near` [c] float64 is a mean to measure from (the running one), None to take it from a sample."""
    n_tokens, n_channels = x.shape
    shift = _sample_mean(x, keep) if near is None else near.numpy()

    def chunk(lo: int, hi: int):
        sums = np.zeros((3, n_channels))
        largest = np.zeros(n_channels, np.float32)
        rows = tokens.kept_rows(keep, lo, hi)
        _accumulate(tokens.block(x, lo, hi), rows, shift, sums[0], sums[1], sums[2], largest)
        return rows.size, sums, largest

    count, total, largest = 0, np.zeros((3, n_channels)), np.zeros(n_channels)
    for n, sums, peak in tokens.over_chunks(chunk, n_tokens, n_channels):
        count += n
        total += sums
        np.maximum(largest, peak, out=largest)
    if count == 0:
        return 0, *(torch.zeros(n_channels, dtype=torch.float64) for _ in range(4))
    s1, s2, absolute = total
    m2 = np.maximum(s2 - s1 * s1 / count, 0.0)
    return count, *(torch.from_numpy(a) for a in (shift + s1 / count, m2, absolute, largest))


def _sample_mean(x: torch.Tensor, keep: torch.Tensor | None) -> np.ndarray:
    """Mean of up to SAMPLE kept tokens spread over x: any kept token is near enough in float64 to lose no digit that matters."""
    rows = tokens.kept_rows(keep, 0, len(x))
    if rows.size == 0:
        return np.zeros(x.shape[1])
    rows = rows[:: max(1, rows.size // SAMPLE)][:SAMPLE]
    return x[torch.from_numpy(rows.copy())].detach().to(torch.float64).mean(0).numpy()
