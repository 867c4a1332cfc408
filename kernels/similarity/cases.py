"""What the similarity is checked on; beside the shared cases, tokens that are equal, opposite and orthogonal."""

import torch

from kernels.hostile import Case, activations
from kernels.similarity import Similarity

TOLERANCE = {"cpu": 1e-7, "gpu": 1e-7}  # the angle of equal vectors is arccos of 1 ± 1e-16


def cases() -> list[Case]:
    a = torch.eye(4).repeat(4, 1)
    b = torch.cat([torch.eye(4), -2 * torch.eye(4), torch.eye(4).roll(1, 0), torch.zeros(4, 4)])
    return [*activations(2), Case("equal, opposite, orthogonal, undefined", (a, b))]


def new(case):
    return Similarity(bins=7, per_token=True)


def figures(statistic) -> dict:
    names = ("count", "undefined", "cosine_mean", "angle_mean", "ratio_mean", "update_mean")
    return {**{name: getattr(statistic, name) for name in names}, "tokens": statistic.tokens(), "binned": statistic.histogram.sum()}
