"""The answer on top and the headline numbers, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.compression_skills.speed import ratio
from analysis.contract import Headline
from analysis.plots import interval, number

CLOSED, OPEN, WRONG = range(3)
BOOK = ("closed book", "open book", "wrong book")


def percent(x: float) -> str:
    return f"{number(100 * x, 3)} %" if np.isfinite(x) else "–"


def asked(r, s: int) -> int:
    return int((r.skill == s).sum())


def pooled(r, book: int) -> tuple[float, float]:
    """Share right of all questions whose answer a model could have learnt: not of passages it never saw, closed book."""
    own = np.isin(r.skill, [s for s, name in enumerate(r.skills) if book != CLOSED or name != "passages never seen"])
    return float(r.right_a[book, own].mean()), float(r.right_b[book, own].mean())


def hardest(r) -> tuple[int, int] | None:
    """(skill, book) with the largest loss that McNemar's test does not call chance; None where there is none."""
    found = [(r.change[s, k, 0], s, k) for s in range(len(r.skills)) for k in (CLOSED, OPEN) if asked(r, s) and r.p[s, k] < 0.05 and r.change[s, k, 0] < 0]
    return min(found)[1:] if found else None


def answer(runs) -> str:
    r = runs[0].result
    at = hardest(r)
    if at is None:
        text = [f"On {r.n_inputs:,} questions **no skill falls by more than chance** (McNemar p ≥ 0.05 in each)."]
    else:
        s, k = at
        text = [f"**{r.skills[s].capitalize()}**, {BOOK[k]}, falls from {percent(r.accuracy_a[s, k, 0])} to **{percent(r.accuracy_b[s, k, 0])}** of {asked(r, s)} questions "
                f"(B − A {number(100 * r.change[s, k, 0])} points, 95 % interval {number(100 * r.change[s, k, 1])} to {number(100 * r.change[s, k, 2])}; McNemar p = {number(r.p[s, k], 2)})."]
    wrong = [f"{percent(r.accuracy_b[s, WRONG, 0])} in {name}" for s, name in enumerate(r.skills) if asked(r, s)]
    text.append(f"With a wrong book B answers {', '.join(wrong)}.")
    return " ".join([*text, speed(r)])


def speed(r) -> str:
    operations = f"Operations per token: {number(100 * r.flops_b / r.flops_a)} % of A’s."
    if not r.faster:
        return f"{operations} Not faster here: {r.how}."
    if not len(r.seconds_a):
        return f"{operations} Nothing was timed."
    middle, low, high = ratio(r.seconds_a, r.seconds_b)
    return f"{operations} Measured time {number(middle)} of A’s (95 % interval {interval(low, high)}, {len(r.seconds_a)} passes of {r.length} tokens)."


def headlines(runs) -> tuple[Headline, ...]:
    r = runs[0].result
    out = []
    for s, book, label in ((0, CLOSED, "Arithmetic, B"), (1, CLOSED, "Extraction, B"), (3, OPEN, "Open book, stories, B")):
        if asked(r, s):
            value, low, high = 100 * r.accuracy_b[s, book]
            null = 100 * r.accuracy_b[s, WRONG, 0] if book == OPEN else 100 * r.accuracy_b[2, CLOSED, 0] if s == 1 and asked(r, 2) else None
            out.append(Headline(label, value, "%", low, high, "" if null is None else f"{number(null)} %", "high", f"A {percent(r.accuracy_a[s, book, 0])}, n = {asked(r, s)}"))
    if len(r.seconds_a):
        out.append(Headline("Time of a pass", *_of(ratio(r.seconds_a, r.seconds_b)), better="low", note="of A’s, measured"))
    else:
        out.append(Headline("Operations per token", 100 * r.flops_b / r.flops_a, "%", better="low", note="not faster here" if not r.faster else "of A’s"))
    return tuple(out)


def _of(three) -> tuple:
    return three[0], "×", three[1], three[2]
