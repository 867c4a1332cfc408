"""One pair of perceptrons: B's orders by each method, and what each does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from metrics.permutation import perceptron
from metrics.permutation.differentiable import taylor_barrier
from metrics.permutation.matching import weight_matching
from metrics.permutation.methods import ACTIVATIONS, LEARNED, NONE, RANDOM, WEIGHTS
from metrics.permutation.mixture import grid
from metrics.permutation.perceptron import mixture, mixture_losses, spec_of
from metrics.permutation.singular import all_singular, alignment, chance_along, searched, truncated
from metrics.permutation.sinkhorn import sinkhorn_matching
from metrics.permutation.spec import Maps, Pieces, Spec, agreement, apply, identity, random_maps
from metrics.permutation.units import unit_fit
from models.progress import Stage
from models.small_nets.data import Images

FEW = (NONE, WEIGHTS, ACTIVATIONS)
LEARN_BATCH = 256
SEARCHES = 5  # of the same search between weights that share only sizes, for each pair
SHOWN = 96  # units of a matrix of cosines that are kept


def methods_of(params) -> tuple[str, ...]:
    return (*FEW, *([LEARNED] if params.learn_steps else []), RANDOM)


@dataclass(frozen=True, eq=False)
class Data:
    """x [sample, feature] and y of training and test images."""

    x: torch.Tensor
    y: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor

    @staticmethod
    def of(images: Images) -> Data:
        return Data(images.x.flatten(1), images.y, images.x_test.flatten(1), images.y_test)


def few(spec: Spec, a: Pieces, b: Pieces, data: Data, seed: int) -> dict[str, Maps]:
    return {NONE: identity(spec), WEIGHTS: weight_matching(spec, a, b, seed=seed).maps, ACTIVATIONS: perceptron.activation_matching(spec, a, b, data.x)}


def barrier(path: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(largest, middle) [2, ...] of losses [point, ...] above the straight line from B (share 0) to A (1)."""
    line = share.reshape(-1, *[1] * (path.ndim - 1))
    above = path - ((1 - line) * path[0] + line * path[-1])
    return np.stack([above.max(0), above[len(share) // 2] if len(share) % 2 else above[len(share) // 2 - 1 : len(share) // 2 + 1].mean(0)])


def measured(a: Pieces, b: Pieces, data: Data, params, seed: int, progress) -> dict[str, np.ndarray]:
    """Everything of one pair that has the axis of pairs; names as in Result."""
    spec = spec_of(a)
    maps = few(spec, a, b, data, seed)
    if params.learn_steps:
        maps[LEARNED] = learned(spec, a, b, data, params.learn_steps, seed, Stage(progress, 0.0, 0.6))
    maps[RANDOM] = random_maps(spec, torch.Generator().manual_seed(seed))
    va, vb = all_singular(spec, a), all_singular(spec, b)
    weights = grid(params.points)
    loss = lambda state, i: perceptron.mean_loss(state, data.x.double(), data.y)
    wide = lambda pieces: {name: p.double() for name, p in pieces.items()}
    size = lambda x, y: float(sum((x[name].double() - y[name].double()).square().sum() for name in x)) ** 0.5
    paths, taylor, reduction, r, pieces, merged = [], [], [], [], [], []
    for i, m in enumerate(maps.values()):
        progress.step(60 + 8 * i, 100, "loss along the path")
        moved = apply(spec, b, m)
        paths.append(np.stack([mixture_losses([a, moved], weights, x, y) for x, y in ((data.x, data.y), (data.x_test, data.y_test))], 1))
        taylor.append(taylor_barrier(wide(a), wide(moved), loss, 1))
        reduction.append(100 * (1 - size(a, moved) / max(size(a, b), 1e-300)))
        found = alignment(spec, va, vb, m)
        r.append(found.total())
        pieces.append(found.each())
        merged.append(alignment(spec, va, all_singular(spec, mixture([a, moved], np.array([0.5, 0.5])))).total())
    nulls = [alignment(spec, va, vb, random_maps(spec, torch.Generator().manual_seed(seed + 1000 + i))).total() for i in range(params.nulls)]
    path = np.stack(paths)
    return {
        "path": path, "barrier": np.stack([barrier(p[..., 0], weights[:, 0]) for p in path]), "taylor": np.array(taylor), "reduction": np.array(reduction), "r": np.stack(r),
        "r_piece": np.stack(pieces), "merged": np.stack(merged), "null": np.stack(nulls), "search_null": np.stack([found.total() for found in searched(spec, a, b, va, vb, draws=SEARCHES, seed=seed)]), "ranks": np.stack([found.ranks_a, found.ranks_b]), **_intervention(spec, a, b, va, vb, maps[WEIGHTS], data, params, seed),
    }


def learned(spec: Spec, a: Pieces, b: Pieces, data: Data, steps: int, seed: int, progress) -> Maps:
    """From near the identity: from weight matching on, it would stay where that is."""
    rng = np.random.default_rng(seed)
    batches = [torch.from_numpy(rng.permutation(len(data.y))[:LEARN_BATCH]) for _ in range(steps)]
    loss = lambda pieces, i: perceptron.mean_loss(pieces, data.x[batches[i]], data.y[batches[i]])
    return sinkhorn_matching(spec, a, b, loss, steps=steps, seed=seed, progress=progress).maps


def _intervention(spec: Spec, a: Pieces, b: Pieces, va, vb, full: Maps, data: Data, params, seed: int) -> dict[str, np.ndarray]:
    """Weight matching on what the large singular values make of the matrices, and on what the small ones do; then all weights are merged."""
    cut = dataclasses.replace(spec, axes={name: spec.axes[name] for name in va})
    out = {"cut_barrier": [], "cut_agreement": [], "cut_r": []}
    for large in (True, False):
        maps = weight_matching(cut, *(truncated(cut, v, params.split, large) for v in (va, vb)), seed=seed).maps
        losses = mixture_losses([a, apply(spec, b, maps)], grid(3), data.x_test, data.y_test)[:, 0]
        share = agreement(maps, full)
        out["cut_barrier"].append(barrier(losses, grid(3)[:, 0])[1])
        out["cut_agreement"].append(np.average(list(share.values()), weights=[spec.sizes[s] for s in share]))
        out["cut_r"].append(alignment(spec, va, vb, maps).total())
    return {name: np.stack(values) for name, values in out.items()}


def briefly(a: Pieces, b: Pieces, data: Data, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(midpoint barrier on test images [few], R [few, γ], mean accuracy of the two) for the sweeps."""
    spec, weights = spec_of(a), grid(3)
    va, vb = all_singular(spec, a), all_singular(spec, b)
    maps = few(spec, a, b, data, seed)
    losses = [mixture_losses([a, apply(spec, b, m)], weights, data.x_test, data.y_test) for m in maps.values()]
    return (np.array([barrier(x[:, 0], weights[:, 0])[1] for x in losses]), np.stack([alignment(spec, va, vb, m).total() for m in maps.values()]), float(losses[0][[0, -1], 1].mean()))


def closely(a: Pieces, b: Pieces, data: Data, seed: int) -> dict[str, np.ndarray]:
    """Spectra, inputs along A's vectors, and cosines between units, of one pair."""
    spec = spec_of(a)
    va, vb = all_singular(spec, a), all_singular(spec, b)
    size = max(len(v.s) for v in (*va.values(), *vb.values()))
    padded = lambda x: np.pad(np.asarray(x, np.float64), (0, size - len(x)), constant_values=np.nan)
    lies = perceptron.along(a, va, data.x_test)
    maps, cosines = weight_matching(spec, a, b, seed=seed).maps, []
    for space in spec.sizes:
        fit = unit_fit(spec, a, b, maps, space, torch.Generator().manual_seed(seed))
        n = min(SHOWN, len(fit.order))
        cosines.append(np.stack([fit.cosine[:n, :n], fit.cosine[:n, fit.order[:n]]]))
    return {"spectra": np.stack([[padded(v[name].s) for name in va] for v in (va, vb)]), "along": np.stack([padded(lies[name]) for name in va]),
            "chance": np.array([chance_along(len(va[name].v)) for name in va]), "units": np.stack(cosines)}
