"""What the pooled codes are checked on: sequences of 9 tokens, k of 70 latents, integers so that ties are exact."""

import torch

from kernels.hostile import Case
from kernels.sae_pool import SaePool

TOLERANCE = {"cpu": 1e-6, "gpu": 1e-6}
LENGTH = 9


def cases() -> list[Case]:
    generator = torch.Generator().manual_seed(5)
    whole = torch.randint(-3, 4, (27, 6), generator=generator).float()
    plain = torch.randn(45, 6, generator=generator)
    keep = torch.rand(45, generator=generator) > 0.3
    keep[9:18] = False
    return [
        Case("nothing", (plain[:0],)),
        Case("integers with ties", (whole,)),
        Case("masked, one sequence empty", (plain,), keep),
        Case("bfloat16", (plain.to(torch.bfloat16),), keep),
        Case("transposed", (plain[:18].T.contiguous().T,)),
    ]


def new(case, pool: str = "mean"):
    generator = torch.Generator().manual_seed(6)
    weight = torch.randint(-2, 3, (6, 70), generator=generator).float()
    b_enc, b_dec = torch.randint(-2, 3, (70,), generator=generator).float(), torch.ones(6)
    return SaePool(weight, b_enc, b_dec, k=5, length=LENGTH, pool=pool)


def figures(statistic) -> dict:
    indptr, latents, values = statistic.matrix()
    return {"count": statistic.count, "fired": statistic.fired, "indptr": indptr, "latents": latents, "values": values}
