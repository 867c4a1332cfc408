"""Second moments between channels, C = Σ x xᵀ, streamed."""

from __future__ import annotations

import torch

from kernels import tokens
from kernels.gram.reference import gram as reference


class Gram:
    """Accumulates over tokens.

    count       tokens seen (int)
    sum         Σ x [channel], float64
    matrix      Σ x xᵀ [channel, channel], float64 copy, exactly symmetric
    covariance  matrix / count − mean meanᵀ, population

    Accumulates in float32 (4 bytes per entry); `double=True` computes and accumulates in float64, at half the rate, for
    nearly singular matrices or means far from zero.
    """

    def __init__(self, n_channels: int, double: bool = False, device: str | torch.device = "cpu"):
        self.n_channels, self.count = n_channels, 0
        self.sum = torch.zeros(n_channels, dtype=torch.float64, device=device)
        self._upper = torch.zeros(n_channels, n_channels, dtype=torch.float64 if double else torch.float32, device=device)

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        """x [token, channel]; tokens with keep False are left out. `start` is not needed here."""
        tokens.check(x, self.n_channels, keep)
        impl = tokens.chosen(x, impl)
        if impl == "reference":
            count, total, matrix = reference(x, keep)
            self.sum += total
            self._upper += matrix.triu().to(self._upper.dtype)
        elif impl == "cpu":
            from kernels.gram import cpu

            count = cpu.add_gram(x, keep, self.sum, self._upper)
        else:
            from kernels.gram import gpu

            total, upper = self.sum.to(x.device), self._upper.to(x.device)  # themselves, where they already are there
            count = gpu.add_gram(x, keep, total, upper)
            if upper is not self._upper:
                self.sum.copy_(total), self._upper.copy_(upper)
        self.count += count

    @property
    def device(self) -> torch.device:
        return self._upper.device

    def to(self, device: str | torch.device) -> None:
        """Accumulate there from now on; beside the activations, the matrix is not carried to and fro."""
        self.sum, self._upper = self.sum.to(device), self._upper.to(device)

    def merge(self, other: Gram) -> None:
        self.count += other.count
        self.sum += other.sum.to(self.sum)
        self._upper += other._upper.to(self._upper)

    @property
    def matrix(self) -> torch.Tensor:
        upper = self._upper.to(torch.float64).triu()
        return upper + upper.triu(1).T

    @property
    def mean(self) -> torch.Tensor:
        return self.sum / max(self.count, 1)

    @property
    def covariance(self) -> torch.Tensor:
        return self.matrix / max(self.count, 1) - torch.outer(self.mean, self.mean)
