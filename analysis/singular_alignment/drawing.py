"""The figure cards: the loss along the path, what each order gives, which directions matter; see vectors.py, units.py, triangle.py for the rest."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.order_marks import SYMBOLS, color, key
from analysis.plots import number
from analysis.singular_alignment import tables, triangle, units, vectors, words
from analysis.singular_alignment.measure import gamma_index
from analysis.singular_alignment.words import MIDDLE
from analysis.theme import Theme, figure
from metrics.permutation.methods import NONE, RANDOM, WEIGHTS


def figures(runs) -> list[Figure]:
    r, gamma = runs[0].result, words.shown_gamma(runs[0].params.gamma)
    cards = [_path_card(r), _summary_card(r, gamma), *vectors.cards(r, gamma), _intervention_card(r, gamma, runs[0].params.split), vectors.spectra_card(r), units.card(r)]
    return cards + (triangle.cards(r) if r.several else [])


# ---- the path


def _path_card(r) -> Figure:
    i, k = r.methods.index(WEIGHTS), r.methods.index(NONE)
    return Figure(
        "path", "Loss along the straight path from B to A",
        f"Merging as they are peaks {number(r.barrier[k, 0, 0])} nats above the line between the parents, ordered by weights {number(r.barrier[i, 0, 0])}. Dashed grey: a random order.",
        {"loss": partial(path, r, "loss"), "accuracy": partial(path, r, "accuracy")}, tables.path(r),
        f"Loss of λ a + (1 − λ) π(b) in nats per token at {len(r.share)} λ, on {int(r.tokens.sum()):,} tokens in {len(r.tokens)} sequences that no order was fitted to. "
        "Thin grey: the mean of the parents’ losses.",
        "Lines of loss over λ. " + "; ".join(f"{m}: largest barrier {number(r.barrier[j, 0, 0])} nats" for j, m in enumerate(r.methods)) + ".",
    )


def path(r, what: str, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=56, r=14, t=44, b=42), height=344)
    values = (r.nll if what == "loss" else 100 * r.right).sum(-1) / r.tokens.sum()
    ends = values[0, [0, -1]]
    fig.update_layout(xaxis=dict(title="share of A, λ", range=[-0.03, 1.03], tickvals=[0, 0.25, 0.5, 0.75, 1], ticktext=["0 (B)", "0.25", "0.5", "0.75", "1 (A)"]),
                      yaxis=dict(title="loss, nats per token" if what == "loss" else "top-1 accuracy, %", showgrid=True))
    fig.add_trace(go.Scatter(x=[0, 1], y=ends, mode="lines", line=dict(color=theme.null_line, width=1), hoverinfo="skip"))
    for m, line in zip(r.methods, values):
        dash = "dash" if m == RANDOM else "solid"
        fig.add_trace(go.Scatter(x=r.share, y=line, mode="lines+markers", line=dict(color=color(theme, m), width=1.5 if m == RANDOM else 2, dash=dash), name=m,
                                 marker=dict(symbol=SYMBOLS[m], size=6, color=color(theme, m)),
                                 hovertemplate=f"{m}<br>λ = %{{x:.3g}}: %{{y:.4g}}{' nats' if what == 'loss' else ' %'}<extra></extra>"))
    for label, x, y in (("B", 0.0, ends[0]), ("A", 1.0, ends[1])):
        plots.dots(fig, theme, label, [x], [y], size=11, hover=f"{label}<br>%{{y:.4g}}")
    key(fig, theme, list(r.methods))
    return fig


# ---- what each order gives


def _summary_card(r, gamma: float) -> Figure:
    i = r.methods.index(WEIGHTS)
    return Figure(
        "orders", "What each order gives",
        f"By weights: barrier {number(r.barrier[i, MIDDLE, 0])} nats where slopes and curvatures at the ends would have said {number(r.taylor[i])}; {number(r.reduction[i])} % closer. "
        "The second-order estimate is no substitute for walking the path.",
        {"": partial(summary, r, gamma)}, tables.summary(r),
        f"Left: barrier at the midpoint with 95 % intervals (marks) and its second-order estimate (grey bars). Middle: share of ‖a − b‖ that the order takes away. Right: R at γ = {gamma:g}; the grey band "
        f"holds {len(r.null_sums)} random orders, the dotted line is what the search finds between strangers.",
        "; ".join(f"{m}: midpoint barrier {number(r.barrier[j, MIDDLE, 0])} nats, estimate {number(r.taylor[j])}, distance −{number(r.reduction[j])} %" for j, m in enumerate(r.methods)) + ".",
    )


def summary(r, gamma: float, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=92, r=14, t=26, b=42), height=344)
    n, g = len(r.methods), gamma_index(gamma)
    total, null = r.total()
    fig.update_layout(
        xaxis=dict(domain=[0, 0.42], title="midpoint barrier, nats", showgrid=True, nticks=5), yaxis=dict(range=[n - 0.5, -0.5], tickvals=list(range(n)), ticktext=list(r.methods)),
        xaxis2=dict(domain=[0.5, 0.7], anchor="y", title="% closer", showgrid=True, nticks=4, rangemode="tozero"),
        xaxis3=dict(domain=[0.78, 1], anchor="y", title=f"R at γ = {gamma:g}", showgrid=True, nticks=4))
    for i, y in enumerate(r.taylor):
        plots.add(fig, shapes=[dict(type="line", x0=y, x1=y, y0=i - 0.28, y1=i + 0.28, xref="x", yref="y", line=dict(color=theme.quiet, width=3))])
    plots.add(fig, shapes=[dict(type="rect", x0=null[:, g].min(), x1=null[:, g].max(), y0=-0.5, y1=n - 0.5, xref="x3", yref="y", fillcolor=theme.null_fill, line_width=0, layer="below"), _search_line(r, g, n, theme, "x3")])
    plots.dashed(fig, theme, 0.0, ("x", "y domain"))
    for i, m in enumerate(r.methods):
        v, low, high = r.barrier[i, MIDDLE]
        mark = dict(symbol=SYMBOLS[m], size=9, color=color(theme, m))
        bars = dict(type="data", symmetric=False, array=[np.nan_to_num(high - v)], arrayminus=[np.nan_to_num(v - low)], color=color(theme, m), thickness=1.5, width=0)
        fig.add_trace(go.Scatter(x=[v], y=[i], mode="markers", marker=mark, error_x=bars, cliponaxis=False, customdata=[[low, high, r.taylor[i]]],
                                 hovertemplate=f"{m}<br>barrier %{{x:.4g}} nats (%{{customdata[0]:.4g}}–%{{customdata[1]:.4g}})<br>second-order estimate %{{customdata[2]:.4g}}<extra></extra>"))
        fig.add_trace(go.Scatter(x=[r.reduction[i]], y=[i], mode="markers", marker=mark, xaxis="x2", cliponaxis=False, hovertemplate=f"{m}<br>%{{x:.3g}} % closer<extra></extra>"))
        fig.add_trace(go.Scatter(x=[total[i, g]], y=[i], mode="markers", marker=mark, xaxis="x3", cliponaxis=False, hovertemplate=f"{m}<br>R = %{{x:.4f}}<extra></extra>"))
    plots.note(fig, theme, "┃ second-order estimate", 0.0, 1.0, color=theme.axis, xanchor="left", yanchor="bottom", yshift=4)
    return fig


def _search_line(r, g: int, n: int, theme: Theme, axis: str) -> dict:
    at = float(r.search()[:, g].max())
    return dict(type="line", x0=at, x1=at, y0=-0.5, y1=n - 0.5, xref=axis, yref="y", line=dict(color=theme.null_line, width=2, dash="dot"), layer="below")


# ---- which directions


def _intervention_card(r, gamma: float, split: float) -> Figure:
    large, small = r.cut_barrier[:, 0]
    i = r.methods.index(WEIGHTS)
    better = "large" if large < small else "small"
    return Figure(
        "directions", "Matched on large or on small singular values alone",
        f"From values ≥ {split:g} of the largest alone: barrier {number(large)} nats; from the rest {number(small)}; from all weights {number(r.barrier[i, MIDDLE, 0])}. "
        f"Here the {better} ones say more about a merge.",
        {"": partial(intervention, r, gamma)}, tables.intervention(r),
        f"Weight matching on matrices rebuilt from singular values ≥ {split:g} s_max, and from those below; then all weights of B are ordered that way. Left: barrier at the midpoint, 95 % intervals. "
        f"Right: R at γ = {gamma:g}. Grey: a random order, and its band; dotted: the search between strangers.",
        f"Dots: barrier {number(large)} nats from large values, {number(small)} from small ones; R {', '.join(words.signed(x) for x in r.cut()[:, gamma_index(gamma)])}.",
    )


def intervention(r, gamma: float, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=112, r=14, t=26, b=42), height=344)
    g, pick = gamma_index(gamma), r.methods.index
    total, null = r.total()
    cut = r.cut()[:, g]
    rows = [("as they are", r.barrier[pick(NONE), MIDDLE], total[pick(NONE), g], theme.text, "circle-open"), ("all weights", r.barrier[pick(WEIGHTS), MIDDLE], total[pick(WEIGHTS), g], theme.more[0], "square"),
            ("large values", r.cut_barrier[0], cut[0], theme.more[2], "triangle-up"), ("small values", r.cut_barrier[1], cut[1], theme.more[3], "triangle-down"),
            ("random order", r.barrier[pick(RANDOM), MIDDLE], total[pick(RANDOM), g], theme.null_line, "x")]
    n = len(rows)
    fig.update_layout(xaxis=dict(domain=[0, 0.55], title="midpoint barrier, nats", showgrid=True, nticks=6), yaxis=dict(range=[n - 0.5, -0.5], tickvals=list(range(n)), ticktext=[x[0] for x in rows]),
                      xaxis2=dict(domain=[0.65, 1], anchor="y", title=f"R at γ = {gamma:g}", showgrid=True, nticks=4))
    plots.add(fig, shapes=[dict(type="rect", x0=null[:, g].min(), x1=null[:, g].max(), y0=-0.5, y1=n - 0.5, xref="x2", yref="y", fillcolor=theme.null_fill, line_width=0, layer="below"), _search_line(r, g, n, theme, "x2")])
    for i, (name, (v, low, high), aligned, hue, mark) in enumerate(rows):
        bars = dict(type="data", symmetric=False, array=[np.nan_to_num(high - v)], arrayminus=[np.nan_to_num(v - low)], color=hue, thickness=1.5, width=0)
        fig.add_trace(go.Scatter(x=[v], y=[i], mode="markers", marker=dict(symbol=mark, size=9, color=hue), error_x=bars, cliponaxis=False,
                                 customdata=[[low, high]], hovertemplate=f"{name}<br>barrier %{{x:.4g}} nats (%{{customdata[0]:.4g}}–%{{customdata[1]:.4g}})<extra></extra>"))
        fig.add_trace(go.Scatter(x=[aligned], y=[i], mode="markers", marker=dict(symbol=mark, size=9, color=hue), xaxis="x2", cliponaxis=False, hovertemplate=f"{name}<br>R = %{{x:.4f}}<extra></extra>"))
    return fig
