"""Top tokens on a GPU: the library's top-k over 64-bit keys that hold the value's order above and the position below.

No Triton here: the keys make ties exact, and the selection itself is what the library is good at.
"""

from __future__ import annotations

import torch

TOKENS = 1024  # keys held at once, 8 bytes per token and channel


def top_k(x: torch.Tensor, keep: torch.Tensor | None, start: int, values: torch.Tensor, positions: torch.Tensor):
    """(values float32, positions int64) [c, k] after tokens start, start + 1, …, later than all that are held."""
    k = values.shape[1]
    for lo in range(0, len(x), TOKENS):
        part = x[lo : lo + TOKENS].to(torch.float32)
        part = torch.where(part.isnan(), -torch.inf, part)
        if keep is not None:
            part = part.masked_fill(~keep[lo : lo + TOKENS, None], -torch.inf)
        candidates = torch.cat([values.T, part])  # held ones first: they are earlier
        bits = (candidates + 0.0).view(torch.int32)  # + 0.0 makes −0 equal 0
        ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
        index = torch.arange(len(candidates), device=x.device)[:, None]
        chosen = ((ordered << 32) + (2**31 - index)).topk(k, dim=0).indices
        where = torch.cat([positions.T, (start + lo + torch.arange(len(part), device=x.device))[:, None].expand_as(part)])
        values, positions = candidates.gather(0, chosen).T.contiguous(), where.gather(0, chosen).T.contiguous()
    return values, positions.masked_fill(values == -torch.inf, -1)
