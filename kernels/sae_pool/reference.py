"""Definition of the pooled sparse code of a sequence, for an SAE with encoder W [d, latents] and biases; float64.

    z = top_k(ReLU((x − b_dec) W + b_enc))   per token, ties by the lowest latent
    pooled = mean, sum or maximum of z over the kept tokens of the sequence
"""

from __future__ import annotations

import torch


def codes(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: int) -> torch.Tensor:
    """Dense z [n, latents] float64 of x [n, d]; bias is b_enc − b_dec W."""
    pre = (x.to(torch.float64) @ weight.to(torch.float64) + bias.to(torch.float64)).relu()
    order = pre.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(pre).scatter(1, order, pre.gather(1, order))


def pooled(z: torch.Tensor, keep: torch.Tensor, length: int, pool: str) -> torch.Tensor:
    """[sequence, latents] of z [sequence × length, latents], keep [sequence × length]; zero where no token is kept."""
    z = (z * keep[:, None]).reshape(-1, length, z.shape[1])
    if pool == "max":
        return z.amax(1)
    total = z.sum(1)
    return total if pool == "sum" else total / keep.reshape(-1, length).sum(1).clamp(min=1)[:, None]
