"""What the top tokens are checked on; values and positions must be equal. Beside the shared cases: many ties, fewer tokens than k."""

import torch

from kernels.hostile import Case, activations
from kernels.top_k import TopK

TOLERANCE = {"cpu": 0.0, "gpu": 0.0}


def cases() -> list[Case]:
    ties = torch.randint(-2, 3, (150, 130), generator=torch.Generator().manual_seed(3)).float()
    odd = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf")]).repeat(4, 13)
    return [*activations(), Case("ties", (ties,), torch.arange(150) % 7 != 0), Case("zeros, NaN and infinities", (odd,))]


def new(case):
    return TopK(case.tensors[0].shape[1], k=5)


def figures(statistic) -> dict:
    return {"count": statistic.count, "values": statistic.values, "positions": statistic.positions}
