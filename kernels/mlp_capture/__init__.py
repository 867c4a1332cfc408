"""An MLP's activation function and what is measured around it, in one pass: post-activation, its moments, sign codes of the input.

Where the function follows anyway, reading its input once more to look at it, and its output once more, is two passes too many.
"""

from __future__ import annotations

from pathlib import Path

import torch

from kernels import tokens
from kernels.mlp_capture.reference import ACTIVATIONS
from kernels.mlp_capture.reference import post as reference
from kernels.moments import Moments
from kernels.sign_codes import SignCodes


class MlpCapture:
    """Computes post = f(pre) (times up, in a gated MLP) for the model and accumulates over the kept tokens on the way.

    moments   kernels.Moments of post [channel]          codes   kernels.SignCodes of pre, with on-counts; `sink` as there

    `activation` is one of ACTIVATIONS. What `activate` returns has pre's dtype and holds every token, kept or not: the model
    runs on with it. It equals the library's own function to rounding (float32: a few units in the last place).
    """

    def __init__(self, n_channels: int, activation: str, sink: str | Path | None = None, threshold: float = 0.0, keep_codes: bool = True, device="cpu"):
        if activation not in ACTIVATIONS:
            raise ValueError(f"Unknown activation “{activation}”; known: {', '.join(ACTIVATIONS)}.")
        self.n_channels, self.activation = n_channels, activation
        self.moments = Moments(n_channels, device=device)
        self.codes = SignCodes(n_channels, sink=sink, threshold=threshold, keep_codes=keep_codes)

    def activate(self, pre: torch.Tensor, up: torch.Tensor | None = None, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> torch.Tensor:
        """post [token, channel] in pre's dtype; pre, up [token, channel] of one dtype; codes go to rows start, start + 1, …"""
        tokens.check(pre, self.n_channels, keep)
        if up is not None and (up.shape != pre.shape or up.dtype != pre.dtype):
            raise ValueError(f"Expected up like pre, {pre.dtype} {list(pre.shape)}, found {up.dtype} {list(up.shape)}.")
        impl = tokens.chosen(pre, impl)
        if impl == "reference":
            post = reference(pre, up, self.activation).to(pre.dtype)
            self.moments.add(post, keep, impl=impl)
            self.codes.add(pre, keep, start, impl=impl)
            return post
        if impl == "cpu":
            from kernels.mlp_capture import cpu as fused
        else:
            from kernels.mlp_capture import gpu as fused
        near = self.moments.mean if self.moments.count else None
        post, sums, codes, counts = fused.mlp_capture(pre, up, keep, self.activation, self.codes.threshold, near)
        self.moments.fold(*sums)
        self.codes.fold(sums[0], codes, counts, start)
        return post

    def add(self, pre: torch.Tensor, up: torch.Tensor | None = None, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        """Accumulate only; the post-activation is thrown away."""
        self.activate(pre, up, keep, start, impl)

    @property
    def device(self) -> torch.device:
        return self.moments.device

    def to(self, device: str | torch.device) -> None:
        """The moments accumulate there from now on; codes and on-counts stay in host memory."""
        self.moments.to(device)

    def merge(self, other: MlpCapture) -> None:
        self.moments.merge(other.moments)
        self.codes.merge(other.codes)
