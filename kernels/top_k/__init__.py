"""The tokens at which each channel or latent is largest."""

from __future__ import annotations

import numpy as np
import torch

from kernels import tokens
from kernels.top_k.reference import top_k as reference


class TopK:
    """Accumulates over tokens.

    values      [channel, k] float32, largest first; −inf where fewer tokens were seen
    positions   [channel, k] int64, flat token index (sequence × length + position); −1 there

    Ties are broken by the lowest position, whatever the order in which batches come or are merged. NaN and −inf never count.
    """

    def __init__(self, n_channels: int, k: int = 20):
        if k < 1:
            raise ValueError(f"Expected k ≥ 1, found {k}.")
        self.n_channels, self.k, self.count = n_channels, k, 0
        self.values, self.positions = self._empty()
        self._last = -1  # latest position seen

    def _empty(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((self.n_channels, self.k), -torch.inf), torch.full((self.n_channels, self.k), -1, dtype=torch.int64)

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        """x [token, channel]; tokens with keep False are left out; their positions are start, start + 1, …"""
        tokens.check(x, self.n_channels, keep)
        impl = tokens.chosen(x, impl)
        if impl == "reference":
            x = x if keep is None else x[keep]
            where = torch.arange(start, start + (len(x) if keep is None else len(keep)))
            where = where if keep is None else where[keep.cpu()]
            self._take(*reference(x.cpu(), where, self.k))
        elif impl == "cpu":
            from kernels.top_k import cpu

            self._in_order(start, len(x), lambda values, positions: cpu.top_k(x, keep, start, values.numpy(), positions.numpy()))
        else:
            from kernels.top_k import gpu

            self._take(*(t.cpu() for t in gpu.top_k(x, keep, start, *(t.to(x.device) for t in self._empty()))))
        self.count += len(x) if keep is None or impl == "reference" else int(keep.sum())

    def add_sparse(self, channels: np.ndarray, x: np.ndarray, keep: torch.Tensor | None = None, start: int = 0) -> None:
        """Codes as kernels.sae_pool gives them: channels int32 and x float32 [token, j], channel −1 for an empty place."""
        from kernels.top_k import cpu

        if channels.size and channels.max() >= self.n_channels:
            raise ValueError(f"Channel {channels.max()} does not exist; there are {self.n_channels}.")
        fill = lambda values, positions: cpu.top_k_sparse(channels, x, keep, start, values.numpy(), positions.numpy())  # noqa: E731
        self._in_order(start, len(x), fill)
        self.count += len(x) if keep is None else int(keep.sum())

    def _in_order(self, start: int, n: int, fill) -> None:
        """Update in place when these tokens are later than all seen; else gather them apart and merge."""
        if start > self._last:
            fill(self.values, self.positions)
        else:
            values, positions = self._empty()
            fill(values, positions)
            self._take(values, positions)
        self._last = max(self._last, start + n - 1)

    def merge(self, other: TopK) -> None:
        self._take(other.values, other.positions)
        self.count += other.count
        self._last = max(self._last, other._last)

    def _take(self, values: torch.Tensor, positions: torch.Tensor) -> None:
        both = torch.cat([self.values, values], 1).T, torch.cat([self.positions, positions], 1).T
        self.values, self.positions = reference(*both, self.k)
