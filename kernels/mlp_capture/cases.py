"""What the fused capture is checked on: the shared cases, plain and gated, with every function in turn."""

import torch

from kernels.hostile import Case, activations
from kernels.mlp_capture import MlpCapture
from kernels.mlp_capture.reference import ACTIVATIONS

# of the largest figure; post is compared as the model gets it, so in bfloat16 two neighbours of a rounding edge may differ
TOLERANCE = {"cpu": 4e-6, "gpu": 2e-5}


def cases() -> list[Case]:
    plain = [case for case in activations() if "bfloat16" not in case.name and "float16" not in case.name]
    return [*plain, *(Case(f"gated {case.name}", case.tensors, case.keep) for case in activations(2) if "float16" not in case.name)]


def new(case):
    return Kept(case.tensors[0].shape[1], ACTIVATIONS[len(case.name) % len(ACTIVATIONS)])


class Kept(MlpCapture):
    """Keeps Σ post over the kept tokens as the model gets it, so that the returned tensor is checked with the figures."""

    def __init__(self, *given):
        super().__init__(*given)
        self.total = torch.zeros(self.n_channels, dtype=torch.float64)

    def activate(self, pre, up=None, keep=None, start=0, impl=None):
        post = super().activate(pre, up, keep, start, impl)
        assert post.shape == pre.shape and post.dtype == pre.dtype
        self.total += (post if keep is None else post[keep]).to("cpu", torch.float64).sum(0)
        return post

    def merge(self, other):
        super().merge(other)
        self.total += other.total


def figures(statistic) -> dict:
    m, s = statistic.moments, statistic.codes
    return {"count": m.count, "mean": m.mean.cpu(), "variance": m.variance.cpu(), "abs_sum": m.abs_mean.cpu(), "abs_max": m.abs_max.cpu(), "on_counts": s.on_counts,
            "codes": s.codes(), "post": statistic.total / max(m.count, 1)}
