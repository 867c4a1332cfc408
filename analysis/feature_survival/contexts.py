"""The card of contexts: one damaged feature at a time, where it fires most on A and on B, with its activation on both at the same tokens."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.feature_survival import tables, words
from analysis.theme import Theme, figure

SHOWN = 6  # features to choose from
ROW = 24  # px


def contexts_card(r) -> Figure:
    names = {f"#{int(r.worst[i])}": i for i in range(min(SHOWN, len(r.worst)))}
    return Figure(
        "contexts", "Where a damaged feature fires",
        f"Its largest places on A, then on B; of each pair of rows the upper is the activation on A, the lower on B, at the same tokens. {'; '.join(words.label(r, i) for i in names.values())}.",
        {name: partial(contexts, r, i) for name, i in names.items()}, tables.contexts(r),
        f"Windows of text around the {r.window.shape[2]} tokens at which the feature is largest on A, then on B; the colour is its activation on A (upper row) and on B (lower row).",
        f"Pairs of heat strips of text for {next(iter(names))}.", height=72 + ROW * _rows(r.window.shape[2]), wide=True,
    )


def _rows(n: int) -> int:
    """Two for each place, and an empty one between the places of A and those of B."""
    return 4 * n + 1


def contexts(r, i: int, theme: Theme) -> go.Figure:
    n, width = r.window.shape[2], r.window.shape[3]
    rows = _rows(n)
    fig = figure(theme, margin=dict(l=30, r=76, t=26, b=8), height=72 + ROW * rows)
    text = words.text_of(r)
    top = max(float(r.seen[:2, i].max()), 1e-6)
    z, custom, said, labels = np.full((rows, width), np.nan), np.full((rows, width), "", object), np.full((rows, width), "", object), [""] * rows
    for side in range(2):
        for e in range(n):
            at = r.window[i, side, e]
            for model in range(2):
                row = side * (2 * n + 1) + 2 * e + model
                labels[row] = "AB"[model]
                z[row] = np.where(at >= 0, r.seen[model, i, side, e], np.nan)
                custom[row] = [text[int(r.token[k])] if k >= 0 else "" for k in at]
                said[row] = "AB"[model]
    plots.heat(fig, theme, z, low=0.0, high=top, custom=np.stack([custom, said], -1), hover="“%{customdata[0]}”<br>activation on %{customdata[1]} %{z:.3g}", gap=2,
               bar=dict(title=dict(text="activation", side="right"), nticks=5))
    fig.update_layout(xaxis=dict(visible=False, range=[-0.5, width - 0.5]), yaxis=dict(range=[rows - 0.5, -0.5], tickvals=list(range(rows)), ticktext=labels))
    notes = [plots.text_at(theme, "largest on A", 0.0, 1.0, ref=("paper", "paper"), color=theme.run("A"), xanchor="left", yanchor="bottom", yshift=4),
             plots.text_at(theme, "largest on B", -0.5, 2 * n, ref=("x", "y"), color=theme.run("B"), xanchor="left", yanchor="middle")]
    notes += [plots.text_at(theme, custom[row, k][:7], k, row, ref=("x", "y"), font=dict(size=11, color=plots.ink(z[row, k], 0.0, top)))
              for row in range(rows) if labels[row] == "A" for k in range(width) if np.isfinite(z[row, k])]
    plots.add(fig, notes)
    return fig
