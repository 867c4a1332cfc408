"""How alike two places in the model are, token by token, without storing either."""

from __future__ import annotations

from pathlib import Path

import torch

from kernels import tokens
from kernels.similarity.reference import similarity as reference
from kernels.sink import Sink

COSINE, RATIO, UPDATE, ANGLE = range(4)


class Similarity:
    """Accumulates over tokens the cosine, norm ratio and relative update of b against a.

    count            kept tokens where both vectors are non-zero (int); `undefined` counts the others
    cosine_mean      mean cosine(a, b), −1…1              cosine_std    population standard deviation of it
    influence        1 − cosine_mean (block influence, ShortGPT)
    angle_mean       mean arccos(cosine) / π, 0…1 (angular distance, Gromov et al.)
    ratio_mean       mean ‖b‖ / ‖a‖                       update_mean   mean ‖b − a‖ / ‖a‖
    histogram        tokens per bin of the cosine, int64 [bins]; `edges` float64 [bins + 1] from −1 to 1
    tokens()         with `per_token=True` (in memory) or a path: float32 [token, 3] cosine, ratio, update by flat token index,
                     NaN where left out
    """

    def __init__(self, n_channels: int | None = None, bins: int = 200, per_token: bool | str | Path = False):
        self.n_channels = n_channels  # checked when given
        self.count = self.undefined = 0
        self.edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64)
        self.histogram = torch.zeros(bins, dtype=torch.int64)
        self._mean = torch.zeros(4, dtype=torch.float64)  # cosine, ratio, update, angle
        self._m2 = torch.zeros(4, dtype=torch.float64)
        self._sink = Sink(None if per_token is True else per_token, (3,), "<f4") if per_token else None

    def add(
        self, a: torch.Tensor, b: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None
    ) -> None:
        """a, b [token, channel] of the same tokens; tokens with keep False are left out."""
        if a.shape != b.shape or a.device != b.device:
            raise ValueError(f"Expected two activations of one shape, found {list(a.shape)} and {list(b.shape)}.")
        tokens.check(a, self.n_channels or a.shape[-1], keep)
        tokens.check(b, a.shape[-1], keep)
        impl = tokens.chosen(a, impl)
        if impl == "reference":
            values = reference(a, b)
        elif impl == "cpu":
            from kernels.similarity import cpu

            values = cpu.similarity(a, b, keep)
        else:
            from kernels.similarity import gpu

            values = gpu.similarity(a, b, keep)
        values = values.cpu()
        keep = torch.ones(len(a), dtype=torch.bool) if keep is None else keep.cpu()
        if self._sink is not None:
            self._sink.write(start, values.masked_fill(~keep[:, None], torch.nan).to(torch.float32).numpy())
        values = values[keep]
        defined = values[~values[:, COSINE].isnan()]
        self.undefined += len(values) - len(defined)
        if len(defined) == 0:
            return
        cosine = defined[:, COSINE]
        bins = len(self.histogram)
        self.histogram += torch.bincount(((cosine + 1) * (bins / 2)).to(torch.int64).clamp(0, bins - 1), minlength=bins)
        columns = torch.cat([defined, (cosine.arccos() / torch.pi)[:, None]], dim=1)
        mean = columns.mean(0)
        self._fold(len(columns), mean, ((columns - mean) ** 2).sum(0))

    def merge(self, other: Similarity) -> None:
        self.undefined += other.undefined
        self.histogram += other.histogram
        if other.count:
            self._fold(other.count, other._mean, other._m2)
        if self._sink is not None and other._sink is not None:
            self._sink.merge(other._sink)

    def _fold(self, count: int, mean: torch.Tensor, m2: torch.Tensor) -> None:
        total = self.count + count
        step = mean - self._mean
        self._mean = self._mean + step * (count / total)
        self._m2 = self._m2 + m2 + step * step * (self.count * count / total)
        self.count = total

    def tokens(self):
        if self._sink is None:
            raise ValueError("Per-token values were not kept: make the statistic with per_token=True or a path.")
        return self._sink.rows()

    def _value(self, which: int) -> float:
        return float(self._mean[which]) if self.count else float("nan")

    @property
    def cosine_mean(self) -> float:
        return self._value(COSINE)

    @property
    def cosine_std(self) -> float:
        return float((self._m2[COSINE] / self.count).sqrt()) if self.count else float("nan")

    @property
    def influence(self) -> float:
        return 1.0 - self.cosine_mean

    @property
    def angle_mean(self) -> float:
        return self._value(ANGLE)

    @property
    def ratio_mean(self) -> float:
        return self._value(RATIO)

    @property
    def update_mean(self) -> float:
        return self._value(UPDATE)
