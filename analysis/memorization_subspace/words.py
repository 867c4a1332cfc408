"""The answer on top, the headline numbers and the verdicts, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.plots import number

BASES = {"natural": "natural text", "format": "same-format strings never trained on", "empty": "the empty prompt"}
LOCATORS = {
    "weights": "Wanda contrast, weights", "neurons": "contrast", "contrast": "contrast", "size": "no contrast", "activation": "activation", "zero_out": "zero-out",
    "gradients": "integrated gradients", "slimming": "slimming", "hard_concrete": "hard concrete", "random": "random neurons",
}
PAPER = (0.01, 0.02)  # of every output row: the paper's code, and twice that
FORGOTTEN = 0.15  # share of passages left, up to which a cut made the model forget
CLEAN = 0.1  # share of never-trained strings given back, up to which a soft prompt says something


def located(r) -> bool:
    return len(r.blocks) > 0


def base_name(params) -> str:
    """What the located parts stand out against, named; scores by neuron have no base."""
    return f"against {BASES[params.base]}" if params.locator in ("weights", "neurons") else f"by {LOCATORS[params.locator]}"


def at_share(run) -> int:
    """Index in the sweep of the share shown in detail."""
    return int(np.abs(run.result.shares - run.params.share).argmin())


def at_paper(run) -> str:
    """What the shares of the paper's setting (its code takes 1 %) leave of this model's passages, on the page because most text quotes
    only that they suffice."""
    r = run.result
    at = [int(np.abs(r.shares - share).argmin()) for share in PAPER]
    left = [r.extracted[:, 0, j].mean(0) for j in at]
    enough = [half.max() <= FORGOTTEN for half in left]
    told = ", ".join(f"at {100 * share:g} % ({100 * r.density[0, j]:.1f} % density) the model keeps {percent(half[0])} of the located and {percent(half[1])} of the held-out half" for share, j, half in zip(PAPER, at, left))
    return f"The share of 1 % that the paper's code cuts is {'enough' if enough[0] else 'not enough, 2 % is' if enough[1] else 'not enough, nor is 2 %'}: {told}."


def percent(x: float) -> str:
    return f"{100 * x:.0f} %" if np.isfinite(x) else "–"


def mean_range(values: np.ndarray, written=percent) -> str:
    """Mean over splits and, where they differ, the smallest and largest."""
    low, high = written(values.min()), written(values.max())
    return written(values.mean()) + (f" ({low.removesuffix(' %')}–{high})" if low != high else "")


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, p = 1.96, hits / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def read_at(steps: np.ndarray, control: np.ndarray) -> int | None:
    """Index of the last step at which the never-trained control is clean; None where it never is."""
    clean = np.flatnonzero(control <= CLEAN)
    return int(clean[-1]) if len(clean) else None


def verdict(r) -> tuple[str, str]:
    """(one word, the sentence): by the recovery test, read at the last step at which the control is clean."""
    if not len(r.steps):
        return "untested", "Whether it is suppressed or deleted was not tested: choose recovery steps."
    t = read_at(r.steps, r.recovered[2])
    if t is None:
        return "untested", "The soft prompt gives back never-trained strings too, so it says nothing here."
    back, start, whole, control = r.recovered[1, t], r.recovered[1, 0], r.recovered[0, t], r.recovered[2, t]
    said = f"after {r.steps[t]} steps of a soft prompt **{percent(back)}** come back (never-trained strings {percent(control)}, n = {r.n_recovered} each)"
    if back >= 0.5 * whole and back > start:
        return "suppressed", f"Suppressed, not deleted: {said}."
    if back <= CLEAN:
        return "not recovered", f"Not recovered by this test: {said}; a stronger one may still find it."
    return "partly", f"Partly suppressed: {said}."


def n_lost(r) -> int:
    """Passages that the uncompressed model gives back and this one does not."""
    return int((r.original_exact & ~r.exact).sum())


def forgetting(r) -> str:
    """What compression lost, and whether it was deleted; "" where the subject is no compressed model."""
    if not r.original:
        return ""
    known, gone = int(r.original_exact.sum()), n_lost(r)
    said = f"Compression lost **{gone}** of the {known} passages that {r.original} gives back"
    if not gone:
        return f"{said}: it forgot nothing here."
    if not len(r.lost_steps):
        return f"{said}; whether they are gone was not tested: choose recovery steps."
    t = read_at(r.lost_steps, r.lost_recovered[1])
    if t is None:
        return f"{said}; the soft prompt gives back never-trained strings too, so it says nothing about them."
    back, control = r.lost_recovered[:, t]
    word = "mostly suppressed, not deleted" if back >= 0.5 else "partly suppressed" if back > CLEAN else "not recovered by this test"
    return f"{said}, {word}: after {r.lost_steps[t]} steps of a soft prompt **{percent(back)}** of {r.n_lost_tested} come back (never-trained strings {percent(control)})."


def answer(runs) -> str:
    return "  \n".join((f"**{run.label}**: " if len(runs) > 1 else "") + _one(run) for run in runs)


def _one(run) -> str:
    r = run.result
    known = f"{r.n_memorized} of {len(r.exact)} passages are given back word for word ({int(r.control_exact.sum())} of {len(r.control_exact)} {r.control_name})"
    lost = f" {forgetting(r)}" if r.original else ""
    if not located(r):
        return f"{known}; too few to locate where they are kept.{lost}"
    j = at_share(run)
    gone, held, ratio = r.extracted[:, 0, j, 0], r.extracted[:, 0, j, 1], r.ratio[:, 0, j]
    control = r.extracted[:, 2, j].mean(0)
    return (f"{known}. Zeroing {100 * r.density[0, j]:.1f} % of the feed-forward output weights, located on one half of them {base_name(run.params)}, leaves **{mean_range(gone)}** of that half and "
            f"**{mean_range(held)}** of the held-out half, at perplexity × {mean_range(ratio, number)} (random weights of the same number: {percent(control[0])}, {percent(control[1])}, "
            f"× {number(r.ratio[:, 2, j].mean())}; {len(r.half)} random splits, range in brackets). {verdict(r)[1]}{lost}")


def headlines(runs) -> tuple[Headline, ...]:
    run = runs[-1]
    r = run.result
    low, high = wilson(r.n_memorized, len(r.exact))
    first = Headline("Passages extracted", 100 * r.n_memorized / len(r.exact), "%", 100 * low, 100 * high, f"{percent(r.control_exact.mean())} fresh", note=f"{r.n_memorized} of {len(r.exact)}")
    if not located(r):
        return (first,)
    j = at_share(run)
    held, ratio = r.extracted[:, 0, j, 1], r.ratio[:, 0, j]
    return (
        first,
        Headline("Held-out half after the cut", 100 * held.mean(), "%", 100 * held.min(), 100 * held.max(), f"{percent(r.extracted[:, 2, j, 1].mean())} random",
                 note=f"located on the other half, {100 * r.density[0, j]:.1f} % of weights; range of {len(held)} splits"),
        Headline("Perplexity after the cut", ratio.mean(), "×", ratio.min(), ratio.max(), f"{number(r.ratio[:, 2, j].mean())} random", better="low", note="natural text"),
        Headline("Suppressed or deleted", verdict(r)[0], note=verdict(r)[1].replace("**", "")),
    )
