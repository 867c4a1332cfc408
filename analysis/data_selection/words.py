"""What is read off a result at the chosen budget, and the answer on top."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.data_selection.measure import LESS, budget
from analysis.plots import number
from metrics.selection_tuning import rank_p


def taken(run, method: int = 0, draw: int = 0) -> np.ndarray:
    """Indices of the samples that a method takes at the budget, best first."""
    order = run.result.order[draw, method]
    return order[: budget(run.params.budget / 100, order)]


def precision(run, method: int, share: float | None = None) -> np.ndarray:
    """[draw] share of the taken samples that wear the target's label."""
    r = run.result
    share = run.params.budget / 100 if share is None else share
    return np.array([r.relevant[order[: budget(share, order)]].mean() for order in r.order[:, method]])


def base_rate(r) -> np.ndarray:
    """[draw] share of relevant samples among the candidates: what random taking gets."""
    return np.array([r.relevant[order[order >= 0]].mean() for order in r.order[:, 0]])


def reachable(run) -> float:
    """The highest precision that the budget allows, in the first draw."""
    r, order = run.result, run.result.order[0, 0]
    return min(1.0, int(r.relevant[order[order >= 0]].sum()) / budget(run.params.budget / 100, order))


def length_correlation(r) -> float:
    """Spearman's ρ between score and counted tokens, first draw; NaN where one of them never varies."""
    there = np.isfinite(r.score[0])
    return _spearman(r.score[0][there], r.length[there])


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    ranks = [_ranks(v) for v in (x, y)]
    return float(np.corrcoef(*ranks)[0, 1]) if all(v.std() > 0 for v in ranks) else float("nan")


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks with ties at their mean."""
    _, inverse, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[inverse]


def overlap(x: np.ndarray, y: np.ndarray) -> float:
    """Jaccard overlap of two selections."""
    return len(np.intersect1d(x, y)) / len(np.union1d(x, y))


def chance_overlap(n: int, whole: int) -> float:
    """Overlap of two independent random selections of n among `whole`: expected intersection over expected union."""
    common = n * n / whole
    return common / (2 * n - common)


def agreement(a, b) -> tuple[float, float, float]:
    """(Spearman's ρ of the scores in A and in B, overlap of what they take, overlap by chance), first draw, same pool and target."""
    x, y = a.result.score[0], b.result.score[0]
    there = np.isfinite(x) & np.isfinite(y)
    return _spearman(x[there], y[there]), overlap(taken(a), taken(b)), chance_overlap(len(taken(a)), int(there.sum()))


def same_pool(a, b) -> bool:
    return len(a.result.text) == len(b.result.text) and (a.result.text == b.result.text).all() and np.array_equal(a.result.target, b.result.target)


def method(run, i: int) -> str:
    """What a method is called on this run."""
    p = run.params
    preset = (p.pooling, p.metric, p.k) == ("mean", "Jaccard", 0)
    own = "MONA" if preset else f"SAE {p.pooling}, {p.metric}"
    return (own, f"{own}, length-matched", "raw cosine", "RDS+", "BM25", "coverage", LESS)[i]


def helps(run) -> np.ndarray:
    """p [method]: the rank of a method's held-out loss among random selections; empty where none was tuned on."""
    r = run.result
    return rank_p(r.tuned, len(r.methods)) if len(r.tuned) else np.zeros(0)


def helping(run) -> str:
    """One sentence on tuning, "" where there was none."""
    r, p = run.result, helps(run)
    if not len(p):
        return ""
    mean, n = r.tuned.mean(1), len(r.methods)
    best, luck = int(np.argmin(mean[:n])), mean[n:]
    return (f"Tuned for {run.params.tune_steps} steps at rate {run.params.tune_rate:g} on {run.params.tune_share:g} %, the held-out target costs {number(r.untuned)} nats per token before, {number(mean[0])} after {method(run, 0)} "
            f"(p = {p[0]:.2g}), {number(luck.mean())} after random selections ({number(luck.min())} to {number(luck.max())}, {len(luck)} of them)"
            + (f"; the lowest, {number(mean[best])}, after {method(run, best)} (p = {p[best]:.2g})." if best else "; no method is lower."))


def percent(x: float) -> str:
    return f"{100 * x:.0f} %"


def spread(x: np.ndarray) -> str:
    if len(x) < 2:
        return percent(x.mean())
    low, high = percent(x.min()), percent(x.max())
    return f"{percent(x.mean())} ({f'{low} to {high} over' if low != high else 'in each of'} {len(x)} draws)"


def answer(runs) -> str:
    told = "  \n".join((f"**{run.label}**: " if len(runs) > 1 else "") + " ".join(filter(None, (_one(run), helping(run)))) for run in runs)
    if len(runs) < 2 or not same_pool(*runs[:2]):
        return told
    rho, both, chance = agreement(*runs[:2])
    return f"{told}  \nB ranks the pool with ρ = **{number(rho)}** to A; what they take overlaps by **{percent(both)}**, by chance {percent(chance)}."


def _one(run) -> str:
    r, p = run.result, run.params
    n = len(taken(run))
    length = f"Score and length correlate at ρ = {number(length_correlation(r))}"
    if not r.has_labels:
        return f"{n} of {len(r.text):,} samples are taken as most like the {len(r.target_text)} target examples; the pool has no label to judge them by. {length}."
    others = ", ".join(f"{method(run, i)} {percent(precision(run, i).mean())}" for i in (2, 3, 4, *range(6, len(r.methods))))
    return (f"Of {n} samples that {method(run, 0)} takes for “{p.task}”, **{spread(precision(run, 0))}** are of that {p.label}; random {percent(base_rate(r).mean())}, "
            f"{others}; at most {percent(reachable(run))} can be. {length}.")


def headlines(runs) -> tuple:
    run = runs[0]
    r = run.result
    rows = []
    if r.has_labels:
        found = precision(run, 0)
        rows = [Headline(f"Precision, {method(run, 0)}", 100 * found.mean(), "%", 100 * found.min() if len(found) > 1 else None, 100 * found.max() if len(found) > 1 else None,
                         null=f"random {percent(base_rate(r).mean())}", better="high"),
                Headline("Precision, raw cosine", 100 * precision(run, 2).mean(), "%", null=f"random {percent(base_rate(r).mean())}", better="high", note=f"BM25 {percent(precision(run, 4).mean())}")]
    rows.append(Headline("Score against length, ρ", length_correlation(r), note="Spearman; 0: length plays no part"))
    if len(runs) > 1 and same_pool(*runs[:2]):
        rho, both, chance = agreement(*runs[:2])
        rows.append(Headline("Overlap with A", 100 * both, "%", null=f"chance {percent(chance)}", better="high"))
    else:
        low, high = r.covered_random[:, 2].min(), r.covered_random[:, 2].max()
        rows.append(Headline("Features touched", int(r.covered[0, 2]), "", null=f"random {low} to {high}", note=f"at 5 % of the pool, of {r.alive:,}"))
    return tuple(rows)
