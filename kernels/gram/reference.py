"""Definition of the Gram matrix of tokens x [n, c]; float64, 2 n c² operations."""

from __future__ import annotations

import torch


def gram(x: torch.Tensor, keep: torch.Tensor | None) -> tuple[int, torch.Tensor, torch.Tensor]:
    """(count, Σ x [c], Σ x xᵀ [c, c]) over the kept tokens."""
    x = (x if keep is None else x[keep]).to(torch.float64)
    return x.shape[0], x.sum(0), x.T @ x
