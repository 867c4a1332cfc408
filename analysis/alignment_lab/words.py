"""The answer on top and the headline numbers, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.plots import interval, number
from metrics.permutation.methods import ACTIVATIONS, LEARNED, NONE, RANDOM, WEIGHTS
from metrics.permutation.singular import GAMMAS

LARGEST, MIDDLE = range(2)
TRAIN, TEST = range(2)


def gamma_index(gamma: float) -> int:
    return int(np.abs(GAMMAS - gamma).argmin())


def signed(x: float) -> str:
    return f"{0.0 if abs(x) < 5e-4 else x:.3f}".replace("-", "−")


def middle(r, method: str) -> np.ndarray:
    """[pair] barrier at the midpoint on test images."""
    return r.barrier[:, r.methods.index(method), MIDDLE, TEST]


def spread(values: np.ndarray) -> str:
    return f"{number(float(values.mean()))} ({interval(float(values.min()), float(values.max()))})"


def answer(runs) -> str:
    r, gamma = runs[0].result, GAMMAS[gamma_index(runs[0].params.gamma)]
    naive, ordered, chance = (middle(r, m) for m in (NONE, WEIGHTS, RANDOM))
    g = gamma_index(gamma)
    at = lambda m: r.r[:, r.methods.index(m), g]
    share = f", {100 * ordered.mean() / naive.mean():.0f} % of it" if naive.mean() > 0 else ""
    text = [f"Merged at the midpoint, {len(naive)} pairs of width {runs[0].params.width} lose **{spread(naive)} nats** on test images; with B’s units ordered by weights **{spread(ordered)}**{share}; in a random order {spread(chance)}."]
    text.append(f"R at γ = {gamma:g} rises from {signed(at(NONE).mean())} to **{signed(at(WEIGHTS).mean())}**; random orders lie in {signed(r.null[:, :, g].min())} to {signed(r.null[:, :, g].max())}, and the same search between networks with nothing but singular values in common reaches {signed(r.search_null[:, :, g].max())}.")
    large, small = r.cut_barrier.mean(0)
    text.append(f"Matched on large singular values alone the barrier is {number(large)}, on small ones {number(small)}.")
    if LEARNED in r.methods:
        text.append(f"The order learned from the loss leaves {spread(middle(r, LEARNED))} with R = {signed(at(LEARNED).mean())}.")
    return " ".join(text)


def headlines(runs) -> tuple[Headline, ...]:
    r, gamma = runs[0].result, GAMMAS[gamma_index(runs[0].params.gamma)]
    g, i = gamma_index(gamma), r.methods.index(WEIGHTS)
    ranged = lambda values: (float(values.mean()), "nats", float(values.min()), float(values.max()))
    chance, naive = middle(r, RANDOM), middle(r, NONE)
    null = f"{number(float(chance.mean()))} (random)"
    return (
        Headline("Midpoint barrier, weights", *ranged(middle(r, WEIGHTS)), null, "low", f"as they are {number(float(naive.mean()))}; range of {len(naive)} pairs"),
        Headline("Midpoint barrier, activations", *ranged(middle(r, ACTIVATIONS)), null, "low", f"range of {len(naive)} pairs"),
        Headline(f"R at γ = {gamma:g}, weights", signed(float(r.r[:, i, g].mean())), "", null=f"{signed(r.search_null[:, :, g].min())} to {signed(r.search_null[:, :, g].max())} (searched)", better="high",
                 note=f"random orders {signed(r.null[:, :, g].min())} to {signed(r.null[:, :, g].max())}"),
        Headline("Distance taken off", float(r.reduction[:, i].mean()), "%", null=f"{number(float(r.reduction[:, -1].mean()))} %", better="high"),
    )
