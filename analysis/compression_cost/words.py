"""The answer on top and the headline numbers, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.plots import interval, number

MEAN, MEDIAN, P95, P99 = range(4)


def answer(runs) -> str:
    r = runs[0].result
    if float(np.max(r.kl)) == 0.0:
        return f"B predicts **exactly what A does** on these {r.n_tokens:,} tokens: KL 0 nats at every one, no flips. {_size(r)}"
    mean, low, high = r.kl_summary[MEAN]
    text = [f"B costs **{nats(mean)} nats per token** of KL to A{_interval(low, high)}; one token in a hundred loses at least {nats(r.kl_summary[P99, 0])}."]
    if healed(r):
        text.append(f"Before its healing it cost {nats(r.before_summary[MEAN, 0])}{_interval(*r.before_summary[MEAN, 1:])}.")
    text.append(_control(r))
    ratio = np.exp(r.nll_change[0])
    text.append(f"Perplexity {number(np.exp(r.nll_a[0, 0]))} becomes {number(np.exp(r.nll_b[0, 0]))} (× {_times(ratio[0])}{_span(ratio[1:], _times)}).")
    text.append(_flips(r))
    return " ".join(filter(None, [*text, _size(r)]))


def nats(x: float) -> str:
    """A KL; what float32 logits cannot tell from zero is said so."""
    return number(x) if x >= 1e-6 else "less than 0.000001"


def _times(x: float) -> str:
    return number(x, 4 if abs(x - 1) < 0.1 else 3)


def _span(ends, form) -> str:
    return f", 95 % interval {form(ends[0])}\u2060–\u2060{form(ends[1])}" if np.isfinite(ends).all() else ""


def _interval(low: float, high: float) -> str:
    return f" (95 % interval {interval(low, high)})" if np.isfinite([low, high]).all() and high >= 1e-6 else ""


def has_control(r) -> bool:
    return bool(np.isfinite(r.noise_summary[MEAN, 0]) and np.nanmax(r.noise) > 0)


def healed(r) -> bool:
    """Whether B before a healing step was measured beside."""
    return bool(np.isfinite(r.before_summary[MEAN, 0]))


def _control(r) -> str:
    if not has_control(r):
        return ""
    mean, low, high = r.noise_summary[MEAN]
    return f"Random noise of the same size costs {nats(mean)}{_interval(low, high)}."


def _flips(r) -> str:
    both, only_a, only_b, neither = (int(x) for x in r.flips[0])
    share, p = r.agreement[0, 0], r.mcnemar[0, 3]
    moves = f"{only_a:,} tokens go from right to wrong and {only_b:,} from wrong to right"
    verdict = "" if only_a + only_b == 0 else f" (McNemar p = {number(p, 2)}{'' if p < 0.05 else ', no more than chance'})"
    return f"The likeliest next token stays the same at {percent(share)} of tokens; {moves}{verdict}."


def percent(x: float) -> str:
    if not np.isfinite(x):
        return "–"
    return "100 %" if x == 1 else f"{min(100 * x, 99.99):.{2 if x > 0.99 else 1}f} %"


def bits_per_weight(r) -> tuple[float, float]:
    return r.bits_a / r.n_weights, r.bits_b / r.n_weights


def _size(r) -> str:
    a, b = bits_per_weight(r)
    return f"It stores in {number(r.bits_b / 8e6)} MB, {number(b)} bits per weight; A takes {number(r.bits_a / 8e6)} MB at {number(a)}."


def headlines(runs) -> tuple[Headline, ...]:
    r = runs[0].result
    change, (bits_a, bits_b) = 100 * np.expm1(r.nll_change[0]), bits_per_weight(r)
    control = f"{number(r.noise_summary[MEAN, 0], 2)} (noise)" if has_control(r) else ""
    share, low, high = 100 * r.agreement[0]
    return (
        Headline("Mean KL to A", *_value(r.kl_summary[MEAN], "nats/token"), control, "low", f"p99 {nats(r.kl_summary[P99, 0])}; " + (f"before healing {nats(r.before_summary[MEAN, 0])}; " if healed(r) else "") + "null: noise as large as the change"),
        Headline("Change of perplexity", *_value(change, "%"), better="low", note=f"{number(np.exp(r.nll_a[0, 0]))} to {number(np.exp(r.nll_b[0, 0]))}"),
        Headline("Same likeliest token", *_value((share, low, high), "%"), better="high",
                 note=f"{int(r.flips[0, 1]):,} flips to wrong, {int(r.flips[0, 2]):,} to right, McNemar p = {number(r.mcnemar[0, 3], 2)}"),
        Headline("Bits per weight", float(bits_b), "bits", better="low", note=f"A {number(bits_a)}; whole model"),
    )


def _value(three, unit: str) -> tuple:
    """(value, unit, low, high) of a Headline; no interval where there is none."""
    value, low, high = (float(x) for x in three)
    return (value, unit, low, high) if np.isfinite([low, high]).all() else (value, unit, None, None)


def text_of(r) -> dict[int, str]:
    """Token id to text; spaces trimmed, line ends shown."""
    return {int(i): shown(str(t)) for i, t in zip(r.ids, r.texts)} | {-1: "end"}


def shown(text: str) -> str:
    """Text of a token as a label: never markup, never empty."""
    clean = text.replace("\n", "⏎").strip() or "␣"
    return clean.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def worst(r, n: int) -> np.ndarray:
    """Indices of the n tokens with the largest KL."""
    return np.argsort(-r.kl, kind="stable")[:n]


def worst_apart(r, n: int) -> np.ndarray:
    """The same, each text only once: a document that comes twice would fill the list with itself."""
    seen, out = set(), []
    for i in worst(r, 20 * n):
        first = max(0, i - int(r.position[i]), i - 16)
        ending = (tuple(r.token[first : i + 1].tolist()), int(r.target[i]))
        if ending not in seen:
            seen.add(ending)
            out.append(int(i))
    return np.array(out[:n], np.int64)


def passages(r) -> dict[str, int]:
    """Sequences to look at, among the longest quarter: the one with the largest mean KL, and the one in the middle."""
    counts = np.bincount(r.sequence)
    mean = np.bincount(r.sequence, r.kl) / np.maximum(counts, 1)
    long = np.flatnonzero(counts >= np.quantile(counts, 0.75))
    ranked = long[np.argsort(mean[long], kind="stable")]
    return {"worst": int(ranked[-1]), "typical": int(ranked[len(ranked) // 2])}
