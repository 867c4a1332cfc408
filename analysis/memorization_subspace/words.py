"""The answer on top, the headline numbers and the verdict, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.plots import number

BASES = {"natural": "natural text", "format": "same-format strings never trained on", "empty": "the empty prompt"}
CLEAN = 0.1  # share of never-trained strings given back, up to which a soft prompt says something


def located(r) -> bool:
    return len(r.blocks) > 0


def at_share(run) -> int:
    """Index in the sweep of the share nearest to the one shown in detail."""
    return int(np.abs(np.log(run.result.shares) - np.log(run.params.share)).argmin())


def percent(x: float) -> str:
    return f"{100 * x:.0f} %"


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, p = 1.96, hits / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def verdict(r) -> tuple[str, str]:
    """(one word, the sentence): by the recovery test, read at the last step at which the control is clean."""
    if not len(r.steps):
        return "untested", "Whether it is suppressed or deleted was not tested: choose recovery steps."
    clean = np.flatnonzero(r.recovered[2] <= CLEAN)
    if not len(clean):
        return "untested", "The soft prompt gives back never-trained strings too, so it says nothing here."
    t = int(clean[-1])
    back, start, whole, control = r.recovered[1, t], r.recovered[1, 0], r.recovered[0, t], r.recovered[2, t]
    said = f"after {r.steps[t]} steps of a soft prompt **{percent(back)}** come back (never-trained strings {percent(control)}, n = {r.n_recovered} each)"
    if back >= 0.5 * whole and back > start:
        return "suppressed", f"Suppressed, not deleted: {said}."
    if back <= CLEAN:
        return "not recovered", f"Not recovered by this test: {said}; a stronger one may still find it."
    return "partly", f"Partly suppressed: {said}."


def answer(runs) -> str:
    return "  \n".join((f"**{run.label}**: " if len(runs) > 1 else "") + _one(run) for run in runs)


def _one(run) -> str:
    r = run.result
    known = f"{r.n_memorized} of {len(r.exact)} passages are given back word for word ({int(r.control_exact.sum())} of {len(r.control_exact)} {r.control_name})"
    if not located(r):
        return f"{known}; too few to locate where they are kept."
    j = at_share(run)
    gone, held, ratio = r.extracted[0, j, 0], r.extracted[0, j, 1], r.ratio[0, j]
    control = r.extracted[2, j]
    return (f"{known}. Zeroing {100 * r.density[0, j]:.1f} % of the feed-forward output weights, located on one half of them, leaves **{percent(gone)}** of that half and "
            f"**{percent(held)}** of the held-out half, at perplexity × {number(ratio)} (random weights of the same number: {percent(control[0])}, {percent(control[1])}, "
            f"× {number(r.ratio[2, j])}). {verdict(r)[1]}")


def headlines(runs) -> tuple[Headline, ...]:
    run = runs[-1]
    r = run.result
    low, high = wilson(r.n_memorized, len(r.exact))
    first = Headline("Passages extracted", 100 * r.n_memorized / len(r.exact), "%", 100 * low, 100 * high, f"{percent(r.control_exact.mean())} fresh", note=f"{r.n_memorized} of {len(r.exact)}")
    if not located(r):
        return (first,)
    j = at_share(run)
    return (
        first,
        Headline("Held-out half after the cut", 100 * r.extracted[0, j, 1], "%", null=f"{percent(r.extracted[2, j, 1])} random", note=f"located on the other half, {100 * r.density[0, j]:.1f} % of weights"),
        Headline("Perplexity after the cut", r.ratio[0, j], "×", null=f"{number(r.ratio[2, j])} random", better="low", note="natural text"),
        Headline("Suppressed or deleted", verdict(r)[0], note=verdict(r)[1].replace("**", "")),
    )
