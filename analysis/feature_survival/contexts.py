"""The card of contexts: one damaged feature at a time, where it fires most on A and on B, with its activation on both side by side."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.feature_survival import tables, words
from analysis.theme import Theme, figure

SHOWN = 8  # features to choose from
ROW = 30  # px


def contexts_card(r) -> Figure:
    names = {words.label(r, i): i for i in range(min(SHOWN, len(r.worst)))}
    rows = 2 * r.window.shape[2] + 1
    return Figure(
        "contexts", "Where a damaged feature fires", "Upper rows: its largest places on A; lower rows: on B. Left the activation on A, right on B, at the same tokens, one scale.",
        {name: partial(contexts, r, i) for name, i in names.items()}, tables.contexts(r),
        f"Windows of text around the {r.window.shape[2]} tokens at which the feature is largest on A, then on B; the colour is its activation on A (left) and on B (right).",
        f"Two heat strips of text for {next(iter(names))}.", height=64 + ROW * rows, wide=True,
    )


def contexts(r, i: int, theme: Theme) -> go.Figure:
    n, width = r.window.shape[2], r.window.shape[3]
    rows = 2 * n + 1  # an empty row between the sides
    fig = figure(theme, margin=dict(l=44, r=76, t=26, b=8), height=64 + ROW * rows)
    fig.update_layout(
        xaxis=dict(domain=[0, 0.495], visible=False, range=[-0.5, width - 0.5]), xaxis2=dict(domain=[0.505, 1], visible=False, range=[-0.5, width - 0.5], anchor="y"),
        yaxis=dict(range=[rows - 0.5, -0.5], tickvals=[(n - 1) / 2, n + 1 + (n - 1) / 2], ticktext=["on A", "on B"]))
    text = words.text_of(r)
    top = max(float(r.seen[:2, i].max()), 1e-6)
    notes = [plots.text_at(theme, f"activation on {m}", x, 1.0, ref=("paper", "paper"), color=theme.run(m), xanchor="left", yanchor="bottom", yshift=4) for m, x in (("A", 0.0), ("B", 0.505))]
    for model, axis in ((0, "x"), (1, "x2")):
        z = np.full((rows, width), np.nan)
        custom = np.full((rows, width), "", object)
        for side in range(2):
            for e in range(n):
                at, row = r.window[i, side, e], side * (n + 1) + e
                z[row] = np.where(at >= 0, r.seen[model, i, side, e], np.nan)
                custom[row] = [text[int(r.token[k])] if k >= 0 else "" for k in at]
        plots.heat(fig, theme, z, axes=(axis, "y"), low=0.0, high=top, custom=custom, hover="“%{customdata}”<br>activation on " + "AB"[model] + " %{z:.3g}", gap=2,
                   bar=dict(title=dict(text="activation", side="right"), nticks=5) if model else None)
        notes += [plots.text_at(theme, custom[row, k][:8], k, row, ref=(axis, "y"), color=plots.ink(z[row, k], 0.0, top), font=dict(size=11, color=plots.ink(z[row, k], 0.0, top)))
                  for row in range(rows) for k in range(width) if np.isfinite(z[row, k])]
    plots.add(fig, notes)
    return fig
