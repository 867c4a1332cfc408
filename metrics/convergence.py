"""Three ways to line up the units of two networks that read the same tokens, after Li, Yosinski, Clune, Lipson & Hopcroft, “Convergent
Learning: Do different neural networks learn the same representations?” (ICLR 2016, arXiv 1511.07543): one partner each (a bipartite
matching, beside the best partner for each with repeats), a few units of one that predict a unit of the other (lasso), and groups of
units of both that belong together (spectral clustering of the bipartite graph).

Everything is decided on the statistics of one part of the text and measured on those of another, because the best of many
correlations is high by luck.
"""

from __future__ import annotations

import numpy as np


def one_to_one(r: np.ndarray) -> np.ndarray:
    """The partner in B of each unit of A, int64 [n], no partner twice, Σ r as large as it can be; −1 where B has fewer units. r [n, m], signed."""
    from scipy.optimize import linear_sum_assignment

    partner = np.full(len(r), -1, np.int64)
    rows, columns = linear_sum_assignment(r, maximize=True)
    partner[rows] = columns
    return partner


def best_each(r: np.ndarray) -> np.ndarray:
    """The unit of B with the highest r for each unit of A, int64 [n]; several may share one (the paper's semi-matching)."""
    return r.argmax(1)


def correlation_of(covariance: np.ndarray) -> np.ndarray:
    """[n, n] from a covariance; 0 with units that never change."""
    spread = np.sqrt(np.clip(np.diagonal(covariance), 0, None))
    still = spread <= 1e-9 * max(float(spread.max(initial=0)), 1e-300)
    safe = np.where(still, 1.0, spread)
    return np.where(still[:, None] | still[None, :], 0.0, covariance / safe[:, None] / safe[None, :])


def explained_by_few(fit: tuple[np.ndarray, np.ndarray], held: tuple[np.ndarray, np.ndarray], n: int, targets: np.ndarray, counts: tuple[int, ...], step=lambda i: None) -> np.ndarray:
    """The share of a unit's variance that a few units of A predict on the held-out part, [target, count]; NaN where the unit never changes.

    fit and held: (mean [n + m], covariance [n + m, n + m]) of A's n units followed by B's m. targets [target] are units of B. For each the
    lasso path (LARS) on the fitted part gives the first `count` units of A to enter; least squares on these alone, fitted there too, predicts. Below 0
    the prediction is worse than the mean.
    """
    from sklearn.linear_model import lars_path_gram

    (mean, covariance), (new_mean, new) = fit, held
    r = correlation_of(covariance)
    live = np.flatnonzero(np.diagonal(r)[:n] > 0)
    gram = np.ascontiguousarray(r[np.ix_(live, live)])
    out = np.full((len(targets), len(counts)), np.nan)
    for i, unit in enumerate(targets):
        step(i)
        at = n + int(unit)
        if r[at, at] == 0 or new[at, at] <= 1e-12 * covariance[at, at] or not len(live):
            continue
        order = _order(lars_path_gram(r[live, at], gram, n_samples=1, max_iter=2 * max(counts), method="lasso"), max(counts))
        for k, count in enumerate(counts):
            chosen = live[order[:count]]
            weights = np.linalg.lstsq(covariance[np.ix_(chosen, chosen)], covariance[chosen, at], rcond=1e-10)[0]
            shift = (new_mean[at] - mean[at]) - weights @ (new_mean[chosen] - mean[chosen])
            error = new[at, at] - 2 * weights @ new[chosen, at] + weights @ new[np.ix_(chosen, chosen)] @ weights + shift**2
            out[i, k] = 1 - error / new[at, at]
    return out


def _order(path: tuple, most: int) -> np.ndarray:
    """Predictors in the order in which the path takes them in; one that left again keeps the place of its first entry."""
    _, _, weights = path
    entered = [np.flatnonzero(w) for w in (weights != 0).T]
    order = list(dict.fromkeys(int(j) for now in entered for j in now))
    return np.array(order[:most], np.int64)


def groups(r: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The group, 0 … k − 1, of each unit of A, int64 [n], and of B [m]; −1 for units without any correlation, numbered from the largest group down.

    Spectral clustering of the bipartite graph with weights |r|: the k first singular vectors of D_A^−½ |r| D_B^−½ place the units of both
    networks in one space, rows to length one (Dhillon 2001; Ng, Jordan & Weiss 2001), k-means groups them.
    """
    from sklearn.cluster import KMeans

    weight = np.abs(r)
    rows, columns = np.flatnonzero(weight.sum(1) > 0), np.flatnonzero(weight.sum(0) > 0)
    a, b = np.full(len(r), -1, np.int64), np.full(r.shape[1], -1, np.int64)
    k = min(k, len(rows), len(columns))
    if k == 0:
        return a, b
    weight = weight[np.ix_(rows, columns)]
    u, _, v = np.linalg.svd(weight / np.sqrt(np.outer(weight.sum(1), weight.sum(0))), full_matrices=False)
    places = np.concatenate([u[:, :k], v[:k].T])
    places /= np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-12)
    found = KMeans(k, n_init=10, random_state=seed).fit_predict(places)
    rank = np.empty(k, np.int64)
    rank[np.argsort(-np.bincount(found, minlength=k), kind="stable")] = np.arange(k)
    a[rows], b[columns] = rank[found[: len(rows)]], rank[found[len(rows) :]]
    return a, b


def within(r: np.ndarray, rows: np.ndarray, columns: np.ndarray, k: int) -> np.ndarray:
    """Mean |r| between the units of A and of B in each group, [k]; NaN where a side has none."""
    weight = np.abs(r)
    out = np.full(k, np.nan)
    for group in range(k):
        here, there = rows == group, columns == group
        if here.any() and there.any():
            out[group] = weight[np.ix_(here, there)].mean()
    return out
