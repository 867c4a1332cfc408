"""The cards that show text: the tokens that lost most, in context, and one passage token by token."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.compression_cost import tables, words
from analysis.contract import Figure
from analysis.plots import number
from analysis.theme import Theme, figure

SHOWN = 12
ACROSS = 16  # tokens in a row of the strip
ROWS = 16


def worst_card(r) -> Figure:
    i = words.worst(r, 1)[0]
    return Figure(
        "worst_tokens", "Tokens that lost most", "Text up to the token, then → what really comes next. Hover for what A and B expected there.",
        {"": partial(worst, r)}, tables.worst(r),
        f"The {SHOWN} tokens with the largest KL(A ‖ B), equal texts once; the data holds the first 200.",
        f"The worst token comes after “{tables.context(r, i, 40).strip()}”: {number(r.kl[i])} nats.", height=356,
    )


def worst(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=232, r=14, t=8, b=42), height=356)
    top, text = words.worst_apart(r, SHOWN), words.text_of(r)
    names = [f"…{words.shown(tables.context(r, i, 20))} → {text[int(r.target[i])][:10]}" for i in top]
    fig.update_layout(xaxis=dict(title="KL, nats", rangemode="tozero", showgrid=True),
                      yaxis=dict(tickvals=list(range(len(top))), ticktext=names, range=[len(top) - 0.5, -0.5]))
    plots.dots(fig, theme, "B", r.kl[top], np.arange(len(top)), custom=_custom(r, top), hover=_HOVER)
    return fig


_HOVER = ("“%{customdata[0]}” → %{customdata[1]}<br>KL %{customdata[2]:.4g} nats<br>p of it: A %{customdata[3]:.1%}, B %{customdata[4]:.1%}"
          "<br>likeliest: A %{customdata[5]}, B %{customdata[6]}")


def _custom(r, at: np.ndarray) -> list[list]:
    text = words.text_of(r)
    look = lambda ids: [text[int(i)] for i in ids]
    probability = lambda log: [float(np.exp(x)) if np.isfinite(x) else None for x in log]
    columns = (look(r.token[at]), look(r.target[at]), r.kl[at].tolist(), probability(r.log_a[at]), probability(r.log_b[at]), look(r.top_a[at]), look(r.top_b[at]))
    return [list(row) for row in zip(*columns)]


def strip_card(r) -> Figure:
    chosen = words.passages(r)
    first = chosen["worst"]
    rows = min(ROWS, -(-max(int((r.sequence == s).sum()) for s in chosen.values()) // ACROSS))
    shown = r.kl[np.isin(r.sequence, list(chosen.values()))]
    top = max(float(np.quantile(shown, 0.99)), 1e-6)
    return Figure(
        "passage", "One passage, token by token", "Light cells are where B’s guess at the next token is far from A’s. The colour belongs to the token it follows.",
        {name: partial(strip, r, s, rows, top) for name, s in chosen.items()}, tables.tokens(r),
        f"KL(A ‖ B) in nats at each token of a sequence, read row by row. Among the longest quarter of the sequences: worst, the one "
        f"with the largest mean (number {first}), and typical, the one in the middle. One colour scale for both, up to the 99 % quantile of their tokens.",
        f"Heat strip of KL over the tokens of sequence {first}; its mean is {number(r.kl[r.sequence == first].mean())} nats.", height=90 + 26 * rows, wide=True,
    )


def strip(r, sequence: int, rows: int, top: float, theme: Theme) -> go.Figure:
    at = np.flatnonzero(r.sequence == sequence)[: ROWS * ACROSS]
    text = words.text_of(r)
    fig = figure(theme, margin=dict(l=14, r=76, t=8, b=8), height=90 + 26 * rows)
    n = -(-len(at) // ACROSS)
    z, custom = np.full(n * ACROSS, np.nan), [[""] * 2 + [None] * 3 + [""] * 2 for _ in range(n * ACROSS)]
    z[: len(at)], custom[: len(at)] = r.kl[at], _custom(r, at)
    fig.update_layout(xaxis=dict(visible=False, range=[-0.5, ACROSS - 0.5]), yaxis=dict(visible=False, range=[rows - 0.5, -0.5]))
    plots.heat(fig, theme, z.reshape(n, ACROSS), low=0.0, high=top, custom=[custom[i : i + ACROSS] for i in range(0, n * ACROSS, ACROSS)], hover=_HOVER, gap=2,
               bar=dict(title=dict(text="KL, nats", side="right"), nticks=5))
    plots.add(fig, [plots.text_at(theme, text[int(r.token[i])][:11], k % ACROSS, k // ACROSS, ref=("x", "y"), color=plots.ink(float(r.kl[i]), 0.0, top))
                    for k, i in enumerate(at)])
    return fig
