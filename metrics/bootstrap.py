"""Intervals and nulls: bootstrap over sequences, rank correlation with its interval and its shuffled null."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

LEVEL = 0.95


def ratio_interval(sums: np.ndarray, counts: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, low, high) [...] of Σ sums / Σ counts, sums [..., sequence], counts [sequence]; sequences are resampled whole.

    Tokens of one sequence are not independent, so the sequence is the unit. 95 % percentile interval; with one sequence
    it is NaN, because nothing can be said.
    """
    counts = np.asarray(counts, np.float64)
    mean = sums.sum(-1) / counts.sum()
    n = len(counts)
    if n < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)
    drawn = sums @ weights.T / (weights @ counts)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return mean, low, high


def pearson_interval(sums: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(r, low, high) of pairs given as sums by sequence [sequence, 6]: n, Σx, Σy, Σx², Σy², Σxy; sequences are resampled whole.

    95 % percentile interval; NaN with one sequence, all NaN where one side does not vary.
    """
    sums = np.asarray(sums, np.float64)
    r = float(pearson(sums.sum(0)))
    n = len(sums)
    if n < 2 or not np.isfinite(r):
        return r, float("nan"), float("nan")
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)
    low, high = np.nanquantile(pearson(weights @ sums), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return r, float(low), float(high)


def pair_sums(x: np.ndarray, y: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Sums by sequence [sequence, 6] for `pearson_interval`, of x and y [sequence, position] where `here` is True."""
    x, y, n = np.where(here, x, 0.0), np.where(here, y, 0.0), here.sum(1)
    return np.stack([n, x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], 1).astype(np.float64)


def pearson(sums: np.ndarray) -> np.ndarray:
    """r [...] of sums [..., 6] as `pair_sums` makes them; NaN where one side does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
        return np.where(spread > 1e-18 * (n * xx) * (n * yy), (n * xy - x * y) / np.sqrt(spread), np.nan)


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ of n pairs, its 95 % interval, the 95 % band of shuffled pairings and the two-sided p against them."""

    rho: float
    low: float
    high: float
    null_low: float
    null_high: float
    p: float
    n: int


def rank_correlation(x: np.ndarray, y: np.ndarray, shuffles: int = 10_000, seed: int = 0) -> RankCorrelation:
    """Pairs with a missing value are left out; NaN where fewer than 4 are left or one side is constant.

    Interval: Fisher's z with Bonett and Wright's variance (1 + ρ²/2)/(n − 3), ρ held one half-step away from ±1 so that a
    perfect order of six blocks does not pretend to certainty.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    here = np.isfinite(x) & np.isfinite(y)
    return _of_ranks(tuple(ranks(x[here]).tolist()), tuple(ranks(y[here]).tolist()), shuffles, seed)


@lru_cache(maxsize=256)
def _of_ranks(x: tuple, y: tuple, shuffles: int, seed: int) -> RankCorrelation:
    n, x, y = len(x), np.array(x), np.array(y)
    if n < 4 or x.std() == 0 or y.std() == 0:
        return RankCorrelation(*[float("nan")] * 6, n)
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    rho = float(x @ y / n)
    null = np.random.default_rng(seed).permuted(np.tile(y, (shuffles, 1)), axis=1) @ x / n
    null_low, null_high = np.quantile(null, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    p = float((1 + (np.abs(null) >= abs(rho) - 1e-12).sum()) / (1 + shuffles))
    most = 1 - 6 / (n**3 - n)
    z = np.arctanh(np.clip(rho, -most, most))
    half = 1.959964 * np.sqrt((1 + rho**2 / 2) / (n - 3))
    return RankCorrelation(rho, float(np.tanh(z - half)), float(np.tanh(z + half)), float(null_low), float(null_high), p, n)


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties share their mean rank."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return (last - (counts - 1) / 2)[inverse]
