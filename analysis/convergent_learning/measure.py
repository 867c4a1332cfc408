"""The numbers: joint moments of both networks' units on two halves of the text, and what the three ways of lining up find in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from metrics.bootstrap import LEVEL, pearson
from metrics.convergence import best_each, explained_by_few, groups, one_to_one, within
from metrics.permutation.activations import CrossMoments, unit_activations
from models.layout import Site
from models.loaded import Model
from models.progress import Stage
from models.refusal import NotApplicable, Refused
from models.shape import shape_of
from models.untrained import untrained

COUNTS = (1, 2, 3, 5, 10, 20)  # units of A that predict one of B
RANDOM_GROUPS = 20  # draws of members at random
ONE, BEST, SHUFFLED, FRESH = range(4)  # rows of `r`


@dataclass(frozen=True, eq=False)
class Result:
    """Block axis: `layers`, by the index of the unmodified checkpoint. Unit axes run over the sampled units, NaN or −1 beyond a block's number.

    units_a, units_b int64 [block, unit]: their numbers in the checkpoint
    partner, best int64 [block, unit of A]: places in units_b; r [4, block, unit of A]: Pearson's r on the second half with the one-to-one partner, the best one,
        the one-to-one partner among shuffled tokens, and among an untrained network's units (NaN without that control)
    mean [2, block, 3]: mean r of one-to-one and best partners, with its 95 % interval over sequences
    predicted int64 [block, target]: places in units_b; explained [2, block, target, count]: share of variance by COUNTS units of A; shuffled tokens second
    group_a, group_b int64 [block, unit]; inside [block, group, 4]: mean |r| within A, within B, between A and B (second half), and of random groups of these sizes
    inside_high [block, group]: 97.5 % point of the random groups; sizes int64 [block, group, 2]
    between [block, unit, unit] float32: r of the first half, A by B, as the groups see it
    """

    layers: tuple
    units_a: np.ndarray
    units_b: np.ndarray
    partner: np.ndarray
    best: np.ndarray
    r: np.ndarray
    mean: np.ndarray
    predicted: np.ndarray
    explained: np.ndarray
    group_a: np.ndarray
    group_b: np.ndarray
    inside: np.ndarray
    inside_high: np.ndarray
    sizes: np.ndarray
    between: np.ndarray
    d_mlp: tuple
    n_fit: int
    n_fit_tokens: int
    n_held_tokens: int


def compute(captures, params, progress) -> Result:
    first, second = captures
    if not torch.equal(first.ids, second.ids):
        raise NotApplicable("A and B cut this text into different tokens, so their units cannot be compared on it; choose models of one tokenizer.")
    ids, keep = first.ids, first.keep
    if len(ids) < 4:
        raise Refused(f"The text has {len(ids)} sequences; expected at least 4, half to choose partners on and half to measure them.")
    cut = len(ids) // 2
    with first.model() as a, second.model() as b:
        layers = tuple(i for i in range(min(a.n_layers, b.n_layers)) if (i, "mlp") not in a.removed | b.removed)
        if not layers:
            raise NotApplicable("A and B share no block with an MLP: their recipes have removed different ones.")
        sampled = _Sampled(a, b, layers, params)
        third = untrained(b, params.seed) if params.untrained else None
        fit = _moments(sampled, third, ids[:cut], keep[:cut], params.seed, Stage(progress, 0.0, 0.3))
        held = _moments(sampled, third, ids[cut:], keep[cut:], params.seed + 1, Stage(progress, 0.3, 0.6))
        chosen = [_partners(fit[i], sampled.n[i]) for i in range(len(layers))]
        sums = _pair_sums(sampled, [c[:2] for c in chosen], ids[cut:], keep[cut:], Stage(progress, 0.6, 0.7))
    blocks = []
    for i in range(len(layers)):
        part = Stage(progress, 0.7 + 0.3 * i / len(layers), 0.7 + 0.3 * (i + 1) / len(layers))
        blocks.append(_block(fit[i], held[i], chosen[i], sampled.n[i], sums[i], params, f"block {layers[i]}", part))
    rows = {name: _padded([block[name] for block in blocks]) for name in blocks[0]}
    swap = lambda x: np.moveaxis(x, 0, 1)  # [block, kind, …] -> [kind, block, …]
    return Result(
        layers, _padded([u.numpy() for u in sampled.units[0]]), _padded([u.numpy() for u in sampled.units[1]]), rows["partner"], rows["best"], swap(rows["r"]), swap(rows["mean"]),
        rows["predicted"], swap(rows["explained"]), rows["group_a"], rows["group_b"], rows["inside"], rows["inside_high"], rows["sizes"], rows["between"],
        (sampled.width[0], sampled.width[1]), cut, int(keep[:cut].sum()), int(keep[cut:].sum()),
    )


class _Sampled:
    """Which blocks and units of both models are read, and their activations, batch by batch."""

    def __init__(self, a: Model, b: Model, layers: tuple, params):
        self.models, self.layers = (a, b), layers
        generator = torch.Generator().manual_seed(params.seed)
        self.units = ([], [])
        for model, units in zip(self.models, self.units):
            for layer in layers:
                width = _width(model, layer)
                units.append(torch.randperm(width, generator=generator)[: params.units].sort().values if width > params.units else torch.arange(width))
        self.width = tuple(_width(model, layers[0]) for model in self.models)
        self.n = [len(u) for u in self.units[0]]

    def read(self, side: int, ids: torch.Tensor, keep: torch.Tensor, model: Model | None = None) -> Iterator[list[torch.Tensor]]:
        """[token, unit] float64 of every block; `model` in place of the side's own, of the same shape."""
        model = model or self.models[side]
        for seen in unit_activations(model, ids, keep, ("mlp",)):
            yield [seen["mlp", layer][:, units.to(model.device)].double().cpu() for layer, units in zip(self.layers, self.units[side])]


def _width(model: Model, layer: int) -> int:
    return next(m.n_in for m in shape_of(model).matrices if m.site == Site(layer, "mlp_post"))


def _moments(sampled: _Sampled, third: Model | None, ids: torch.Tensor, keep: torch.Tensor, seed: int, progress) -> list[dict[str, CrossMoments]]:
    """Of every block: "joint" (A's units then B's, with themselves), "shuffled" (A with B at other tokens), "fresh" (A with an untrained network)."""
    found = [{"joint": CrossMoments(), "shuffled": CrossMoments()} | ({"fresh": CrossMoments()} if third else {}) for _ in sampled.layers]
    generator, done, total = torch.Generator().manual_seed(seed), 0, int(keep.sum())
    extra = sampled.read(1, ids, keep, third) if third else None
    for xs, ys in zip(sampled.read(0, ids, keep), sampled.read(1, ids, keep)):
        progress.step(done, total, "units of both models")
        zs = next(extra) if extra else [None] * len(xs)
        order = torch.randperm(len(xs[0]), generator=generator)
        for kept, x, y, z in zip(found, xs, ys, zs):
            both = torch.cat([x, y], 1)
            kept["joint"].add(both, both)
            kept["shuffled"].add(x, y[order])
            if z is not None:
                kept["fresh"].add(x, z)
        done += len(xs[0])
    return found


def _partners(moments: dict[str, CrossMoments], n: int) -> tuple:
    """(one to one, best, one to one when shuffled, one to one with the untrained network) of A's units."""
    r = moments["joint"].correlation().numpy()[:n, n:]
    shuffled = moments["shuffled"].correlation().numpy()
    fresh = one_to_one(moments["fresh"].correlation().numpy()) if "fresh" in moments else None
    return one_to_one(r), best_each(r), one_to_one(shuffled), fresh


def _pair_sums(sampled: _Sampled, partners: list, ids: torch.Tensor, keep: torch.Tensor, progress) -> list[np.ndarray]:
    """Of every block [kind, sequence, 6, unit of A]: n, Σx, Σy, Σx², Σy², Σxy with each unit's partner."""
    sums = [np.zeros((2, len(ids), 6, n)) for n in sampled.n]
    sequence = torch.arange(len(ids))[:, None].expand(keep.shape)[keep]
    done = 0
    for xs, ys in zip(sampled.read(0, ids, keep), sampled.read(1, ids, keep)):
        progress.step(done, len(sequence), "partners, sequence by sequence")
        here = sequence[done : done + len(xs[0])]
        done += len(here)
        low = int(here[0])
        for total, x, y, kinds in zip(sums, xs, ys, partners):
            for k, partner in enumerate(kinds):
                z = y[:, torch.from_numpy(np.maximum(partner, 0))]
                rows = torch.stack([torch.ones_like(x), x, z, x * x, z * z, x * z], 1)  # [token, 6, unit]
                here_sums = torch.zeros(int(here[-1]) - low + 1, *rows.shape[1:], dtype=torch.float64).index_add_(0, here - low, rows)
                total[k, low : low + len(here_sums)] += here_sums.numpy()
    return sums


def _block(fit: dict, held: dict, chosen: tuple, n: int, sums: np.ndarray, params, name: str, progress) -> dict[str, np.ndarray]:
    one, best, by_luck, by_fresh = chosen
    r_fit, r_held = (part["joint"].correlation().numpy() for part in (fit, held))
    take = lambda r, partner: np.where(partner >= 0, r[np.arange(n), np.maximum(partner, 0)], np.nan)
    fresh = take(held["fresh"].correlation().numpy(), by_fresh) if by_fresh is not None else np.full(n, np.nan)
    r = np.stack([take(r_held[:n, n:], one), take(r_held[:n, n:], best), take(held["shuffled"].correlation().numpy(), by_luck), fresh])
    m = r_fit.shape[0] - n
    rng = np.random.default_rng(params.seed)
    targets = np.sort(rng.choice(m, min(m, params.predicted), replace=False))
    counts = tuple(c for c in COUNTS if c <= n)
    explained = np.full((2, len(targets), len(COUNTS)), np.nan)
    for k in range(2):
        note = lambda i, k=k: progress.step(k * len(targets) + i, 2 * len(targets), f"{name}: units of B from a few of A" + (", shuffled" if k else ""))
        explained[k, :, : len(counts)] = explained_by_few(_joint(fit, n, bool(k)), _joint(held, n, bool(k)), n, targets, counts, note)
    group_a, group_b = groups(r_fit[:n, n:], params.groups, params.seed)
    inside, high = _inside(r_held, n, group_a, group_b, params.groups, rng)
    sizes = np.stack([np.bincount(g[g >= 0], minlength=params.groups)[: params.groups] for g in (group_a, group_b)], 1)
    return {"partner": one, "best": best, "r": r, "mean": _mean_interval(sums, params), "predicted": targets, "explained": explained, "group_a": group_a, "group_b": group_b, "inside": inside,
            "inside_high": high, "sizes": sizes, "between": r_fit[:n, n:].astype(np.float32)}


def _joint(half: dict[str, CrossMoments], n: int, shuffled: bool) -> tuple[np.ndarray, np.ndarray]:
    """(mean, covariance) of A's units followed by B's; other tokens on the two sides change only what they have in common."""
    joint = half["joint"]
    covariance = joint.covariance().numpy().copy()
    if shuffled:
        covariance[:n, n:] = half["shuffled"].covariance().numpy()
        covariance[n:, :n] = covariance[:n, n:].T
    return joint.a.numpy() / joint.n, covariance


def _inside(r: np.ndarray, n: int, a: np.ndarray, b: np.ndarray, k: int, rng) -> tuple[np.ndarray, np.ndarray]:
    off = r - np.diag(np.diagonal(r))
    fair = lambda values, sizes: values * sizes / np.maximum(sizes - 1, 1)  # the diagonal is no pair
    count = lambda g: np.array([(g == i).sum() for i in range(k)])
    own_a, own_b = fair(within(off[:n, :n], a, a, k), count(a)), fair(within(off[n:, n:], b, b, k), count(b))
    for own, g in ((own_a, a), (own_b, b)):
        own[count(g) < 2] = np.nan
    random = np.stack([within(r[:n, n:], rng.permutation(a), rng.permutation(b), k) for _ in range(RANDOM_GROUPS)])
    between = within(r[:n, n:], a, b, k)
    with np.errstate(all="ignore"):
        mean, high = random.mean(0), np.quantile(random, (1 + LEVEL) / 2, axis=0)
    return np.stack([own_a, own_b, between, mean], 1), high


def _mean_interval(sums: np.ndarray, params) -> np.ndarray:
    """Mean r over units with its interval, [kind, 3]; sequences are resampled whole."""
    rng = np.random.default_rng(params.seed)
    n = sums.shape[1]
    weights = rng.multinomial(n, np.full(n, 1 / n), params.resamples).astype(np.float64)
    out = []
    for kind in sums:
        value = float(_mean_r(kind.sum(0)[None])[0])
        drawn = np.concatenate([_mean_r(np.einsum("ds,sku->dku", part, kind)) for part in np.array_split(weights, max(1, params.resamples // 50))])
        out.append([value, *np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])])
    return np.array(out)


def _mean_r(sums: np.ndarray) -> np.ndarray:
    """Mean over units of r, from sums [draw, 6, unit]; a unit that never changes counts as 0, as everywhere here."""
    return np.nan_to_num(pearson(np.moveaxis(sums, 1, -1))).mean(1)


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    """Stacked along a new first axis; shorter ones end in NaN, or −1 for whole numbers."""
    rows = [np.asarray(row) for row in rows]
    shape = tuple(max(row.shape[i] for row in rows) for i in range(rows[0].ndim))
    out = np.full((len(rows), *shape), -1 if rows[0].dtype.kind == "i" else np.nan, rows[0].dtype)
    for i, row in enumerate(rows):
        out[(i, *map(slice, row.shape))] = row
    return out
