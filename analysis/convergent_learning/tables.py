"""The data behind each card, whole."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from analysis.convergent_learning.measure import BEST, COUNTS, FRESH, ONE, SHUFFLED


def partners(r) -> pa.Table:
    """One row a unit of A: its partner of B, its best unit of B, and the controls'."""
    block, unit = np.nonzero(r.units_a >= 0)
    named = lambda places: np.where(places[block, unit] >= 0, r.units_b[block, np.maximum(places[block, unit], 0)], -1)
    return pa.table({"block": np.array(r.layers)[block], "unit_a": r.units_a[block, unit], "partner_b": named(r.partner), "r": r.r[ONE, block, unit], "best_b": named(r.best),
                     "r_best": r.r[BEST, block, unit], "r_shuffled": r.r[SHUFFLED, block, unit], "r_untrained": r.r[FRESH, block, unit]})


def blocks(r) -> pa.Table:
    controls = np.nanmean(np.where(np.isfinite(r.r[SHUFFLED:]), r.r[SHUFFLED:], np.nan), 2) if np.isfinite(r.r[FRESH]).any() else np.stack([np.nanmean(r.r[SHUFFLED], 1), np.full(len(r.layers), np.nan)])
    columns = {"block": list(r.layers)}
    for k, word in ((ONE, "one_to_one"), (BEST, "best_each")):
        columns |= {f"mean_r_{word}": r.mean[k, :, 0], f"{word}_low": r.mean[k, :, 1], f"{word}_high": r.mean[k, :, 2]}
    return pa.table(columns | {"mean_r_shuffled": controls[0], "mean_r_untrained": controls[1], "share_agreeing": agreeing(r), "units_of_b_that_are_best": distinct(r)})


def agreeing(r) -> np.ndarray:
    """The share of A's units whose one-to-one partner is their best unit, [block]."""
    real = r.units_a >= 0
    return ((r.partner == r.best) & real).sum(1) / real.sum(1)


def distinct(r) -> np.ndarray:
    """How many units of B are the best of some unit of A, [block]."""
    return np.array([len(set(row[row >= 0].tolist())) for row in r.best])


def few(r) -> pa.Table:
    block, target = np.nonzero(r.predicted >= 0)
    columns = {"block": np.array(r.layers)[block], "unit_b": r.units_b[block, r.predicted[block, target]]}
    for k, word in enumerate(("", "_shuffled")):
        columns |= {f"explained_by_{count}{word}": r.explained[k, block, target, i] for i, count in enumerate(COUNTS)}
    return pa.table(columns)


def members(r) -> pa.Table:
    """One row a unit of either network: the group it is in."""
    rows = []
    for side, units, group in (("A", r.units_a, r.group_a), ("B", r.units_b, r.group_b)):
        block, unit = np.nonzero(units >= 0)
        rows.append(pa.table({"network": [side] * len(block), "block": np.array(r.layers)[block], "unit": units[block, unit], "group": group[block, unit]}))
    return pa.concat_tables(rows)


def inside(r) -> pa.Table:
    block, group = np.nonzero((r.sizes > 0).any(2))
    columns = {"block": np.array(r.layers)[block], "group": group, "units_of_a": r.sizes[block, group, 0], "units_of_b": r.sizes[block, group, 1]}
    words = ("within_a", "within_b", "between", "random_groups")
    return pa.table(columns | {f"mean_abs_r_{w}": r.inside[block, group, i] for i, w in enumerate(words)} | {"random_groups_high": r.inside_high[block, group]})
