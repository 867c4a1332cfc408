"""The answer on top and the headline numbers, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.plots import interval, number

FOUND, UNIFORM, ADDITIVE = range(3)


def answer(runs) -> str:
    parts = [_one(run) for run in runs]
    return parts[0] if len(parts) == 1 else " ".join(f"{run.label}: {text}" for run, text in zip(runs, parts))


def _one(run) -> str:
    r = run.result
    found, uniform, additive = r.held
    better = found[0] < uniform[0]
    text = (f"At exactly {number(r.budget / 8e6)} MB of block matrices, the bits of {r.levels[r.target]} everywhere, the search {'reaches' if better else 'ends at'} "
            f"**{nats(found[0])} nats per token** of KL{_span(found)} on {r.n_held} held-out sequences, where the uniform level costs {nats(uniform[0])}{_span(uniform)}")
    if not better:
        text += ": **no better than uniform**"
    closer = int((r.control <= found[0]).sum())
    text += (f". Of {len(r.control)} random assignments {closer or 'none'} {'is' if closer == 1 else 'are'} as close (median {nats(np.median(r.control))}); "
             f"the additive choice costs {nats(additive[0])}. {_most(r)}")
    return text


def _most(r) -> str:
    spent = r.bits[np.arange(len(r.found)), r.found] / np.maximum(r.bits.max(1), 1)
    if len(set(r.found.tolist())) == 1:
        return "Every one has the same level."
    best = np.flatnonzero(spent == spent.max())[:3]
    return f"Most bits: {', '.join(label(r, u) for u in best)}, at {r.levels[r.found[best[0]]]}."


def label(r, unit: int) -> str:
    return f"block {r.layer[unit]}" + (f" {r.name[unit]}" if r.name[unit] else "")


def nats(x: float) -> str:
    return number(x) if x >= 1e-6 else "less than 0.000001"


def _span(three) -> str:
    return f" ({interval(three[1], three[2])})" if np.isfinite(three).all() else ""


def additivity(r) -> float:
    """Rank correlation of predicted and measured KL over all assignments that were measured whole."""
    x, y = (np.concatenate([a, b]) for a, b in ((r.predicted, r.control_predicted), (r.measured, r.control_measured)))
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    rank = lambda v: np.argsort(np.argsort(v)).astype(float)
    return float(np.corrcoef(rank(x), rank(y))[0, 1])


def headlines(runs) -> tuple[Headline, ...]:
    run = runs[0]
    r = run.result
    value, low, high = (float(x) for x in r.held[FOUND])
    return (
        Headline("KL of the found assignment", value, "nats/token", low, high, f"{number(float(np.median(r.control)), 2)} (random)", "low", f"uniform {nats(r.held[UNIFORM, 0])}; null: median of random assignments of the same bits"),
        Headline("Over uniform", float(value / max(r.held[UNIFORM, 0], 1e-12)), "×", better="low", note="same bits, held-out text"),
        Headline("Predicted and measured", float(additivity(r)), "ρ", note="rank correlation of the sum of single KLs with the measured one"),
        Headline("Bits", float(r.budget), "bits", note=f"block matrices; {len(r.found)} units, exact"),
    )
