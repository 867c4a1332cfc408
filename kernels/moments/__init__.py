"""Mean, spread and size of every channel, in one read of the activations."""

from __future__ import annotations

import torch

from kernels import tokens
from kernels.moments.reference import moments as reference


class Moments:
    """Accumulates over tokens; every tensor is [channel] float64 on `device`.

    count      tokens seen (int)            mean       mean of x
    m2         Σ (x − mean)²                variance   m2 / count (population; 0 without tokens)
    abs_sum    Σ |x|                        square_sum Σ x²  (Wanda's ‖x‖² of an input channel)
    abs_max    max |x|                      rms        sqrt(Σ x² / count)       abs_mean  Σ |x| / count

    Merged after Chan, Golub & LeVeque (1983): no cancellation at mean 10⁴ and spread 10⁻¹.
    """

    def __init__(self, n_channels: int, device: str | torch.device = "cpu"):
        self.n_channels = n_channels
        self.count = 0
        self.mean, self.m2, self.abs_sum, self.abs_max = torch.zeros(4, n_channels, dtype=torch.float64, device=device).unbind()

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        """x [token, channel]; tokens with keep False are left out. `start` is not needed here."""
        tokens.check(x, self.n_channels, keep)
        impl = tokens.chosen(x, impl)
        if impl == "reference":
            self.fold(*reference(x, keep))
        elif impl == "cpu":
            from kernels.moments import cpu

            self.fold(*cpu.moments(x, keep, self.mean if self.count else None))
        else:
            from kernels.moments import gpu

            self.fold(*gpu.moments(x, keep, self.mean if self.count else None))

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def to(self, device: str | torch.device) -> None:
        """Accumulate there from now on; beside the activations, adding waits for no copy."""
        self.mean, self.m2, self.abs_sum, self.abs_max = (t.to(device) for t in (self.mean, self.m2, self.abs_sum, self.abs_max))

    def merge(self, other: Moments) -> None:
        self.fold(other.count, other.mean, other.m2, other.abs_sum, other.abs_max)

    def fold(self, count: int, mean, m2, abs_sum, abs_max) -> None:
        """Take in the figures of other tokens: their number and [channel] each."""
        if count == 0:
            return
        total = self.count + count
        step = mean.to(self.mean) - self.mean
        self.mean = self.mean + step * (count / total)
        self.m2 = self.m2 + m2.to(self.m2) + step * step * (self.count * count / total)
        self.abs_sum = self.abs_sum + abs_sum.to(self.abs_sum)
        self.abs_max = torch.maximum(self.abs_max, abs_max.to(self.abs_max))
        self.count = total

    @property
    def variance(self) -> torch.Tensor:
        return self.m2 / max(self.count, 1)

    @property
    def square_sum(self) -> torch.Tensor:
        return self.m2 + self.count * self.mean * self.mean

    @property
    def rms(self) -> torch.Tensor:
        return (self.square_sum / max(self.count, 1)).sqrt()

    @property
    def abs_mean(self) -> torch.Tensor:
        return self.abs_sum / max(self.count, 1)
