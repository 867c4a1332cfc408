"""Moments on the CPU: eight rows at a time, so that each accumulator is read and written once per eight rows of x."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

from kernels import tokens

SAMPLE = 32  # tokens whose mean is the shift of the first batch


# contract: a product and the sum it goes into are rounded once, not twice
@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _accumulate(x, rows, shift, s1, s2, absolute, largest):
    """x [n, c] float32; rows: kept indices; shift, s1 = Σ(x − shift), s2 = Σ(x − shift)², absolute [c] float64; largest [c] float32."""
    whole = rows.size - rows.size % 8
    for i in range(0, whole, 8):
        x0, x1, x2, x3 = x[rows[i]], x[rows[i + 1]], x[rows[i + 2]], x[rows[i + 3]]
        x4, x5, x6, x7 = x[rows[i + 4]], x[rows[i + 5]], x[rows[i + 6]], x[rows[i + 7]]
        for c in range(x.shape[1]):
            k, t1, t2, t3, peak = shift[c], s1[c], s2[c], absolute[c], largest[c]
            for row in (x0, x1, x2, x3, x4, x5, x6, x7):
                v, size = np.float64(row[c]), abs(row[c])
                d = v - k
                t1 += d
                t2 += d * d
                t3 += abs(v)
                peak = size if size > peak else peak
            s1[c], s2[c], absolute[c], largest[c] = t1, t2, t3, peak
    for i in range(whole, rows.size):
        row = x[rows[i]]
        for c in range(x.shape[1]):
            v, size = np.float64(row[c]), abs(row[c])
            d = v - shift[c]
            s1[c] += d
            s2[c] += d * d
            absolute[c] += abs(v)
            largest[c] = size if size > largest[c] else largest[c]


def moments(x: torch.Tensor, keep: torch.Tensor | None, near: torch.Tensor | None):
    """As reference.moments. `near` [c] float64 is a mean to measure from (the running one), None to take it from a sample."""
    n_tokens, n_channels = x.shape
    shift = sample_mean(x, keep) if near is None else near.numpy()

    def chunk(lo: int, hi: int):
        sums = np.zeros((3, n_channels))
        largest = np.zeros(n_channels, np.float32)
        rows = tokens.kept_rows(keep, lo, hi)
        _accumulate(tokens.block(x, lo, hi), rows, shift, sums[0], sums[1], sums[2], largest)
        return rows.size, sums, largest

    count, total, largest = 0, np.zeros((3, n_channels)), np.zeros(n_channels, np.float32)
    for n, sums, peak in tokens.over_chunks(chunk, n_tokens, n_channels):
        count += n
        total += sums
        np.maximum(largest, peak, out=largest)
    if count == 0:
        return 0, *(torch.zeros(n_channels, dtype=torch.float64) for _ in range(4))
    s1, s2, absolute = total
    m2 = np.maximum(s2 - s1 * s1 / count, 0.0)
    return count, *(torch.from_numpy(a) for a in (shift + s1 / count, m2, absolute, largest))


def sample_mean(x: torch.Tensor, keep: torch.Tensor | None) -> np.ndarray:
    """Mean of up to SAMPLE kept tokens spread over x: any kept token is near enough in float64 to lose no digit that matters."""
    rows = tokens.kept_rows(keep, 0, len(x))
    if rows.size == 0:
        return np.zeros(x.shape[1])
    rows = rows[:: max(1, rows.size // SAMPLE)][:SAMPLE]
    return x[torch.from_numpy(rows.copy())].detach().to(torch.float64).mean(0).numpy()
