"""The answer on top and the headline numbers, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.plots import interval, number
from metrics.bootstrap import ratio_interval
from metrics.permutation.singular import GAMMAS

LETTERS = "ABCDEFGH"
PLAIN = "average"


def gamma_index(gamma: float) -> int:
    return int(np.abs(GAMMAS - gamma).argmin())


def names(r) -> list[str]:
    """Parents by letter, merges by their step as written."""
    return [*LETTERS[: len(r.parents)], *(step_of(m) for m in r.merges)]


def step_of(merge: str) -> str:
    """`average:align=weights` of (a+b)~average:align=weights,on=…; a text that calibrates is left out."""
    text = merge.rpartition(")~")[2]
    head, _, fields = text.partition(":")
    fields = [f for f in fields.split(",") if f and not f.startswith("on=")]
    return head + (":" + ",".join(fields) if fields else "")


def losses(run, text: int) -> np.ndarray:
    """[row, (value, 95 % low, high)] nats per token on one text."""
    r = run.result
    return np.stack(ratio_interval(r.nll[text], r.tokens[text], run.params.resamples, run.params.seed), -1)


def cost(run, text: int) -> np.ndarray:
    """[merge, 3] nats per token above the parents' mean on the same sequences."""
    r = run.result
    n = len(r.parents)
    return np.stack(ratio_interval(r.nll[text][n:] - r.nll[text][:n].mean(0), r.tokens[text], run.params.resamples, run.params.seed), -1)


def answer(runs) -> str:
    run = runs[0]
    r, price = run.result, cost(run, 0)
    steps = [step_of(m) for m in r.merges]
    one = np.array([step.partition(":")[0] != "reversible" for step in steps])
    pool = np.flatnonzero(one) if one.any() else np.arange(len(steps))
    best = int(pool[np.argmin(price[pool, 0])])
    text = [f"On {r.texts[0]} the merge that loses least is **{steps[best]}**: {said(price[best])} over the mean of its {len(r.parents)} parents."]
    if PLAIN in steps and steps[best] != PLAIN:
        text.append(f"The plain average loses {said(price[steps.index(PLAIN)])}.")
    if len(r.texts) > 1:
        second = cost(run, 1)
        text.append(f"On {r.texts[1]} {steps[best]} loses {said(second[best])}.")
    g = gamma_index(run.params.gamma)
    if np.isfinite(r.r[best, :, :, g]).all() and len(r.null):
        text.append(f"Its R with B goes from {signed(r.r[best, 1, 0, g])} as B is to {signed(r.r[best, 1, 1, g])} in the merge’s order (γ = {GAMMAS[g]:g}; random orders {signed(r.null[:, g].min())} to {signed(r.null[:, g].max())}).")
    return " ".join(text)


def said(three) -> str:
    between = f" (95 % interval {interval(three[1], three[2])})" if np.isfinite(three[1:]).all() else ""
    return f"{number(float(three[0]))} nats per token{between}"


def signed(x: float) -> str:
    return f"{0.0 if abs(x) < 5e-4 else x:.3f}".replace("-", "−")


def headlines(runs) -> tuple[Headline, ...]:
    run = runs[0]
    r, price = run.result, cost(run, 0)
    order = np.argsort(price[:, 0])[:3]
    steps = [step_of(m) for m in r.merges]
    null = f"{number(float(price[steps.index(PLAIN), 0]))} (plain average)" if PLAIN in steps else ""
    three = lambda i: [float(x) if np.isfinite(x) else None for x in price[i]]
    return tuple(Headline(f"Price of {steps[i]}", *(lambda t: (t[0], "nats/token", t[1], t[2]))(three(i)), null, "low", "over the parents’ mean") for i in order)
