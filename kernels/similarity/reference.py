"""Definition of the similarity of two activations of the same tokens, a and b [n, c]; float64."""

from __future__ import annotations

import torch


def similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[n, 3] float64: cosine(a, b), ‖b‖ / ‖a‖, ‖b − a‖ / ‖a‖ of each token; NaN where a or b is the zero vector."""
    a, b = a.to(torch.float64), b.to(torch.float64)
    aa, bb, ab, dd = (a * a).sum(1), (b * b).sum(1), (a * b).sum(1), ((b - a) ** 2).sum(1)
    result = torch.stack([(ab / (aa.sqrt() * bb.sqrt())).clamp(-1, 1), (bb / aa).sqrt(), (dd / aa).sqrt()], dim=1)
    result[(aa == 0) | (bb == 0)] = torch.nan
    return result
