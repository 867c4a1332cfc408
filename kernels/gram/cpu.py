"""Gram matrix on the CPU: block rows of the upper triangle, each one matrix product at the library's rate."""

from __future__ import annotations

import torch

TOKENS = 4096  # rows multiplied at once; also the most that is copied when tokens are masked
BLOCK = 512  # channels per block row: 4 block rows of 2,048 channels do 10/16 of the full product; narrower ones lose the library's rate


def add_gram(x: torch.Tensor, keep: torch.Tensor | None, total: torch.Tensor, upper: torch.Tensor) -> int:
    """Adds Σ x to total [c] (float64) and Σ x xᵀ to the upper triangle of `upper` [c, c] (float32 or float64); returns the count.

    Only blocks on and above the diagonal are touched: (1 + 1/blocks)/2 of the operations of x.T @ x.
    """
    n_channels, count = x.shape[1], 0
    for lo in range(0, x.shape[0], TOKENS):
        rows = x[lo : lo + TOKENS]
        if keep is not None and not bool(keep[lo : lo + TOKENS].all()):
            rows = rows[keep[lo : lo + TOKENS]]
        rows = rows.detach().to(upper.dtype)
        count += rows.shape[0]
        total += rows.sum(0, dtype=torch.float64)
        for c in range(0, n_channels, BLOCK):
            upper[c : c + BLOCK, c:].addmm_(rows[:, c : c + BLOCK].T, rows[:, c:])
    return count
