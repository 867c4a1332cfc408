"""What the sign codes are checked on: bits must be equal, so zeros, negative zeros, NaN and infinities stand beside the shared cases."""

import torch

from kernels.hostile import Case, activations
from kernels.sign_codes import SignCodes

TOLERANCE = {"cpu": 0.0, "gpu": 0.0}


def cases() -> list[Case]:
    odd = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45, -1e-45, 1.0]).repeat(3, 17)
    return [*activations(), Case("zeros, NaN and infinities", (odd,))]


def new(case):
    return SignCodes(case.tensors[0].shape[1])


def figures(statistic) -> dict:
    return {"count": statistic.count, "on_counts": statistic.on_counts, "codes": statistic.codes()}
