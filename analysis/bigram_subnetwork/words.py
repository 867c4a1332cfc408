"""The answer on top and the headline numbers, made from the result; and what the figures call a mask."""

from __future__ import annotations

import numpy as np

from analysis.bigram_subnetwork.result import ROLES, RULES
from analysis.contract import Headline
from analysis.plots import interval, number

ALONE, RANDOM, ABLATED, RANDOM_ABLATED = range(4)
FULL, EMPTY = range(2)


def rule(run) -> int:
    return RULES.index(run.params.unseen)


def chosen(run) -> int:
    """The mask looked at in detail: the sparsest of the sweep whose r is within `slack` of the smallest λ's; an imported one
    where there is no sweep."""
    r = run.result
    sweep = r.of_kind("bigram")
    if not len(sweep):
        return int(r.of_kind("imported")[0])
    values = r.r[rule(run), sweep, ALONE, 0]
    near = sweep[values >= values[0] - run.params.slack]
    return int(near[np.argmin(r.active[near])]) if len(near) else int(sweep[0])


def optimal(run) -> int | None:
    """The sparsest optimal subnetwork that has more weights than the chosen one; the largest where none has."""
    r = run.result
    there = r.of_kind("optimal")
    if not len(there):
        return None
    more = there[r.active[there] > r.active[chosen(run)]]
    return int(more[np.argmin(r.active[more])]) if len(more) else int(there[np.argmax(r.active[there])])


def before(run) -> int | None:
    """The mask of the chosen λ that was trained before the compression."""
    r = run.result
    there = r.of_kind("before")
    same = there[r.penalty[there] == r.penalty[chosen(run)]]
    return int(same[0]) if len(same) else (int(there[0]) if len(there) else None)


def pair(r, i: int, j: int) -> np.ndarray | None:
    """shared, a, b, n, expected, spread, expected when rows are shuffled, of masks i and j, in that order."""
    for (x, y), values in zip(r.pair, r.shared):
        if {int(x), int(y)} == {i, j}:
            return values if int(x) == i else values[[0, 2, 1, 3, 4, 5, 6]]
    return None


def name(r, i: int) -> str:
    """λ 100; λ 100, optimal; imported."""
    if r.kind[i] == "imported":
        return "imported"
    extra = {"optimal": ", optimal", "before": ", before"}.get(str(r.kind[i]), "")
    return f"λ {r.penalty[i]:g}{extra}"


def share(r, i: int) -> float:
    return float(r.active[i]) / r.n_weights


def percent(x: float) -> str:
    return f"{number(100 * x)} %"


def answer(runs) -> str:
    a, *others = runs
    text = [_alone(a), _without(a)]
    for run in others:
        text.append(_compared(a, run))
    return " ".join(text)


def _alone(run) -> str:
    r, i, k = run.result, chosen(run), rule(run)
    value, low, high = r.r[k, i, ALONE]
    what = "The imported mask’s" if r.kind[i] == "imported" else ""
    lead = f"{what} **{r.active[i]:,} of {r.n_weights:,} weights ({percent(share(r, i))})**" if what else f"**{r.active[i]:,} of {r.n_weights:,} weights ({percent(share(r, i))})**"
    return (f"{lead} are enough for surprisals that follow the bigram table with **r = {number(value)}** (95 % interval {interval(low, high)}); "
            f"the whole model has {number(r.base_r[k, FULL, 0])}, no weights at all {number(r.base_r[k, EMPTY, 0])}, as many random ones {number(r.r[k, i, RANDOM, 0])}.")


def _without(run) -> str:
    r, i = run.result, chosen(run)
    return (f"Without them the text costs {number(r.loss[i, ABLATED, 0])} bits per token instead of {number(r.base_loss[FULL, 0])}; "
            f"without as many random ones {number(r.loss[i, RANDOM_ABLATED, 0])}.")


def _compared(a, b) -> str:
    r, k = b.result, rule(b)
    i, j = chosen(b), before(b)
    own = f"In {b.label} {r.active[i]:,} weights ({percent(share(r, i))}) reach r = {number(r.r[k, i, ALONE, 0])}"
    if j is None:
        return own + "."
    gone, everywhere, z = r.pruned[j]
    lost = (f"{percent(gone)} of {a.label}’s subnetwork were removed (of all weights {percent(everywhere)}, z = {number(z, 2)})" if everywhere > 0 else
            f"the weights of {a.label}’s subnetwork moved by {percent(r.moved[j, 0])} of their size (all by {percent(r.moved[j, 1])})")
    return f"{own}; {lost}, and what is left of it has r = **{number(r.r[k, j, ALONE, 0])}**."


def headlines(runs) -> tuple[Headline, ...]:
    a = runs[0]
    r, i, k = a.result, chosen(a), rule(a)
    value, low, high = r.r[k, i, ALONE]
    rows = [
        Headline("Weights that are enough", 100 * share(r, i), "%", note=f"{r.active[i]:,} of {r.n_weights:,}, {name(r, i)}", better="low"),
        Headline("Follows the bigram table", value, "r", low, high, number(r.base_r[k, EMPTY, 0], 2), note=f"whole model {number(r.base_r[k, FULL, 0])}; null: the empty subnetwork", better="high"),
        Headline("Bits per token without them", r.loss[i, ABLATED, 0], "bits", r.loss[i, ABLATED, 1], r.loss[i, ABLATED, 2],
                 number(r.loss[i, RANDOM_ABLATED, 0]), note=f"{number(r.base_loss[FULL, 0])} with all; null: without as many random ones"),
    ]
    j = optimal(a)
    if len(runs) > 1 and (b := before(runs[1])) is not None:
        other = runs[1].result
        value, low, high = other.r[k, b, ALONE]
        rows.append(Headline("A’s subnetwork in B", value, "r", low, high, number(other.base_r[k, EMPTY, 0], 2), note="with B’s weights; null: no weights at all", better="high"))
    elif j is not None and (shared := pair(r, i, j)) is not None:
        rows.append(Headline("Part of the optimal one", 100 * shared[0] / max(shared[1], 1), "%", null=f"{number(100 * shared[4] / max(shared[1], 1))} %",
                             note=f"{int(shared[0]):,} weights shared, {number(shared[0] / shared[4])} times chance"))
    return tuple(rows)
