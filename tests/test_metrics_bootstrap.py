"""Intervals and nulls, against counts done by hand and against scipy."""

import numpy as np
import pytest

from metrics.bootstrap import rank_correlation, ranks, ratio_interval


def test_mean_is_over_tokens_not_over_sequences():
    mean, low, high = ratio_interval(np.array([2.0, 9.0]), np.array([1, 3]))
    assert mean == 11 / 4 and low == 2.0 and high == 3.0  # the extremes are both of one sequence


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        values = rng.exponential(size=60)
        _, low, high = ratio_interval(values, np.ones(60), resamples=400, seed=i)
        hits += low <= 1.0 <= high
    assert 175 <= hits <= 199


def test_one_sequence_gives_no_interval():
    mean, low, high = ratio_interval(np.array([[3.0], [4.0]]), np.array([2]))
    assert mean.tolist() == [1.5, 2.0] and np.isnan(low).all() and np.isnan(high).all()


def test_same_seed_same_bits():
    values = np.random.default_rng(1).random((3, 20))
    one, two, other = (ratio_interval(values, np.ones(20), seed=s) for s in (0, 0, 1))
    assert np.array_equal(one[1], two[1]) and not np.array_equal(one[1], other[1])


def test_ranks_share_ties():
    assert ranks(np.array([5.0, 1.0, 5.0, 9.0])).tolist() == [1.5, 0.0, 1.5, 3.0]


def test_rho_by_hand_and_against_scipy():
    from scipy.stats import spearmanr

    assert rank_correlation([1, 2, 3, 4], [10, 20, 40, 30]).rho == pytest.approx(0.8)  # 1 − 6·2/60
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]).rho == pytest.approx(-1)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 15), rng.integers(0, 6, 15)
    assert rank_correlation(x, y).rho == pytest.approx(spearmanr(x, y).statistic)


def test_a_perfect_order_of_few_is_not_certain():
    found = rank_correlation(range(6), range(6))
    assert found.rho == pytest.approx(1) and found.low < 0.8 and found.high < 1 and found.n == 6
    assert found.p < 0.01  # 2 of 720 orders


def test_null_band_and_p_of_unrelated_numbers():
    rng = np.random.default_rng(3)
    found = [rank_correlation(rng.random(12), rng.random(12), shuffles=1000, seed=i) for i in range(60)]
    assert np.mean([f.null_high for f in found]) == pytest.approx(0.58, abs=0.03)  # the exact 2.5 % point for 12 pairs is 0.587
    assert 0.35 < np.mean([f.p for f in found]) < 0.65
    assert sum(f.low > 0 or f.high < 0 for f in found) <= 9


def test_missing_and_constant_values():
    nan = float("nan")
    assert rank_correlation([1, 2, nan, 3, 4], [1, 2, 9, 3, 4]).n == 4
    assert np.isnan(rank_correlation([1, 2, 3], [1, 2, 3]).rho)
    assert np.isnan(rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).rho)
