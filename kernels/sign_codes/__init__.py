"""Which channels are on, packed to one bit each, with the fraction of tokens each is on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kernels import tokens
from kernels.sign_codes.reference import n_bytes
from kernels.sign_codes.reference import sign_codes as reference
from kernels.sink import Sink


class SignCodes:
    """Accumulates over tokens; on means x > threshold (in float32), NaN is off.

    count        tokens seen (int)
    on_counts    tokens each channel is on, int64 [channel]          on_fraction  on_counts / count, float64 [channel]
    codes()      uint8 [token, bytes] by flat token index, bytes = 8 ⌈channels / 64⌉; channel c is bit c % 8 of byte c // 8, so
                 that `.view("<u8")` gives whole words; tokens left out are 0. A read-only map of `sink` where one was given.
    bits()       bool [token, channel], for small cases

    `sink` is a path (rows on disk, memory constant) or None (rows in memory); `keep_codes=False` counts only.
    """

    def __init__(
        self, n_channels: int, sink: str | Path | None = None, threshold: float = 0.0, keep_codes: bool = True
    ):
        self.n_channels, self.threshold, self.count = n_channels, float(threshold), 0
        self.on_counts = torch.zeros(n_channels, dtype=torch.int64)
        self._sink = Sink(sink, (n_bytes(n_channels),), "u1") if keep_codes else None

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        """x [token, channel], usually a pre-activation; codes are written to rows start, start + 1, …"""
        tokens.check(x, self.n_channels, keep)
        impl = tokens.chosen(x, impl)
        if impl == "reference":
            codes, counts = reference(x, keep, self.threshold)
        elif impl == "cpu":
            from kernels.sign_codes import cpu

            codes, counts = cpu.sign_codes(x, keep, self.threshold)
        else:
            from kernels.sign_codes import gpu

            codes, counts = gpu.sign_codes(x, keep, self.threshold)
        self.fold(len(x) if keep is None else int(keep.sum()), codes, counts, start)

    def fold(self, count: int, codes: np.ndarray, counts: torch.Tensor, start: int) -> None:
        """Take in the codes of other tokens [token, bytes], `count` of them kept, with their on-counts [channel]."""
        self.count += count
        self.on_counts += counts.cpu()
        if self._sink is not None:
            self._sink.write(start, codes)

    def merge(self, other: SignCodes) -> None:
        self.count += other.count
        self.on_counts += other.on_counts
        if self._sink is not None and other._sink is not None:
            self._sink.merge(other._sink)

    @property
    def on_fraction(self) -> torch.Tensor:
        return self.on_counts.to(torch.float64) / max(self.count, 1)

    def codes(self) -> np.ndarray:
        if self._sink is None:
            raise ValueError("Codes were not kept: make the statistic with keep_codes=True.")
        return self._sink.rows()

    def bits(self) -> np.ndarray:
        return np.unpackbits(self.codes(), axis=1, bitorder="little")[:, : self.n_channels].astype(bool)
