"""Choosing samples of a pool by how alike they are to a task: similarities of sparse codes, their exact shares, and ways to fill a budget.

Codes are CSR matrices [sample, feature] (scipy's; orders and shares need no more than indptr, indices, data and shape, so files that are
mapped will do), ≥ 0 where a similarity says so; a prototype is dense [feature]. An order is an index [sample], best first, so that any
budget is its beginning; ties go to the lower index.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

ENTRIES = 1 << 17  # stored entries whose sums are taken at one time: they stay in the cache


def prototype(codes, rows: np.ndarray) -> np.ndarray:
    """Mean code of these samples, float64 [feature] (MONA, eq. 8 as read from its prose)."""
    return np.asarray(codes[rows].mean(0), np.float64).ravel()


def jaccard(codes, p: np.ndarray) -> np.ndarray:
    """Generalised Jaccard Σ min(z, p) / Σ max(z, p) of every row (MONA, eq. 9), float64 [sample]; 0 where both are empty.

    Σ max = |z|₁ + |p|₁ − Σ min, and the minimum needs only the features that the row has: nothing dense is made.
    """
    shared = _row_sums(codes, lambda z, k: np.minimum(z, p[k]))
    whole = _row_sums(codes, lambda z, k: z) + p.sum() - shared
    return np.divide(shared, whole, out=np.zeros(codes.shape[0]), where=whole > 0)


def cosine(codes, p: np.ndarray) -> np.ndarray:
    """zᵀp / (‖z‖ ‖p‖) [sample]; 0 where a side is empty."""
    norm = np.sqrt(_row_sums(codes, lambda z, k: z.astype(np.float64) ** 2)) * np.linalg.norm(p)
    return np.divide(codes @ p, norm, out=np.zeros(codes.shape[0]), where=norm > 0)


def euclid(codes, p: np.ndarray) -> np.ndarray:
    """−‖z − p‖ [sample]."""
    square = _row_sums(codes, lambda z, k: z.astype(np.float64) ** 2) - 2 * (codes @ p) + p @ p
    return -np.sqrt(square.clip(min=0))


METRICS = {"Jaccard": jaccard, "cosine": cosine, "Euclid": euclid}


def shares(codes, i: int, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Why row i has its Jaccard score: (features, their shares min(z, p) / Σ max, which sum to the score), and what keeps it from 1:
    the share of mass that only the sample has (extra) and that only the prototype has (missing); the four parts sum to 1."""
    own = slice(codes.indptr[i], codes.indptr[i + 1])
    features, z = codes.indices[own], codes.data[own].astype(np.float64)
    low = np.minimum(z, p[features])
    whole = z.sum() + p.sum() - low.sum()
    if whole <= 0:
        return features, np.zeros(len(features)), 0.0, 0.0
    return features, low / whole, float((z.sum() - low.sum()) / whole), float((p.sum() - low.sum()) / whole)


def best(score: np.ndarray) -> np.ndarray:
    """Order by score, highest first."""
    return np.argsort(-score, kind="stable")


def in_turn(likeness: np.ndarray) -> np.ndarray:
    """Order in which queries, one after the other, take their best sample that is left: likeness [sample, query] (RDS+, `max`)."""
    wishes = np.argsort(-likeness, axis=0, kind="stable")
    taken, at, order = np.zeros(len(likeness), bool), np.zeros(likeness.shape[1], int), []
    while len(order) < len(likeness):
        for q in range(likeness.shape[1]):
            while at[q] < len(wishes) and taken[wishes[at[q], q]]:
                at[q] += 1
            if at[q] < len(wishes):
                order.append(wishes[at[q], q])
                taken[order[-1]] = True
    return np.array(order)


def by_coverage(codes, rows: np.ndarray) -> np.ndarray:
    """These rows in the order in which each adds most features that none before it has (greedy; counts fall only, so old counts bound new
    ones)."""
    covered = np.zeros(codes.shape[1], bool)
    heap = [(int(codes.indptr[i] - codes.indptr[i + 1]), i) for i in rows.tolist()]
    heapq.heapify(heap)
    order = []
    while heap:
        bound, i = heapq.heappop(heap)
        gain = -int((~covered[_features(codes, i)]).sum())
        if heap and (gain, i) > heap[0] and gain != bound:
            heapq.heappush(heap, (gain, i))
            continue
        order.append(i)
        covered[_features(codes, i)] = True
    return np.array(order)


def _features(codes, i: int) -> np.ndarray:
    return codes.indices[codes.indptr[i] : codes.indptr[i + 1]]


def length_matched(score: np.ndarray, length: np.ndarray, bins: int = 10) -> np.ndarray:
    """Order by score among samples of like length: the best of each tenth of the lengths, then the second best of each, and so on, so
    that what is taken is as long as the pool at every budget."""
    by_length = np.argsort(length, kind="stable")
    place = np.empty(len(score))
    for part in np.array_split(by_length, min(bins, len(score))):
        ranked = part[np.argsort(-score[part], kind="stable")]
        place[ranked] = (np.arange(len(part)) + 0.5) / len(part)
    return np.lexsort((-score, place))


def covered(codes, order: np.ndarray, counts: list[int]) -> list[int]:
    """How many features occur in the first n samples of an order, for each n of `counts` (ascending)."""
    seen, out, at = np.zeros(codes.shape[1], bool), [], 0
    for n in counts:
        for i in order[at:n].tolist():
            seen[_features(codes, i)] = True
        at = max(at, n)
        out.append(int(seen.sum()))
    return out


@dataclass(frozen=True, eq=False)
class Frequencies:
    """What BM25 knows of a whole pool: its texts, their tokens, and in how many texts each token occurs [token]. Adds and subtracts."""

    texts: int
    tokens: float
    having: np.ndarray

    @staticmethod
    def of(counts) -> Frequencies:
        """From counts, CSR [sample, token] without duplicate entries."""
        return Frequencies(counts.shape[0], float(counts.data.sum()), np.bincount(counts.indices, minlength=counts.shape[1]))

    def __add__(self, other: Frequencies) -> Frequencies:
        return Frequencies(self.texts + other.texts, self.tokens + other.tokens, self.having + other.having)

    def __sub__(self, other: Frequencies) -> Frequencies:
        return Frequencies(self.texts - other.texts, self.tokens - other.tokens, self.having - other.having)


def bm25(counts, queries: np.ndarray, pool: Frequencies, k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """Okapi BM25 of every row of token counts (CSR [sample, token]) among a pool's, for query counts [query, token], mean over queries,
    [sample]."""
    length = _row_sums(counts, lambda n, token: n)
    idf = np.log(1 + (pool.texts - pool.having + 0.5) / (pool.having + 0.5))
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    tf = counts.data * (k1 + 1) / (counts.data + k1 * (1 - b + b * length[rows] / max(pool.tokens / max(pool.texts, 1), 1e-12)))
    weight = counts.copy().astype(np.float64)
    weight.data = tf * idf[counts.indices]
    return np.asarray(weight @ queries.mean(0))


def _row_sums(codes, of) -> np.ndarray:
    """Sum over each row of `of(values, features)`, one for each stored entry, float64; some rows at a time, so that nothing as long as
    the codes is made."""
    out, ends, lo, n = np.zeros(codes.shape[0]), codes.indptr, 0, codes.shape[0]
    while lo < n:
        hi = max(lo + 1, int(np.searchsorted(ends, ends[lo] + ENTRIES, side="right")) - 1)
        here = slice(ends[lo], ends[hi])
        total = np.concatenate([[0.0], np.cumsum(of(codes.data[here], codes.indices[here]), dtype=np.float64)])
        out[lo:hi] = np.diff(total[ends[lo : hi + 1] - ends[lo]])
        lo = hi
    return out
