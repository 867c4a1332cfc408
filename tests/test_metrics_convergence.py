"""Units lined up in three ways: planted partners, planted mixtures of two, planted groups are found; what was not planted is not."""

import numpy as np
import pytest

from metrics.convergence import best_each, correlation_of, explained_by_few, groups, one_to_one, within

COUNTS = (1, 2, 3, 5)


def moments(x):
    return x.mean(0), np.cov(x.T, bias=True)


def halves(a, b):
    both = np.concatenate([a, b], 1)
    return moments(both[::2]), moments(both[1::2])


def test_an_assignment_by_hand_shares_no_unit_and_the_best_may():
    r = np.array([[0.9, 0.8, 0.0], [0.85, 0.1, 0.0]])  # both rows want column 0: 0.8 + 0.85 beats 0.9 + 0.1
    assert one_to_one(r).tolist() == [1, 0] and best_each(r).tolist() == [0, 0]
    assert one_to_one(r.T).tolist() == [1, 0, -1]


def test_correlations_of_a_covariance():
    x = np.random.default_rng(0).normal(size=(500, 4)) * (1, 5, 0, 0.1)
    x[:, 3] += x[:, 0]
    r = correlation_of(moments(x)[1])
    assert np.allclose(r[np.ix_([0, 1, 3], [0, 1, 3])], np.corrcoef(x[:, [0, 1, 3]].T)) and not r[2].any() and not r[:, 2].any()


@pytest.mark.parametrize("seed", range(3))
def test_a_sum_of_two_units_needs_both_of_them(seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(4000, 12)) * 3 + 1
    b = np.stack([2 * a[:, 4] + 0.5, a[:, 1] + a[:, 2], a[:, 1] - a[:, 2], rng.normal(size=4000), np.full(4000, 2.0)], 1)
    explained = explained_by_few(*halves(a, b), 12, np.arange(5), COUNTS)
    assert np.allclose(explained[0], 1)  # a copy, scaled and shifted
    assert np.allclose(explained[1:3, 1:], 1) and np.allclose(explained[1:3, 0], 0.5, atol=0.05)  # half the variance with one
    assert (explained[3] < 0.02).all()  # unrelated: nothing, whatever the number
    assert np.isnan(explained[4]).all()  # never changes


def test_one_unit_explains_its_squared_correlation():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3000, 5))
    b = a[:, 3:4] + rng.normal(size=(3000, 1))
    both = moments(np.concatenate([a, b], 1))
    r = correlation_of(both[1])[3, 5]
    assert explained_by_few(both, both, 5, np.array([0]), (1,))[0, 0] == pytest.approx(r**2, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_planted_groups_are_found_however_units_are_ordered(seed):
    rng = np.random.default_rng(seed)
    sources = rng.normal(size=(2000, 4))
    of_a, of_b = rng.permutation(np.repeat(np.arange(4), 6)), rng.permutation(np.repeat(np.arange(4), (3, 5, 7, 9)))
    a, b = sources[:, of_a] + rng.normal(size=(2000, 24)), sources[:, of_b] + rng.normal(size=(2000, 24))
    r = np.corrcoef(a.T, b.T)[:24, 24:]
    found_a, found_b = groups(r, 4, 0)
    pairs = set(zip(of_a, found_a)) | set(zip(of_b, found_b))
    assert len(pairs) == 4  # the same four groups on both sides, under other names
    assert [(np.r_[found_a, found_b] == i).sum() for i in range(4)] == [15, 13, 11, 9]  # from the largest down
    inside = within(r, found_a, found_b, 4)
    random = np.mean([within(r, rng.permutation(found_a), rng.permutation(found_b), 4) for _ in range(20)])
    assert (inside > 0.4).all() and random < 0.2


def test_units_without_any_correlation_belong_to_no_group():
    r = np.zeros((5, 4))
    r[:2, :2], r[2:4, 2] = 0.9, 0.8
    a, b = groups(r, 2, 0)
    assert a[4] == -1 and b[3] == -1 and a[0] == a[1] == b[0] == b[1] != a[2] == a[3] == b[2]
    assert (groups(np.zeros((3, 3)), 2, 0)[0] == -1).all()
    assert np.isnan(within(r, a, b, 3)[2])
