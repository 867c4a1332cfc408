"""Encode and keep the top k on a GPU: latents in pieces, the library's product and top-k on each, the best of both kept."""

from __future__ import annotations

import numpy as np
import torch

TOKENS, LATENTS = 4096, 8192


def encode(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As cpu.encode. Keys of 64 bits hold the value above and the latent below, so that ties fall to the lowest latent."""
    n, n_latents = len(x), weight.shape[1]
    latents, values = np.full((n, k), -1, np.int32), np.zeros((n, k), np.float32)
    for lo in range(0, n, TOKENS):
        rows = x[lo : lo + TOKENS].to(torch.float32)
        best = torch.zeros(len(rows), k, dtype=torch.int64, device=x.device)
        for c in range(0, n_latents, LATENTS):
            pre = torch.addmm(bias[c : c + LATENTS], rows, weight[:, c : c + LATENTS]).relu()
            last = n_latents - c - torch.arange(pre.shape[1], device=x.device)  # positive, larger for lower latents
            keys = (pre.view(torch.int32).to(torch.int64) << 32) + last
            keys = torch.where(pre > 0, keys, 0)
            best = torch.cat([best, keys], 1).topk(k, dim=1).values
        there = best > 0
        found = torch.where(there, n_latents - (best & 0xFFFFFFFF), -1)
        latents[lo : lo + TOKENS] = found.to(torch.int32).cpu().numpy()
        values[lo : lo + TOKENS] = (best >> 32).to(torch.int32).view(torch.float32).cpu().numpy()
    return latents, values
