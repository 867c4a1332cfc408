"""The cards for three models and more: pair barriers, the triangle of mixtures, whether pairwise orders fit together."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.plots import number
from analysis.singular_alignment import tables
from analysis.singular_alignment.several import ORDERS, Several
from analysis.theme import Theme, figure

LETTERS = "ABCDEFGH"


def cards(r) -> list[Figure]:
    s = Several(**r.several)
    return [_pairs_card(s), _triangle_card(s), _cycles_card(s)]


def _pairs_card(s: Several) -> Figure:
    n = len(s.parents)
    others = [(i, j) for i in range(1, n) for j in range(i + 1, n)]
    mean = lambda o, pairs: number(float(np.mean([s.pair_barrier[o, i, j] for i, j in pairs])))
    first = [(0, j) for j in range(1, n)]
    return Figure(
        "pairs", "Barriers of all pairs",
        f"With all ordered to A, pairs with A have a barrier of {mean(1, first)} nats on average, pairs without A {mean(1, others)}; by MergeMany {mean(2, first)} and {mean(2, others)}.",
        {o: partial(pairs, s, k) for k, o in enumerate(ORDERS)}, tables.pairs(s),
        "Barrier at the midpoint of every pair, nats per token, one colour scale for all three orders. To the first: every model is matched to A. MergeMany: each is matched to the mean of the others until nothing moves.",
        f"Heat map of {n} × {n} barriers; largest {number(float(np.nanmax(s.pair_barrier)))} nats.",
    )


def pairs(s: Several, order: int, theme: Theme) -> go.Figure:
    n, z = len(s.parents), s.pair_barrier[order]
    low, high = min(0.0, float(np.nanmin(s.pair_barrier))), float(np.nanmax(s.pair_barrier))
    fig = figure(theme, margin=dict(l=52, r=86, t=26, b=42), height=344)
    names = list(LETTERS[:n])
    fig.update_layout(xaxis=dict(**plots.ticks(names)), yaxis=dict(tickvals=list(range(n)), ticktext=names, range=[n - 0.5, -0.5]))
    plots.heat(fig, theme, z, low=low, high=high, bar=dict(title=dict(text="midpoint barrier, nats", side="right"), nticks=5), hover="%{y} and %{x}<br>%{z:.4g} nats")
    plots.add(fig, [plots.text_at(theme, number(z[i, j]), j, i, ref=("x", "y"), color=plots.ink(z[i, j], low, high)) for i in range(n) for j in range(n) if i != j])
    return fig


def _triangle_card(s: Several) -> Figure:
    middle = [number(float(x)) for x in s.average_barrier]
    return Figure(
        "triangle", "Mixtures of three models",
        f"The mean of all {len(s.parents)} models loses {middle[0]} nats over its parents as they are, {middle[1]} ordered to A, {middle[2]} by MergeMany.",
        {o: partial(triangle, s, k) for k, o in enumerate(ORDERS)}, tables.triangle(s),
        "Loss of weighted means of A, B and C in nats per token; corners are the models themselves. One colour scale for all three orders.",
        f"Triangle of {len(s.corner_weights)} mixtures; loss from {number(float(s.corner_loss.min()))} to {number(float(s.corner_loss.max()))} nats.",
    )


def triangle(s: Several, order: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=14, r=86, t=26, b=26), height=344)
    w, loss = s.corner_weights, s.corner_loss[order]
    x, y = w[:, 1] + 0.5 * w[:, 2], w[:, 2] * 3**0.5 / 2
    fig.update_layout(xaxis=dict(visible=False, range=[-0.12, 1.12]), yaxis=dict(visible=False, range=[-0.12, 1.0], scaleanchor="x"))
    marks = dict(symbol="hexagon2", size=26, color=loss, colorscale=theme.sequential, cmin=float(s.corner_loss.min()), cmax=float(s.corner_loss.max()),
                 colorbar=dict(title=dict(text="loss, nats per token", side="right"), thickness=8, outlinewidth=0), showscale=True)
    fig.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=marks, customdata=np.column_stack([100 * w, loss]), cliponaxis=False,
                             hovertemplate="A %{customdata[0]:.0f} %, B %{customdata[1]:.0f} %, C %{customdata[2]:.0f} %<br>%{customdata[3]:.4g} nats<extra></extra>"))
    for letter, at in zip("ABC", ((-0.09, -0.05), (1.09, -0.05), (0.5, 0.96))):
        plots.note(fig, theme, f"<b>{letter}</b>", *at, ref=("x", "y"), color=theme.run(letter))
    return fig


def _cycles_card(s: Several) -> Figure:
    mean = {kind: number(100 * float(s.cycle[:, k].mean())) for k, kind in enumerate(s.kinds)}
    return Figure(
        "cycles", "Do pairwise orders fit together?",
        f"Sent from C to B to A, {', '.join(f'{v} % of {_word(kind)}' for kind, v in mean.items())} land elsewhere than sent from C to A at once. Do not read single matches as identities.",
        {"": partial(cycles, s)}, tables.cycles(s),
        "Share of units whose way round three models by pairwise weight matching ends at another unit; two random orders would give almost 100 %.",
        "Dots of cycle error by triple and kind of unit; means " + ", ".join(f"{_word(k)} {v} %" for k, v in mean.items()) + ".",
    )


def _word(kind: str) -> str:
    return {"resid": "stream channels", "mlp": "MLP units", "heads": "heads"}[kind]


def cycles(s: Several, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=120, r=24, t=26, b=42), height=344)
    n = len(s.kinds)
    fig.update_layout(xaxis=dict(title="units that go elsewhere, %", range=[-3, 103], showgrid=True), yaxis=dict(range=[n - 0.5, -0.5], tickvals=list(range(n)), ticktext=[_word(k) for k in s.kinds]))
    names = [" → ".join(LETTERS[m] for m in reversed(t)) for t in s.triples]
    for k in range(n):
        fig.add_trace(go.Scatter(x=100 * s.cycle[:, k], y=k + np.linspace(-0.15, 0.15, len(names)) if len(names) > 1 else [k], mode="markers", text=names, cliponaxis=False,
                                 marker=dict(symbol="square", size=8, color=theme.more[0]), hovertemplate="%{text}<br>%{x:.3g} % elsewhere<extra></extra>"))
    plots.dashed(fig, theme, 100.0)
    return fig
