"""The answer on top and the headline numbers, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.plots import interval, number
from analysis.singular_alignment.measure import gamma_index
from metrics.permutation.methods import LEARNED, NONE, RANDOM, WEIGHTS
from metrics.permutation.singular import GAMMAS

LARGEST, MIDDLE = range(2)


def answer(runs) -> str:
    r, gamma = runs[0].result, shown_gamma(runs[0].params.gamma)
    if r.distance == 0:
        return "A and B have **the same weights**: the distance is 0 and every order that is not the identity only moves them apart."
    i, naive, chance = (r.methods.index(m) for m in (WEIGHTS, NONE, RANDOM))
    aligned, null = r.r(gamma)
    total, band = r.total()
    g = gamma_index(gamma)
    text = [f"Merged at the midpoint, A and B lose **{barrier(r, naive)}** over their parents; with B’s units ordered by weights **{barrier(r, i)}**, "
            f"in a random order {number(r.barrier[chance, MIDDLE, 0])}."]
    text.append(f"Alignment R at γ = {gamma:g} goes from {signed(total[naive, g])} to **{signed(total[i, g])}**; random orders lie in {span(band[:, g])}, and the same search between weights with nothing but singular values in common reaches {signed(r.search()[:, g].max())}.")
    if LEARNED in r.methods:
        k = r.methods.index(LEARNED)
        less = r.barrier[k, MIDDLE, 0] < r.barrier[i, MIDDLE, 0] and total[k, g] < total[i, g]
        text.append(f"The order learned from the loss leaves {barrier(r, k)} with R = {signed(total[k, g])}{': a low barrier is not alignment' if less else ''}.")
    text.append(f"Weight matching takes {number(r.reduction[i])} % off the distance ‖a − b‖.")
    if r.several:
        text.append(_several(r))
    return " ".join(text)


def _several(r) -> str:
    from analysis.singular_alignment.several import ORDERS, Several

    s = Several(**r.several)
    values = [number(x) for x in s.average_barrier]
    best = int(np.argmin(s.average_barrier))
    return (f"The mean of all {len(s.parents)} loses {values[0]} nats over its parents as they are, {values[1]} with all ordered to A, {values[2]} by MergeMany; "
            f"lowest {ORDERS[best]}.")


def barrier(r, i: int) -> str:
    value, low, high = r.barrier[i, MIDDLE]
    between = f" (95 % interval {interval(low, high)})" if np.isfinite([low, high]).all() else ""
    return f"{number(value)} nats per token{between}"


def shown_gamma(gamma: float) -> float:
    return float(GAMMAS[gamma_index(gamma)])


def signed(x: float) -> str:
    """R to three places: what chance does is a matter of the third."""
    return f"{0.0 if abs(x) < 5e-4 else x:.3f}".replace("-", "−")


def span(values: np.ndarray) -> str:
    return f"{signed(values.min())} to {signed(values.max())}"


def headlines(runs) -> tuple[Headline, ...]:
    r, gamma = runs[0].result, shown_gamma(runs[0].params.gamma)
    i, naive, chance = (r.methods.index(m) for m in (WEIGHTS, NONE, RANDOM))
    total, band = r.total()
    g = gamma_index(gamma)
    value = lambda k: tuple(float(x) for x in r.barrier[k, MIDDLE])
    three = value(i)
    null = f"{number(r.barrier[chance, MIDDLE, 0])} (random)"
    out = [
        Headline("Midpoint barrier, weights", three[0], "nats/token", *(three[1:] if np.isfinite(three).all() else (None, None)), null, "low", f"as they are {number(value(naive)[0])}"),
        Headline(f"R at γ = {gamma:g}, weights", signed(float(total[i, g])), "", null=f"{span(r.search()[:, g])} (searched)", better="high", note=f"as they are {signed(total[naive, g])}; random orders {span(band[:, g])}"),
        Headline("Distance taken off", float(r.reduction[i]), "%", null=f"{number(r.reduction[chance])} %", better="high", note=f"of ‖a − b‖ = {number(r.distance)}"),
    ]
    if LEARNED in r.methods:
        k = r.methods.index(LEARNED)
        three = value(k)
        out.append(Headline("Midpoint barrier, learned", three[0], "nats/token", *(three[1:] if np.isfinite(three).all() else (None, None)), null, "low", f"R = {signed(total[k, g])}"))
    return tuple(out)


def place(r, i: int) -> str:
    """A piece in words: "mlp out of block 3"."""
    return str(r.kind[i]) if r.layer[i] < 0 else f"{r.kind[i]} of block {r.layer[i]}"
