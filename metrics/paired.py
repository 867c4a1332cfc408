"""Two models on the same tokens: quantiles with an interval over sequences, and McNemar's test of who is right where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metrics.bootstrap import LEVEL

TAILS = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]


def quantiles(values: np.ndarray, sequence: np.ndarray, n_sequences: int, at: tuple[float, ...], resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """[quantile, 3] value, low, high of values [token]; sequence [token] int says whose token it is, sequences are resampled whole.

    A quantile is the smallest value that at least that share of the tokens does not exceed, so it is a value that occurs.
    95 % percentile interval; NaN with fewer than two sequences.
    """
    values = np.asarray(values, np.float64)
    order = np.argsort(values, kind="stable")
    ranked, owner = values[order], np.asarray(sequence)[order]
    out = np.full((len(at), 3), np.nan)
    if not len(ranked):
        return out
    out[:, 0] = ranked[_at(np.arange(1, len(ranked) + 1), at)]
    if n_sequences < 2:
        return out
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        times = rng.multinomial(n_sequences, np.full(n_sequences, 1 / n_sequences))
        cumulated = np.cumsum(times[owner])
        if cumulated[-1]:  # all drawn sequences may be without a token
            drawn.append(ranked[_at(cumulated, at)])
    out[:, 1:] = np.quantile(np.array(drawn), TAILS, axis=0).T
    return out


def _at(cumulated: np.ndarray, at: tuple[float, ...]) -> np.ndarray:
    return np.minimum(np.searchsorted(cumulated, np.asarray(at) * cumulated[-1] - 1e-9), len(cumulated) - 1)


@dataclass(frozen=True)
class McNemar:
    """Of the tokens that only one model gets right, `share` are those that only A does, with its exact 95 % interval
    (Clopper and Pearson); p is the exact two-sided binomial test of 1/2. NaN and p = 1 where there are no such tokens."""

    only_a: int
    only_b: int
    share: float
    low: float
    high: float
    p: float


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """Exact McNemar test from the two discordant counts."""
    from scipy.stats import binomtest

    n = only_a + only_b
    if n == 0:
        return McNemar(0, 0, float("nan"), float("nan"), float("nan"), 1.0)
    test = binomtest(only_a, n, 0.5)
    low, high = test.proportion_ci(LEVEL, "exact")
    return McNemar(only_a, only_b, only_a / n, float(low), float(high), float(test.pvalue))
