"""Definition of the comparison of two models' next-token distributions, logits a and b [n, v]; float64."""

from __future__ import annotations

import torch


def compare(a: torch.Tensor, b: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[n, 4] float64: KL(p_a ‖ p_b) in nats; 1 where the top-1 tokens agree (ties: lowest id); log p_a(target); log p_b(target).

    The last two are NaN where the target is negative.
    """
    p, q = a.to(torch.float64).log_softmax(1), b.to(torch.float64).log_softmax(1)
    result = torch.empty(len(a), 4, dtype=torch.float64, device=a.device)
    result[:, 0] = (p.exp() * (p - q)).sum(1)
    result[:, 1] = p.argmax(1) == q.argmax(1)
    index = targets.clamp(min=0)[:, None]
    result[:, 2], result[:, 3] = p.gather(1, index)[:, 0], q.gather(1, index)[:, 0]
    result[targets < 0, 2:] = torch.nan
    return result
