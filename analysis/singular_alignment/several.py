"""With a third model and further ones: pair barriers that no anchor sees, the average of all, the triangle of three, cycle error."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analysis.singular_alignment.matching import Pair
from metrics.bootstrap import ratio_interval
from metrics.losses import NLL, TOKENS
from metrics.permutation.many import cycle_error, merge_many, simplex
from metrics.permutation.matching import weight_matching
from metrics.permutation.mixture import Mixture, barrier_along, grid, path_losses
from metrics.permutation.spec import Maps, apply, identity
from metrics.permutation.transformer import folded, require_one_shape, tied, untied
from models.progress import Stage

ORDERS = ("as they are", "to the first", "MergeMany")
EDGE = 6  # steps along an edge of the triangle


@dataclass(frozen=True, eq=False)
class Several:
    """Axes: order as in ORDERS, model A, B, C, …

    pair_barrier [order, model, model] nats at the midpoint, NaN on the diagonal; average [order, 3] loss of the mean of all, parents
    [model, 3] losses, nats per token with 95 % intervals; average_barrier [order] above the parents' mean
    corner_weights [point, 3], corner_loss [order, point] of mixtures of the first three
    triples [triple, 3] models, cycle [triple, kind] share of units that go round to another place; kinds
    distance [round] Σ ‖model − mean of the others‖² of MergeMany
    """

    pair_barrier: np.ndarray
    average: np.ndarray
    parents: np.ndarray
    average_barrier: np.ndarray
    corner_weights: np.ndarray
    corner_loss: np.ndarray
    triples: np.ndarray
    cycle: np.ndarray
    kinds: tuple
    distance: np.ndarray


def compare_several(pair: Pair, more, params, held, progress) -> Several:
    networks = [pair.a, pair.b]
    for capture in more:
        with capture.model() as model:
            model = folded(model) if params.stream == "rotated" else model if tied(pair.model_a) else untied(model)
            require_one_shape(pair.model_a, model)
            networks.append(pair.symmetry.pieces(model))
    spec, n = pair.spec, len(networks)
    pairs = list(combinations(range(n), 2))
    between: dict[tuple[int, int], Maps] = {}
    for k, (i, j) in enumerate(pairs):
        progress.step(k, 10 * len(pairs), f"weight matching of {k + 1} of {len(pairs)} pairs")
        between[i, j] = weight_matching(spec, networks[i], networks[j], fixed=pair.fixed, seed=params.seed).maps
    many = merge_many(spec, networks, fixed=pair.fixed, seed=params.seed, progress=Stage(progress, 0.1, 0.2))
    orders = [[identity(spec)] * n, [identity(spec), *[between[0, j] for j in range(1, n)]], many.maps]
    corners, own = simplex(EDGE), np.eye(n)
    losses = {"pair": np.full((len(ORDERS), n, n), np.nan), "average": [], "above": [], "corner": np.zeros((len(ORDERS), len(corners)))}
    parents = None
    for o, maps in enumerate(orders):
        mixture = Mixture(pair.model_a, [pair.symmetry.joined(apply(spec, p, m)) for p, m in zip(networks, maps)])
        weights = np.concatenate([np.full((1, n), 1 / n), *[_between(n, i, j) for i, j in pairs], np.pad(corners, ((0, 0), (0, n - 3)))])
        step = lambda k: progress.step(2 * len(weights) * (1 + o) + 2 * k, 8 * len(weights), f"loss of mixtures, {ORDERS[o]}")
        if parents is None:
            parents = path_losses(mixture, own, *held)
        found = path_losses(mixture, weights, *held, step)
        tokens, ends = parents[0, TOKENS], parents[:, NLL]
        above = barrier_along(weights, found[:, NLL], tokens, ends)
        losses["average"].append(ratio_interval(found[0, NLL], tokens, params.resamples, params.seed))
        losses["above"].append(above[0])
        for k, (i, j) in enumerate(pairs):
            losses["pair"][o, i, j] = losses["pair"][o, j, i] = above[1 + k]
        losses["corner"][o] = found[1 + len(pairs) :, NLL].sum(1) / tokens.sum()
    triples = list(combinations(range(n), 3))
    cycles = [cycle_error(spec, between[i, j], between[j, k], between[i, k]) for i, j, k in triples]
    return Several(
        losses["pair"], np.array(losses["average"], np.float64), np.array([ratio_interval(p[NLL], tokens, params.resamples, params.seed) for p in parents], np.float64),
        np.array(losses["above"]), corners, losses["corner"], np.array(triples), np.array([list(c.values()) for c in cycles]), tuple(cycles[0]), np.array(many.distance))


def _between(n: int, i: int, j: int) -> np.ndarray:
    """The midpoint of two of n models, [1, n]."""
    out = np.zeros((1, n))
    out[0, [i, j]] = grid(3)[1]
    return out
