"""Three perceptrons: the triangle of their mixtures, barriers of all pairs, and whether pairwise orders fit together."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from metrics.permutation.many import cycle_error, merge_many, simplex
from metrics.permutation.matching import weight_matching
from metrics.permutation.mixture import grid
from metrics.permutation.perceptron import mixture_losses, spec_of
from metrics.permutation.spec import apply, identity

ORDERS = ("as they are", "to the first", "MergeMany")
SIDE = 10  # steps along a side of the triangle


def measured(networks: list, data, seed: int, progress) -> dict:
    spec = spec_of(networks[0])
    to_first = [identity(spec), *(weight_matching(spec, networks[0], n, seed=seed).maps for n in networks[1:])]
    many = merge_many(spec, networks, seed=seed, progress=progress).maps
    corners, losses, between = simplex(SIDE), [], []
    for maps in ([identity(spec)] * 3, to_first, many):
        moved = [apply(spec, n, m) for n, m in zip(networks, maps)]
        losses.append(mixture_losses(moved, corners, data.x_test, data.y_test)[:, 0])
        table = np.full((3, 3), np.nan)
        for i, j in combinations(range(3), 2):
            path = mixture_losses([moved[i], moved[j]], grid(3), data.x_test, data.y_test)[:, 0]
            table[i, j] = table[j, i] = path[1] - (path[0] + path[2]) / 2
        between.append(table)
    second = weight_matching(spec, networks[1], networks[2], seed=seed).maps
    return {"corner_weights": corners, "corner_loss": np.stack(losses), "pair_barrier": np.stack(between), "cycle": cycle_error(spec, to_first[1], second, to_first[2])["mlp"]}
