"""What the comparison is checked on: the shared cases as logits, equal models, sharp distributions, tied maxima, no targets."""

import torch

from kernels.hostile import Case, activations
from kernels.logprob_compare import LogProbCompare

TOLERANCE = {"cpu": 1e-6, "gpu": 1e-5}


def cases() -> list[Case]:
    made = []
    for case in activations(2):
        n, v = case.tensors[0].shape
        made.append(Case(case.name, (*case.tensors, torch.arange(n) % (v + 1) - 1), case.keep))
    a = torch.randn(6, 2500, generator=torch.Generator().manual_seed(1))
    none = torch.full((6,), -1)
    made.append(Case("equal models, no targets", (a, a.clone(), none)))
    made.append(Case("sharp", (30 * a, 30 * a.flip(1), none + 7)))
    ties = torch.zeros(6, 2500)
    ties[:, [1100, 1200]] = 5.0
    made.append(Case("tied maxima", (ties, ties.roll(-50, 1), none + 1101)))
    made.append(Case("constant", (torch.zeros(6, 31), torch.zeros(6, 31), none + 1)))
    return made


def new(case):
    return LogProbCompare(per_token=True)


def figures(statistic) -> dict:
    names = ("count", "n_targets", "kl_mean", "agreement", "nll_a", "nll_b", "difference")
    return {**{name: getattr(statistic, name) for name in names}, "tokens": statistic.tokens()}
