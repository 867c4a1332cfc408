"""The answer on top, the headline numbers, and texts of tokens."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.feature_survival.measure import FATES
from analysis.plots import interval, number
from metrics.feature_contexts import BEFORE

KEPT, DISTORTED, DEAD, BORN = range(4)


def counts(r, pair: int = 0) -> np.ndarray:
    """Features of each fate."""
    return np.bincount(r.fate[pair][r.fate[pair] >= 0], minlength=len(FATES))


def active(r) -> int:
    return int(counts(r)[[KEPT, DISTORTED, DEAD]].sum())


def has_control(r) -> bool:
    return len(r.fired) > 2


def unchanged(r) -> bool:
    return bool(np.array_equal(r.fired[0], r.fired[1]) and np.nanmin(np.where(r.fate[0] >= 0, r.correlation[1], np.nan), initial=1.0) >= 1 - 1e-9)


def answer(runs) -> str:
    r, p = runs[0].result, runs[0].params
    if active(r) == 0:
        return f"No feature of {r.sae} fires on A at {r.least} tokens or more of these {r.n_tokens:,}: nothing can be followed. Take more text, or an SAE trained for A."
    if unchanged(r):
        return (f"**Nothing is lost**: all {active(r):,} active features of {r.sae} at {r.site} fire on B exactly where they fire on A (correlation 1 over {r.n_tokens:,} tokens).")
    _, distorted, dead, born = counts(r)
    share = r.damaged[0]
    text = [f"Of {active(r):,} features active on A, **{dead:,} are dead on B and {distorted:,} distorted** (r below {number(p.below)}): {percent(share[0])}{_ends(100 * share)}; {born:,} are born."]
    if has_control(r):
        text.append(f"The control ({r.control}) damages {percent(r.damaged[1][0])}{_ends(100 * r.damaged[1])}.")
    change = r.loss[1, 0] - r.loss[0, 0]
    text.append(f"Next-token loss goes from {number(r.loss[0, 0])} to {number(r.loss[1, 0])} nats ({signed(change)}); the same SAE explains {percent(r.explained[0, 0])} of A’s variance at {r.site} and {percent(r.explained[1, 0])} of B’s.")
    return " ".join(text)


def signed(x: float) -> str:
    return ("+" if x > 0 else "") + number(x)


def percent(x: float) -> str:
    return f"{number(100 * x)} %" if np.isfinite(x) else "–"


def _ends(three) -> str:
    return f" (95 % interval {interval(three[1], three[2])} %)" if np.isfinite(three[1:]).all() else ""


def headlines(runs) -> tuple[Headline, ...]:
    r = runs[0].result
    null = lambda values, scale=1.0, unit="": f"{number(scale * values)}{unit} (control)" if has_control(r) else ""
    _, distorted, dead, born = counts(r)
    ends = lambda three, scale=1.0: tuple(float(scale * x) for x in three[1:]) if np.isfinite(three[1:]).all() else (None, None)
    middle = [float(np.nanmedian(c[r.fate[0] >= 0])) if (r.fate[0] >= 0).any() and np.isfinite(c[r.fate[0] >= 0]).any() else float("nan") for c in r.correlation[1:]]
    return (
        Headline("Damaged features", float(100 * r.damaged[0, 0]), "%", *ends(r.damaged[0], 100), null(r.damaged[-1, 0], 100, " %"), "low", f"{dead} dead, {distorted} distorted of {active(r)}; {born} born"),
        Headline("Median correlation", middle[0], "", null=null(middle[-1]), better="high", note="of active features, A against B"),
        Headline("Explained variance on B", float(100 * r.explained[1, 0]), "%", *ends(r.explained[1], 100), null(r.explained[-1, 0], 100, " %"), "high", f"A {percent(r.explained[0, 0])}"),
        Headline("Cross-entropy recovered on B", float(100 * r.recovered[1, 0]), "%", *ends(r.recovered[1], 100), null(r.recovered[-1, 0], 100, " %"), "high", f"A {percent(r.recovered[0, 0])}"),
    )


def text_of(r) -> dict[int, str]:
    return {int(i): shown(str(t)) for i, t in zip(r.ids, r.texts)}


def shown(text: str) -> str:
    """Text of a token as a label: never markup, never empty."""
    clean = text.replace("\n", "⏎").strip() or "␣"
    return clean.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def context(r, i: int, side: int, example: int, mark: bool = True) -> str:
    """The window around one place where feature worst[i] fires, its token in guillemets."""
    text, at = text_of(r), r.window[i, side, example]
    middle = at[BEFORE]
    return " ".join(f"«{text[int(r.token[k])]}»" if mark and k == middle else text[int(r.token[k])] for k in at if k >= 0)


def label(r, i: int) -> str:
    """#feature and its first promoted token, or what it fires at most."""
    text = text_of(r)
    word = text[int(r.up[i, 0])] if r.up.shape[1] else ""
    return f"#{int(r.worst[i])} → {word[:12]}" if word else f"#{int(r.worst[i])}"



