"""Similarity on the CPU: the four sums of a token in one read of its two rows."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

from kernels import tokens
from kernels.compiled import kernel


# reassociation lets the four sums run over vector lanes; they are float64, so the order shows in the last digits only
@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _sums(a, b):
    aa = bb = ab = dd = 0.0
    for c in range(a.size):
        u, v = np.float64(a[c]), np.float64(b[c])
        w = v - u
        aa += u * u
        bb += v * v
        ab += u * v
        dd += w * w
    return aa, bb, ab, dd


@kernel
def _rows(a, b, rows, out):
    """a, b [n, c] float32; rows: kept indices; out [n, 3] float64, only kept rows are written."""
    for i in rows:
        aa, bb, ab, dd = _sums(a[i], b[i])
        if aa == 0.0 or bb == 0.0:
            out[i, 0] = out[i, 1] = out[i, 2] = np.nan
        else:
            out[i, 0] = min(1.0, max(-1.0, ab / (np.sqrt(aa) * np.sqrt(bb))))
            out[i, 1] = np.sqrt(bb / aa)
            out[i, 2] = np.sqrt(dd / aa)


def similarity(a: torch.Tensor, b: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """As reference.similarity; NaN also where a token is not kept."""
    n_tokens, n_channels = a.shape
    out = np.full((n_tokens, 3), np.nan)

    def chunk(lo: int, hi: int) -> None:
        _rows(tokens.block(a, lo, hi), tokens.block(b, lo, hi), tokens.kept_rows(keep, lo, hi), out[lo:hi])

    tokens.over_chunks(chunk, n_tokens, 2 * n_channels)
    return torch.from_numpy(out)
