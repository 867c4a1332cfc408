"""The numbers: how B's units are ordered by each method, how the singular vectors then lie, and the loss along the path."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from analysis.singular_alignment.matching import Pair, maps_by_method
from analysis.singular_alignment.several import compare_several
from metrics.losses import NLL, RIGHT, TOKENS
from metrics.permutation.differentiable import mean_loss, taylor_barrier
from metrics.permutation.matching import weight_matching
from metrics.permutation.mixture import Mixture, barriers, grid, path_losses
from metrics.permutation.singular import GAMMAS, Along, alignment, all_singular, chance_along, searched, singular, truncated
from metrics.permutation.spec import Maps, agreement, apply, random_maps
from metrics.permutation.units import head_fit, unit_fit
from models.layout import Site
from models.progress import Stage
from models.refusal import NotApplicable, Refused
from models.stream import Request, stream

SHOWN = 96  # units of a cost matrix that are kept
SEARCHES = 3  # of the same search between weights that share only sizes
TAYLOR_SEQUENCES = 8  # read by gradients and Hessians


@dataclass(frozen=True, eq=False)
class Result:
    """Axes: method as in `methods`, "random order" last; point runs along the path from B (share 0 of A) to A (1); piece are the weight
    matrices with a movable side; γ as in metrics.permutation.singular.GAMMAS; vector runs over singular vectors, NaN beyond a piece's rank;
    `3` is value, 95 % low and high. Losses in nats per token on the sequences that no method was fitted to.

    nll, right [method, point, sequence] sums, tokens [sequence]; barrier [method, (largest, middle), 3] nats; taylor [method] nats
    reduction [method] % of ‖a − b‖ that the order takes away; norm_a, distance plain Frobenius norms
    r_sums [method, piece, γ], ranks_a, ranks_b [piece, γ]; null_sums [draw, piece, γ] of random orders;
    search_sums [draw, piece, γ] of weight matching between A and strangers to B (metrics.permutation.singular)
    merged_sums, merged_ranks [method, piece, γ] of the midpoint model with A
    spectrum_a, spectrum_b, along [piece, vector]: singular values; E|v · x| / ‖x‖ of A's inputs, chance_along [piece] of a random direction
    fit_space, fit_unit, fit_partner, fit_cosine, fit_other, fit_null: units of A and their partners by weight matching, one row each
    unit_cosine [space, 2, n, n] of the first units in B's own order and in A's; head_cosine [layer, group, group], head_partner [layer, group]
    cut_barrier [(large, small), 3] at the midpoint, cut_sums [(large, small), piece, γ], cut_agreement [(large, small)] share of units sent as by all weights
    objective [sweep] Σ⟨a, π(b)⟩ of weight matching; learned_losses [step]
    """

    methods: tuple
    share: np.ndarray
    nll: np.ndarray
    right: np.ndarray
    tokens: np.ndarray
    barrier: np.ndarray
    taylor: np.ndarray
    reduction: np.ndarray
    distance: float
    norm_a: float
    piece: np.ndarray
    kind: np.ndarray
    layer: np.ndarray
    r_sums: np.ndarray
    ranks_a: np.ndarray
    ranks_b: np.ndarray
    null_sums: np.ndarray
    search_sums: np.ndarray
    merged_sums: np.ndarray
    merged_ranks: np.ndarray
    spectrum_a: np.ndarray
    spectrum_b: np.ndarray
    along: np.ndarray
    chance: np.ndarray
    fit_space: np.ndarray
    fit_unit: np.ndarray
    fit_partner: np.ndarray
    fit_cosine: np.ndarray
    fit_other: np.ndarray
    fit_null: np.ndarray
    unit_spaces: tuple
    unit_cosine: np.ndarray
    head_cosine: np.ndarray
    head_partner: np.ndarray
    cut_barrier: np.ndarray
    cut_sums: np.ndarray
    cut_agreement: np.ndarray
    objective: np.ndarray
    learned_losses: np.ndarray
    n_fit: int
    stream: str
    several: dict

    def r(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """(R [method, piece], R [draw, piece] of the random orders) at the γ nearest to the one asked for."""
        g = gamma_index(gamma)
        weight = np.sqrt(self.ranks_a * self.ranks_b)[:, g]
        return tuple(np.where(weight > 0, sums[..., g] / np.maximum(weight, 1e-300), np.nan) for sums in (self.r_sums, self.null_sums))

    def total(self) -> tuple[np.ndarray, np.ndarray]:
        """R over all matrices: [method, γ], [draw, γ]."""
        weight = np.sqrt(self.ranks_a * self.ranks_b).sum(0)
        return self.r_sums.sum(1) / weight, self.null_sums.sum(1) / weight

    def search(self) -> np.ndarray:
        """R over all matrices [draw, γ] of the search between strangers."""
        return self.search_sums.sum(1) / np.sqrt(self.ranks_a * self.ranks_b).sum(0)

    def merged(self) -> np.ndarray:
        """R of the midpoint model with A, over all matrices [method, γ]."""
        return self.merged_sums.sum(1) / np.sqrt(self.ranks_a[None] * self.merged_ranks).sum(1)

    def cut(self) -> np.ndarray:
        """R after matching on large, and on small singular values alone [2, γ]."""
        return self.cut_sums.sum(1) / np.sqrt(self.ranks_a * self.ranks_b).sum(0)


def gamma_index(gamma: float) -> int:
    return int(np.abs(GAMMAS - gamma).argmin())


def compute(captures, params, progress) -> Result:
    first, second, *more = captures
    if not torch.equal(first.ids, second.ids):
        raise NotApplicable("A and B cut this text into different tokens, so their units cannot be compared on it; choose models of one tokenizer.")
    n = len(first.ids)
    if not 1 <= params.fit < n:
        raise Refused(f"{params.fit} of {n} sequences to fit on leave none to measure on; choose 1 to {n - 1}.")
    with first.model() as a, second.model() as b:
        pair = Pair.of(a, b, params.stream, first.ids[: params.fit], first.keep[: params.fit])
        held = first.ids[params.fit :], first.keep[params.fit :]
        maps, objective, learned = maps_by_method(pair, params, first, second, Stage(progress, 0.0, 0.35))
        numbers = _alignment(pair, maps, params, Stage(progress, 0.35, 0.42))
        numbers |= _inputs(pair, numbers, Stage(progress, 0.42, 0.45))
        numbers |= _units(pair, maps["weights"], params)
        numbers |= _paths(pair, maps, params, held, Stage(progress, 0.45, 0.85))
        numbers |= _taylor(pair, maps, Stage(progress, 0.85, 0.93))
        numbers |= _intervention(pair, maps["weights"], numbers["vectors"], params, held, Stage(progress, 0.93, 0.95))
        several = compare_several(pair, more, params, held, Stage(progress, 0.95, 1.0)) if more else None
    names = {f.name for f in dataclasses.fields(Result)}
    return Result(**{k: v for k, v in numbers.items() if k in names}, methods=tuple(maps), n_fit=params.fit, stream=params.stream, objective=np.array(objective),
                  learned_losses=np.array(learned.losses if learned else []),
                  several=dataclasses.asdict(several) if several else {})


def _alignment(pair: Pair, maps: dict[str, Maps], params, progress) -> dict:
    spec = pair.spec
    va = all_singular(spec, pair.a, lambda i, n: progress.step(i, 4 * n, "singular vectors of A"))
    vb = all_singular(spec, pair.b, lambda i, n: progress.step(n + i, 4 * n, "singular vectors of B"))
    names = list(va)
    by_method = [alignment(spec, va, vb, m) for m in maps.values()]
    null = []
    for i in range(params.nulls):
        progress.step(2 * params.nulls + i, 4 * params.nulls, "random orders")
        null.append(alignment(spec, va, vb, random_maps(spec, torch.Generator().manual_seed(params.seed + 1000 + i), pair.fixed)).sums)
    strange = searched(spec, pair.a, pair.b, va, vb, draws=SEARCHES, seed=params.seed, fixed=pair.fixed, step=lambda i, n: progress.step(3 * n + i, 5 * n, "the same search between strangers"))
    merged = []
    for i, m in enumerate(maps.values()):
        progress.step(3 * len(maps) + i, 4 * len(maps), "singular vectors of the merged models")
        moved = apply(spec, pair.b, m)
        merged.append(alignment(spec, va, {name: singular((pair.a[name] + moved[name]) / 2) for name in names}))
    places = pair.symmetry.places
    size = max(len(v.s) for v in (*va.values(), *vb.values()))
    padded = lambda rows: np.stack([np.pad(np.asarray(r, np.float64), (0, size - len(r)), constant_values=np.nan) for r in rows])
    return {
        "vectors": (va, vb), "piece": np.array(names, dtype=str), "kind": np.array([places[n].kind for n in names], dtype=str),
        "layer": np.array([-1 if places[n].layer is None else places[n].layer for n in names]), "r_sums": np.stack([r.sums for r in by_method]),
        "ranks_a": by_method[0].ranks_a, "ranks_b": by_method[0].ranks_b, "null_sums": np.stack(null) if null else np.zeros((0, *by_method[0].sums.shape)),
        "search_sums": np.stack([r.sums for r in strange]),
        "merged_sums": np.stack([r.sums for r in merged]), "merged_ranks": np.stack([r.ranks_b for r in merged]),
        "spectrum_a": padded([v.s for v in va.values()]), "spectrum_b": padded([v.s for v in vb.values()]),
    }


READS = {"q": "attn_in", "k": "attn_in", "v": "attn_in", "o": "z", "mlp in": "mlp_in", "gate": "mlp_in", "up": "mlp_in", "mlp out": "mlp_post", "down": "mlp_post"}


def _inputs(pair: Pair, numbers: dict, progress) -> dict:
    """How much of A's inputs lies along each right singular vector, on the text that was fitted to."""
    va, _ = numbers["vectors"]
    kinds, layers = numbers["kind"].tolist(), numbers["layer"].tolist()
    read = [i for i, kind in enumerate(kinds) if kind in READS]
    statistics = {i: Along(va[str(numbers["piece"][i])].v) for i in read}
    stream(pair.model_a, pair.ids, pair.keep, [Request(statistics[i], (Site(layers[i], READS[kinds[i]]),)) for i in read], progress=progress)
    along = np.full_like(numbers["spectrum_a"], np.nan)
    chance = np.full(len(kinds), np.nan)
    for i in read:
        v = va[str(numbers["piece"][i])].v
        along[i, : v.shape[1]], chance[i] = statistics[i].mean(), chance_along(len(v))
    return {"along": along, "chance": chance}


def _units(pair: Pair, maps: Maps, params) -> dict:
    spec, columns, cosines, spaces = pair.spec, {k: [] for k in ("space", "unit", "partner", "cosine", "other", "null")}, [], []
    for space in spec.plain:
        if space in spec.rotates or space in pair.fixed:
            continue
        fit = unit_fit(spec, pair.a, pair.b, maps, space, torch.Generator().manual_seed(params.seed))
        n = min(SHOWN, len(fit.order))
        pad = lambda x: np.pad(x, (0, SHOWN - n), constant_values=np.nan)
        cosines.append(np.stack([pad(fit.cosine[:n, :n]), pad(fit.cosine[:n, fit.order[:n]])]))
        spaces.append(space)
        parts = (np.full(len(fit.order), space), np.arange(len(fit.order)), fit.order, fit.matched, fit.runner_up, fit.null)
        for column, part in zip(columns.values(), parts):
            column.append(part)
    heads = [head_fit(spec, pair.a, pair.b, maps, attention) for attention in spec.attention]
    return {**{f"fit_{k}": np.concatenate(v) for k, v in columns.items()}, "unit_spaces": tuple(spaces), "unit_cosine": np.stack(cosines),
            "head_cosine": np.stack([h[0] for h in heads]), "head_partner": np.stack([h[1] for h in heads])}


def _paths(pair: Pair, maps: dict[str, Maps], params, held, progress) -> dict:
    weights, methods = grid(params.points), list(maps)
    state = progress.saved() or {"done": 0, "losses": np.zeros((len(methods), len(weights), 3, len(held[0])))}
    losses = np.array(state["losses"])
    for i, method in enumerate(methods):
        if i < int(state["done"]):
            continue
        mixture = pair.mixture(maps[method])
        inner = slice(0, None) if i == 0 else slice(1, -1)  # the ends are A and B whatever the order
        step = lambda k: progress.step(i * len(weights) + k, len(methods) * len(weights), f"loss along the path, {method}")
        losses[i, inner] = path_losses(mixture, weights[inner], *held, step)
        losses[i, [0, -1]] = losses[0, [0, -1]]
        state = {"done": i + 1, "losses": losses}
        progress.save(state)
    tokens, ends = losses[0, 0, TOKENS], losses[0, [-1, 0], NLL]
    before = np.sqrt(pair.distance(None))
    return {
        "share": weights[:, 0], "nll": losses[:, :, NLL], "right": losses[:, :, RIGHT], "tokens": tokens,
        "barrier": np.stack([barriers(weights, path[:, NLL], tokens, ends, params.resamples, params.seed) for path in losses]),
        "reduction": np.array([100 * (1 - np.sqrt(pair.distance(m)) / before) if before else 0.0 for m in maps.values()]),
        "distance": float(before), "norm_a": float(sum(p.double().square().sum() for p in pair.a.values()) ** 0.5),
    }


def _taylor(pair: Pair, maps: dict[str, Maps], progress) -> dict:
    ids, keep = pair.ids[:TAYLOR_SEQUENCES], pair.keep[:TAYLOR_SEQUENCES]
    parts = [slice(i, i + 4) for i in range(0, len(ids), 4)]
    loss = lambda state, i: mean_loss(pair.model_a, state, ids[parts[i]], keep[parts[i]])
    a, out = pair.symmetry.joined(pair.a), []
    for k, (method, m) in enumerate(maps.items()):
        step = lambda i: progress.step(2 * len(parts) * k + i, 2 * len(parts) * len(maps), f"second-order estimate, {method}")
        out.append(taylor_barrier(a, pair.symmetry.joined(apply(pair.spec, pair.b, m)), loss, len(parts), step=step))
    return {"taylor": np.array(out)}


def _intervention(pair: Pair, full: Maps, vectors, params, held, progress) -> dict:
    """Weight matching on what the large singular values make of the matrices, and on what the small ones do; the loss of merging all weights."""
    va, vb = vectors
    spec = dataclasses.replace(pair.spec, axes={name: pair.spec.axes[name] for name in va})
    weights = grid(3)
    rows, sums, alike = [], [], []
    for i, large in enumerate((True, False)):
        progress.step(i, 2, f"matching on {'large' if large else 'small'} singular values")
        cut = [truncated(spec, v, params.split, large) for v in (va, vb)]
        maps = weight_matching(spec, *cut, fixed=pair.fixed, seed=params.seed).maps
        losses = path_losses(pair.mixture(maps), weights, *held)
        rows.append(barriers(weights, losses[:, NLL], losses[0, TOKENS], losses[[-1, 0], NLL], params.resamples, params.seed)[1])
        sums.append(alignment(pair.spec, va, vb, maps).sums)
        share = agreement(maps, full)
        alike.append(np.average(list(share.values()), weights=[pair.spec.sizes[s] for s in share]))
    return {"cut_barrier": np.array(rows), "cut_sums": np.stack(sums), "cut_agreement": np.array(alike)}
