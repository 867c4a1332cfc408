"""The answer on top, the headline numbers, texts of tokens and names of features."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.plots import number
from metrics.feature_contexts import BEFORE


def answer(runs) -> str:
    return " ".join((f"{run.label}: " if len(runs) > 1 else "") + _one(run) for run in runs)


def _one(run) -> str:
    r, p = run.result, run.params
    fires = int(r.fired[r.feature])
    if not fires:
        return f"**Feature {r.feature}** of {r.sae} never fires on these {r.n_tokens:,} tokens; choose another, or more text."
    text, top = text_of(r), np.flatnonzero(r.band == 0)
    words = list(dict.fromkeys(text[int(r.token[r.window[i, BEFORE]])] for i in top))[:4]
    out = [f"**Feature {r.feature}** of {r.sae} fires at {density(r)} of tokens, strongest on {', '.join(f'“{w}”' for w in words)}"
           + (f", and promotes {', '.join(f'“{text[int(t)]}”' for t in r.up[:3])}." if len(r.up) else ".")]
    if p.strength:
        out.append(f"Adding {number(p.strength)} × its largest activation moves the next token by KL {number(r.kl[1])} nats; a random direction of the same length by {number(r.kl[2])}.")
    return " ".join(out)


def density(r) -> str:
    share = r.fired[r.feature] / max(r.n_tokens, 1)
    return f"{number(100 * share)} %"


def headlines(runs) -> tuple[Headline, ...]:
    r = runs[0].result
    active = r.prompt_active[1:]
    return (
        Headline("Density of the feature", float(100 * r.fired[r.feature] / max(r.n_tokens, 1)), "%", note=f"{int(r.fired[r.feature]):,} of {r.n_tokens:,} tokens"),
        Headline("Features that never fire here", float(100 * (r.fired == 0).mean()), "%", note=f"of {r.d_sae:,}; on this corpus"),
        Headline("Active features per token of the text", float(active.mean()) if len(active) else 0.0),
        Headline("KL of the next token when steered", float(r.kl[1]), "nats", null=f"{number(r.kl[2])} (random direction)"),
    )


def text_of(r) -> dict[int, str]:
    return {int(i): shown(str(t)) for i, t in zip(r.ids, r.texts)} | {-1: ""}


def shown(text: str) -> str:
    """Text as a label: never markup, never empty."""
    return plain(text.replace("\n", "⏎").strip() or "␣")


def plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def label(r, feature: int, most: int = 10) -> str:
    """#feature → the token it promotes most."""
    at = np.searchsorted(r.named, feature)
    word = text_of(r)[int(r.named_token[at])] if at < len(r.named) and r.named[at] == feature else ""
    return f"#{feature} → {word[:most]}" if word else f"#{feature}"


def context(r, i: int) -> str:
    text = text_of(r)
    return " ".join(f"«{text[int(r.token[k])]}»" if j == BEFORE else text[int(r.token[k])] for j, k in enumerate(r.window[i]) if k >= 0)
