"""Selection: the exact identities of likeness and its shares, orders by hand, planted retrieval and its negative control."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from metrics import selection

Z = csr_matrix(np.array([[2.0, 0, 1, 0], [0, 0, 0, 3], [1, 1, 1, 0], [0.5, 0.5, 0.5, 0], [0, 0, 0, 0]]))
P = np.array([1.0, 1, 1, 0])


def test_likeness_by_hand():
    """(2,0,1,0) shares 1 + 0 + 1 of 2 + 1 + 1 with (1,1,1,0); J(c·p, p) = min(c, 1/c)."""
    assert selection.jaccard(Z, P).tolist() == [0.5, 0.0, 1.0, 0.5, 0.0]
    assert selection.jaccard(csr_matrix(4 * P), P)[0] == 0.25
    assert selection.cosine(Z, P) == pytest.approx([3 / np.sqrt(15), 0, 1, 1, 0])
    assert selection.euclid(Z, P) == pytest.approx([-np.sqrt(2), -np.sqrt(12), 0, -np.sqrt(0.75), -np.sqrt(3)])


def random_codes(n=40, d=60, seed=0):
    rng = np.random.default_rng(seed)
    return csr_matrix(rng.exponential(size=(n, d)) * (rng.random((n, d)) < 0.2))


def test_sparse_likeness_is_dense_likeness():
    z = random_codes()
    p = selection.prototype(z, np.arange(5))
    dense = z.toarray()
    assert p == pytest.approx(dense[:5].mean(0))
    low, high = np.minimum(dense, p).sum(1), np.maximum(dense, p).sum(1)
    assert selection.jaccard(z, p) == pytest.approx(low / high, abs=1e-12)
    total, apart = dense.sum(1) + p.sum(), np.abs(dense - p).sum(1)
    assert selection.jaccard(z, p) == pytest.approx((total - apart) / (total + apart), abs=1e-12)


def test_shares_sum_to_the_score_and_with_extra_and_missing_to_one():
    z = random_codes()
    p = selection.prototype(z, np.arange(3))
    for i in range(z.shape[0]):
        features, part, extra, missing = selection.shares(z, i, p)
        assert part.sum() == pytest.approx(selection.jaccard(z, p)[i], abs=1e-12)
        assert part.sum() + extra + missing == pytest.approx(1.0, abs=1e-12) and (part >= 0).all()
        assert set(features) == set(np.flatnonzero(z[i].toarray()))
    features, part, extra, missing = selection.shares(Z, 0, P)
    assert (part.tolist(), extra, missing) == ([0.25, 0.25], 0.25, 0.25)


def test_queries_take_in_turn():
    likeness = np.array([[0.9, 0.8], [0.5, 0.7], [0.1, 0.6]])
    assert selection.in_turn(likeness).tolist() == [0, 1, 2]  # query 1 finds sample 0 taken
    assert selection.in_turn(likeness[:, ::-1]).tolist() == [0, 1, 2]
    assert selection.in_turn(np.array([[0.9, 0.0], [0.8, 0.1], [0.0, 0.9]])).tolist() == [0, 2, 1]


def test_coverage_is_greedy():
    z = random_codes(30, 50, 3)
    order = selection.by_coverage(z, np.arange(30))
    assert sorted(order) == list(range(30)) and selection.covered(z, order, [0, 3, 3, 30]) == [0, *[len(np.unique(z[order[:n]].indices)) for n in (3, 3, 30)]]
    assert sorted(selection.by_coverage(z, np.array([4, 7, 9]))) == [4, 7, 9]
    seen = np.zeros(50, bool)
    left = set(range(30))
    for i in order:
        gains = {j: int((~seen[z[j].indices]).sum()) for j in left}
        assert gains[i] == max(gains.values())
        seen[z[i].indices] = True
        left.remove(i)


def test_length_matched_takes_all_lengths():
    length = np.arange(100)
    order = selection.length_matched(length.astype(float), length)
    assert abs(length[order[:10]].mean() - length.mean()) < 6 and selection.best(length.astype(float))[:10].min() == 90


def test_bm25_by_hand():
    """Two texts of three tokens; token 0 in one of them, token 1 in both."""
    counts = csr_matrix(np.array([[2.0, 1, 0], [0, 1, 2]]))
    rare, common = np.log(1 + 1.5 / 1.5), np.log(1 + 0.5 / 2.5)
    pool = selection.Frequencies.of(counts)
    assert (pool.texts, pool.tokens, pool.having.tolist()) == (2, 6, [1, 2, 1])
    found = selection.bm25(counts, np.array([[1.0, 1, 0]]), pool)
    assert found == pytest.approx([rare * 2 * 2.5 / 3.5 + common * 2.5 / 2.5, common * 2.5 / 2.5])


def test_bm25_of_a_pool_without_some_texts_is_that_of_the_rest():
    """Frequencies add up piece by piece and are taken off again."""
    counts = csr_matrix(np.random.default_rng(0).poisson(0.3, (30, 20)).astype(float))
    rest, queries = np.arange(5, 30), counts[:5].toarray()
    pool = selection.Frequencies.of(counts[:10]) + selection.Frequencies.of(counts[10:]) - selection.Frequencies.of(counts[:5])
    expected = selection.bm25(counts[rest], queries, selection.Frequencies.of(counts[rest]))
    assert np.concatenate([selection.bm25(counts[part], queries, pool) for part in (rest[:7], rest[7:])]) == pytest.approx(expected, abs=1e-12)


def test_sums_over_rows_cross_every_border(monkeypatch):
    """Empty rows at both ends, a row longer than a piece, and pieces of one entry up to all of them: the same to the last bits."""
    z = random_codes(30, 50, 2).tolil()
    z[0], z[29], z[7] = 0, 0, 1.5
    z = csr_matrix(z)
    p = selection.prototype(z, np.arange(4))
    expected = (np.minimum(z.toarray(), p).sum(1), np.maximum(z.toarray(), p).sum(1))
    for entries in (1, 7, 49, 10_000):
        monkeypatch.setattr(selection, "ENTRIES", entries)
        assert selection.jaccard(z, p) == pytest.approx(expected[0] / expected[1], abs=1e-13)
    assert selection.jaccard(csr_matrix((0, 50)), p).shape == (0,) and (selection.jaccard(csr_matrix((3, 50)), p) == 0).all()


def planted(noise: float, seed: int = 0):
    """Eight tasks with five features of their own each, 40 samples a task; a sample is the mean over 20 tokens that fire one of them."""
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(8), 40)
    z = np.zeros((320, 40))
    for i, t in enumerate(task):
        np.add.at(z[i], 5 * t + rng.integers(5, size=20), 1 / 20)
    return csr_matrix(z + noise * rng.exponential(size=z.shape)), task


@pytest.mark.parametrize("metric", selection.METRICS)
def test_a_planted_task_is_found_whole(metric):
    z, task = planted(0.0)
    for t in range(8):
        own = np.flatnonzero(task == t)
        order = selection.best(selection.METRICS[metric](z, selection.prototype(z, own[:5])))
        assert set(order[:40]) == set(own)


def test_a_target_that_is_no_task_finds_none():
    """Negative control: examples drawn from all tasks at random favour none beyond the share that they have themselves."""
    z, task = planted(0.01)
    rates = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(task)  # labels that mean nothing
        own = np.flatnonzero(labels == 0)
        rows = rng.choice(own, 10, replace=False)
        left = np.setdiff1d(np.arange(320), rows)
        order = left[selection.best(selection.jaccard(z[left], selection.prototype(z, rows)))][:40]
        rates.append((labels[order] == 0).mean())
    assert abs(np.mean(rates) - 30 / 310) < 0.03
