"""Definition of the moments of each channel; float64, one read of x [n, c]."""

from __future__ import annotations

import torch


def moments(x: torch.Tensor, keep: torch.Tensor | None) -> tuple[int, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(count, mean [c], M2 [c] = Σ (x − mean)², Σ|x| [c], max|x| [c]) over the kept tokens; zeros when none is kept."""
    x = (x if keep is None else x[keep]).to(torch.float64)
    count = x.shape[0]
    if count == 0:
        zero = x.new_zeros(x.shape[1])
        return 0, zero, zero.clone(), zero.clone(), zero.clone()
    mean = x.mean(0)
    return count, mean, ((x - mean) ** 2).sum(0), x.abs().sum(0), x.abs().amax(0)
