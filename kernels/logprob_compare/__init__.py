"""How far one model's next-token distribution is from another's, in one pass over both logit blocks."""

from __future__ import annotations

from pathlib import Path

import torch

from kernels import tokens
from kernels.logprob_compare.reference import compare as reference
from kernels.sink import Sink

KL, AGREE, A, B = range(4)


class LogProbCompare:
    """Accumulates over tokens; a is the model compared against (the original), b the other. Natural logarithms.

    count            tokens compared (int)                        n_targets  those among them with a target
    kl_mean          mean KL(p_a ‖ p_b), nats, ≥ 0                kl_std     its population standard deviation
    agreement        fraction of tokens whose top-1 token is the same (ties: lowest id)
    nll_a, nll_b     mean −log p(target), nats; exp of it is the perplexity
    difference       mean log p_b(target) − log p_a(target)       difference_std
    tokens()         with `per_token=True` (in memory) or a path: float32 [token, 4] by flat token index:
                     KL, agreement (0/1), log p_a(target), log p_b(target); NaN where left out
    """

    def __init__(self, per_token: bool | str | Path = False):
        self.count = self.n_targets = self.n_agree = 0
        self._kl = torch.zeros(2, dtype=torch.float64)  # mean, M2
        self._target = torch.zeros(2, 3, dtype=torch.float64)  # mean and M2 of log p_a, log p_b, their difference
        self._sink = Sink(None if per_token is True else per_token, (4,), "<f4") if per_token else None

    def add(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        targets: torch.Tensor,
        keep: torch.Tensor | None = None,
        start: int = 0,
        impl: str | None = None,
    ) -> None:
        """a, b [token, vocabulary] logits; targets int64 [token], the reference next token, negative where there is none."""
        if a.shape != b.shape or a.device != b.device:
            raise ValueError(f"Expected two logit blocks of one shape, found {list(a.shape)} and {list(b.shape)}.")
        tokens.check(a, a.shape[-1], keep)
        tokens.check(b, a.shape[-1], keep)
        if targets.shape != a.shape[:1] or targets.dtype != torch.int64:
            raise ValueError(f"Expected int64 targets [{len(a)}], found {targets.dtype} {list(targets.shape)}.")
        if len(targets) and int(targets.max()) >= a.shape[1]:
            raise ValueError(f"Target {int(targets.max())} lies outside the vocabulary of {a.shape[1]}.")
        impl = tokens.chosen(a, impl)
        if impl == "reference":
            values = reference(a, b, targets)
        elif impl == "cpu":
            from kernels.logprob_compare import cpu

            values = cpu.compare(a, b, targets, keep)
        else:
            from kernels.logprob_compare import gpu

            values = gpu.compare(a, b, targets, keep)
        values = values.cpu()
        keep = torch.ones(len(a), dtype=torch.bool) if keep is None else keep.cpu()
        if self._sink is not None:
            self._sink.write(start, values.masked_fill(~keep[:, None], torch.nan).to(torch.float32).numpy())
        values = values[keep]
        if len(values) == 0:
            return
        self.n_agree += int(values[:, AGREE].sum())
        self.count, self._kl = _fold(self.count, self._kl, *_moments(values[:, KL]))
        known = values[~values[:, A].isnan()]
        if len(known):
            columns = torch.stack([known[:, A], known[:, B], known[:, B] - known[:, A]], dim=1)
            self.n_targets, self._target = _fold(self.n_targets, self._target, *_moments(columns))

    def merge(self, other: LogProbCompare) -> None:
        self.n_agree += other.n_agree
        if other.count:
            self.count, self._kl = _fold(self.count, self._kl, other.count, other._kl)
        if other.n_targets:
            self.n_targets, self._target = _fold(self.n_targets, self._target, other.n_targets, other._target)
        if self._sink is not None and other._sink is not None:
            self._sink.merge(other._sink)

    def tokens(self):
        if self._sink is None:
            raise ValueError("Per-token values were not kept: make the statistic with per_token=True or a path.")
        return self._sink.rows()

    @property
    def kl_mean(self) -> float:
        return float(self._kl[0]) if self.count else float("nan")

    @property
    def kl_std(self) -> float:
        return float((self._kl[1] / self.count).sqrt()) if self.count else float("nan")

    @property
    def agreement(self) -> float:
        return self.n_agree / self.count if self.count else float("nan")

    @property
    def nll_a(self) -> float:
        return -float(self._target[0, 0]) if self.n_targets else float("nan")

    @property
    def nll_b(self) -> float:
        return -float(self._target[0, 1]) if self.n_targets else float("nan")

    @property
    def difference(self) -> float:
        return float(self._target[0, 2]) if self.n_targets else float("nan")

    @property
    def difference_std(self) -> float:
        return float((self._target[1, 2] / self.n_targets).sqrt()) if self.n_targets else float("nan")


def _moments(values: torch.Tensor) -> tuple[int, torch.Tensor]:
    """(count, [mean, M2] stacked) of values [n, …] over n."""
    mean = values.mean(0)
    return len(values), torch.stack([mean, ((values - mean) ** 2).sum(0)])


def _fold(count: int, state: torch.Tensor, n: int, new: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Chan, Golub & LeVeque's merge of two (count, [mean, M2])."""
    step, total = new[0] - state[0], count + n
    return total, torch.stack([state[0] + step * (n / total), state[1] + new[1] + step * step * (count * n / total)])
