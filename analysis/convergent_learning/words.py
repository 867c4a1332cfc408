"""The answer on top and the headline numbers, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.convergent_learning import tables
from analysis.convergent_learning.measure import BEST, COUNTS, FRESH, ONE, SHUFFLED
from analysis.plots import interval, number

CLOSE = 0.5  # r above which a unit is said to have a partner
FEW = COUNTS.index(10)


def answer(runs) -> str:
    r = runs[0].result
    share, luck, best = close(r, ONE), close(r, SHUFFLED), close(r, BEST)
    text = [f"**{100 * share:.0f} %** of A’s MLP units have a partner of their own in B (r ≥ {CLOSE} on tokens that did not choose it), {100 * luck:.0f} % among shuffled tokens"
            + (f", {100 * close(r, FRESH):.0f} % in an untrained network" if fresh(r) else "") + f"; {100 * best:.0f} % if partners may be shared."]
    one, several, control = (typical(r, *at) for at in ((0, 0), (0, FEW), (1, FEW)))
    text.append(f"A typical unit of B is explained to {percent(one)} by one unit of A and to **{percent(several)}** by {COUNTS[FEW]} (shuffled {percent(control)}).")
    return " ".join(text)


def headlines(runs) -> tuple:
    r = runs[0].result
    nulls = f"shuffled {number(overall(r, SHUFFLED))}" + (f", untrained {number(overall(r, FRESH))}" if fresh(r) else "")
    first, last = r.mean[ONE, 0], r.mean[ONE, -1]
    out = [Headline("mean r, one partner each", overall(r, ONE), "", null=nulls, note="all blocks"),
           Headline(f"mean r in block {r.layers[0]}", float(first[0]), "", float(first[1]), float(first[2]))]
    if len(r.layers) > 1:
        out.append(Headline(f"mean r in block {r.layers[-1]}", float(last[0]), "", float(last[1]), float(last[2])))
    out.append(Headline(f"explained by {COUNTS[FEW]} units", 100 * typical(r, 0, FEW), "%", null=f"by one {percent(typical(r, 0, 0))}, shuffled {percent(typical(r, 1, FEW))}", note="median unit of B"))
    return tuple(out)


def close(r, kind: int) -> float:
    """The share of A's units with r ≥ 0.5; a unit without partner has none."""
    return float((np.nan_to_num(r.r[kind]) >= CLOSE).sum() / (r.units_a >= 0).sum())


def overall(r, kind: int) -> float:
    return float(np.nanmean(r.r[kind]))


def typical(r, kind: int, count: int) -> float:
    """The median over units of B of the share explained, all blocks."""
    values = r.explained[kind, :, :, count]
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def percent(x: float) -> str:
    return f"{100 * x:.0f} %".replace("-", "−") if np.isfinite(x) else "–"


def fresh(r) -> bool:
    return bool(np.isfinite(r.r[FRESH]).any())


def of_block(r, i: int) -> str:
    """“mean r 0.41 (0.40–0.42)” of the i-th block, one partner each."""
    value, low, high = r.mean[ONE, i]
    return f"{number(value)} ({interval(low, high)})"


def agreement(r) -> str:
    real = (r.units_a >= 0).sum(1)
    return percent(float((tables.agreeing(r) * real).sum() / real.sum()))
