"""Definition of the top tokens of each channel."""

from __future__ import annotations

import torch


def top_k(values: torch.Tensor, positions: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """values [n, c] of tokens at positions [n] or [n, c] -> (values [c, k] float32, positions [c, k] int64).

    Largest first, ties by the lowest position; places left over hold −inf and position −1, and so do −inf and NaN.
    """
    n, c = values.shape
    positions = positions[:, None].expand(n, c) if positions.dim() == 1 else positions
    values = values.to(torch.float32)
    values = torch.where(values.isnan(), -torch.inf, values)
    by_position = positions.argsort(dim=0, stable=True)
    values, positions = values.gather(0, by_position), positions.gather(0, by_position)
    order = values.argsort(dim=0, descending=True, stable=True)[:k]
    best = torch.full((k, c), -torch.inf, device=values.device)
    where = torch.full((k, c), -1, dtype=torch.int64, device=values.device)
    best[: len(order)] = values.gather(0, order)
    where[: len(order)] = positions.gather(0, order)
    return best.T.contiguous(), where.masked_fill(best == -torch.inf, -1).T.contiguous()
