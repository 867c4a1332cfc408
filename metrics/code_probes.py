"""What simple methods read off binary codes: nearest neighbours, logistic regression, K-Means. After He et al., arXiv 2101.05490."""

from __future__ import annotations

import warnings

import numpy as np

from kernels import hamming

NEIGHBOURS = 9  # k of the paper's k-NN


def neighbour_votes(neighbours: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """The most frequent label among the neighbours [query, k] of each query, the lowest where several are; int64 [query]."""
    votes = np.zeros((len(neighbours), n_classes), np.int64)
    np.add.at(votes, (np.arange(len(neighbours))[:, None], labels[neighbours]), 1)
    return votes.argmax(1)


def nearest_accuracy(codes: np.ndarray, labels: np.ndarray, queries: np.ndarray, truth: np.ndarray, n_classes: int, k: int = NEIGHBOURS) -> float:
    """Accuracy of k-NN by Hamming distance between packed codes. With fewer than k codes all of them vote: chance, not a measurement."""
    neighbours, _ = hamming.nearest(codes, queries, k)
    return float((neighbour_votes(neighbours, labels, n_classes) == truth).mean())


def raw_nearest_accuracy(x: np.ndarray, labels: np.ndarray, queries: np.ndarray, truth: np.ndarray, n_classes: int, k: int = NEIGHBOURS) -> float:
    """The same by Euclidean distance between the inputs themselves [input, feature]: the control that codes are held against."""
    right, half = 0, (x * x).sum(1) / 2
    for lo in range(0, len(queries), 512):
        near = np.argsort(half - queries[lo : lo + 512] @ x.T, axis=1, kind="stable")[:, :k]
        right += int((neighbour_votes(near, labels, n_classes) == truth[lo : lo + 512]).sum())
    return right / len(queries)


def logistic_accuracy(x: np.ndarray, labels: np.ndarray, queries: np.ndarray, truth: np.ndarray, one_vs_one: bool = True) -> float:
    """Accuracy of logistic regression, L2 with C = 1; one classifier per pair of classes, as in the paper, or one for all. NaN where
    there is only one class to learn."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsOneClassifier

    if len(np.unique(labels)) < 2:
        return float("nan")
    model = LogisticRegression(max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = (OneVsOneClassifier(model) if one_vs_one else model).fit(x.astype(np.float32), labels)
    return float((fitted.predict(queries.astype(np.float32)) == truth).mean())


def clusters(x: np.ndarray, k: int, seed: int) -> np.ndarray:
    """K-Means with Euclidean distance on bits or inputs [input, feature], the best of ten starts; int64 [input]."""
    from sklearn.cluster import KMeans

    k = min(k, len(np.unique(x, axis=0)))
    return KMeans(k, n_init=10, random_state=seed).fit(x.astype(np.float32)).labels_.astype(np.int64)


def purity(found: np.ndarray, truth: np.ndarray) -> float:
    """Each cluster takes its majority label; several clusters may take the same one. Share of inputs that have it, ≥ `matched`."""
    return float(_counts(found, truth).max(1).sum() / len(truth))


def matched(found: np.ndarray, truth: np.ndarray) -> float:
    """Each cluster is given a label of its own, the assignment that is right most often (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    counts = _counts(found, truth)
    return float(counts[linear_sum_assignment(-counts)].sum() / len(truth))


def _counts(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Inputs of each label in each cluster [cluster, label]."""
    counts = np.zeros((found.max() + 1, truth.max() + 1), np.int64)
    np.add.at(counts, (found, truth), 1)
    return counts


def linear_predictions(x: np.ndarray, labels: np.ndarray, queries: np.ndarray, n_classes: int, ridge: float = 0.01) -> np.ndarray:
    """Labels int64 [query] by least squares on one-hot labels, centred, in closed form through the Gram matrix of the examples, so
    that its cost does not grow with the number of features; the penalty is `ridge` times the mean squared norm of an example."""
    x, queries = x.astype(np.float64), queries.astype(np.float64)
    centre, shares = x.mean(0), np.eye(n_classes)[labels]
    x, queries = x - centre, queries - centre
    gram = x @ x.T
    weights = np.linalg.solve(gram + (ridge * max(np.trace(gram) / len(x), 1e-12)) * np.eye(len(x)), shares - shares.mean(0))
    return (queries @ x.T @ weights + shares.mean(0)).argmax(1)
