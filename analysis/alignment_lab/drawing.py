"""The cards about pairs: the path, what each order gives, singular vectors, which directions matter; more.py has the rest."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.alignment_lab import more, tables, words
from analysis.alignment_lab.words import MIDDLE, TEST, gamma_index, middle
from analysis.contract import Figure
from analysis.order_marks import SYMBOLS, color, key
from analysis.plots import number
from analysis.theme import Theme, figure
from metrics.permutation.methods import NONE, RANDOM, WEIGHTS
from metrics.permutation.singular import GAMMAS


def figures(runs) -> list[Figure]:
    r, params = runs[0].result, runs[0].params
    g = gamma_index(params.gamma)
    return [_path_card(r), _summary_card(r, g), _alignment_card(r, g), _directions_card(r, g, params.split), more.sweep_card(r, g), more.spectra_card(r), more.units_card(r), more.triangle_card(r)]


def _path_card(r) -> Figure:
    peak = lambda m: number(float(r.barrier[:, r.methods.index(m), 0, TEST].mean()))
    return Figure(
        "path", "Loss along the straight path from B to A", f"As they are, the path peaks {peak(NONE)} nats above the line between the parents, ordered by weights {peak(WEIGHTS)}, in a random order {peak(RANDOM)} (means of {len(r.path)} pairs).",
        {"loss": partial(path, r, 0, 1), "accuracy": partial(path, r, 1, 1), "train loss": partial(path, r, 0, 0)}, tables.path(r),
        f"Loss and accuracy of λ a + (1 − λ) π(b) at {len(r.share)} λ, mean of {len(r.path)} pairs, on {r.n_test:,} test images ({r.n_train:,} for train). Thin lines: single pairs.",
        "Lines over λ. " + "; ".join(f"{m}: largest barrier {peak(m)} nats" for m in r.methods) + ".",
    )


def path(r, what: int, which: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=56, r=14, t=44, b=42), height=344)
    values = r.path[:, :, :, which, what] * (100 if what else 1)
    title = f"{'test' if which else 'training'} {'accuracy, %' if what else 'loss, nats'}"
    fig.update_layout(xaxis=dict(title="share of A, λ", range=[-0.03, 1.03], tickvals=[0, 0.25, 0.5, 0.75, 1], ticktext=["0 (B)", "0.25", "0.5", "0.75", "1 (A)"]), yaxis=dict(title=title, showgrid=True))
    for i, m in enumerate(r.methods):
        for line in values[:, i]:
            fig.add_trace(go.Scatter(x=r.share, y=line, mode="lines", line=dict(color=color(theme, m), width=0.7), opacity=0.4, hoverinfo="skip"))
        fig.add_trace(go.Scatter(x=r.share, y=values[:, i].mean(0), mode="lines+markers", line=dict(color=color(theme, m), width=2, dash="dash" if m == RANDOM else "solid"), marker=dict(symbol=SYMBOLS[m], size=6, color=color(theme, m)),
                                 hovertemplate=f"{m}<br>λ = %{{x:.3g}}: %{{y:.4g}}<extra></extra>"))
    key(fig, theme, list(r.methods))
    return fig


def _summary_card(r, g: int) -> Figure:
    i = r.methods.index(WEIGHTS)
    return Figure(
        "orders", "What each order gives",
        f"By weights: barrier {number(float(middle(r, WEIGHTS).mean()))} nats where slopes and curvatures at the ends would have said {number(float(r.taylor[:, i].mean()))}; as they are {number(float(middle(r, NONE).mean()))} "
        f"against {number(float(r.taylor[:, r.methods.index(NONE)].mean()))}.",
        {"": partial(summary, r, g)}, tables.summary(r),
        f"One mark a pair. Left: barrier at the midpoint on test images, and its second-order estimate on training images (grey bars). Middle: share of ‖a − b‖ that the order takes away. Right: R at γ = {GAMMAS[g]:g}; grey: random orders, dotted: the search between strangers, at most.",
        "; ".join(f"{m}: midpoint barrier {number(float(middle(r, m).mean()))} nats" for m in r.methods) + ".",
    )


def summary(r, g: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=92, r=14, t=26, b=42), height=344)
    n = len(r.methods)
    fig.update_layout(xaxis=dict(domain=[0, 0.42], title="midpoint barrier, nats", showgrid=True, nticks=5), yaxis=dict(range=[n - 0.5, -0.5], tickvals=list(range(n)), ticktext=list(r.methods)),
                      xaxis2=dict(domain=[0.5, 0.7], anchor="y", title="% closer", showgrid=True, nticks=4), xaxis3=dict(domain=[0.78, 1], anchor="y", title=f"R at γ = {GAMMAS[g]:g}", showgrid=True, nticks=4))
    null = r.null[:, :, g]
    bars = [dict(type="line", x0=y, x1=y, y0=i - 0.28, y1=i + 0.28, xref="x", yref="y", line=dict(color=theme.quiet, width=2)) for i in range(n) for y in r.taylor[:, i]]
    plots.add(fig, shapes=[*bars, dict(type="rect", x0=null.min(), x1=null.max(), y0=-0.5, y1=n - 0.5, xref="x3", yref="y", fillcolor=theme.null_fill, line_width=0, layer="below"), _search_line(r, g, n, theme, "x3")])
    plots.dashed(fig, theme, 0.0)
    for i, m in enumerate(r.methods):
        for values, axis, word in ((r.barrier[:, i, MIDDLE, TEST], "x", "barrier %{x:.4g} nats"), (r.reduction[:, i], "x2", "%{x:.3g} % closer"), (r.r[:, i, g], "x3", "R = %{x:.4f}")):
            fig.add_trace(go.Scatter(x=values, y=_spread(i, len(values)), mode="markers", xaxis=axis, cliponaxis=False, marker=dict(symbol=SYMBOLS[m], size=8, color=color(theme, m)), hovertemplate=f"{m}<br>{word}<extra></extra>"))
    plots.note(fig, theme, "┃ second-order estimate", 0.0, 1.0, color=theme.axis, xanchor="left", yanchor="bottom", yshift=4)
    return fig


def _search_line(r, g: int, n: int, theme: Theme, axis: str) -> dict:
    at = float(r.search_null[:, :, g].max())
    return dict(type="line", x0=at, x1=at, y0=-0.5, y1=n - 0.5, xref=axis, yref="y", line=dict(color=theme.null_line, width=2, dash="dot"), layer="below")


def _spread(row: int, n: int) -> np.ndarray:
    return row + np.linspace(-0.16, 0.16, n)


def _alignment_card(r, g: int) -> Figure:
    mean = r.r.mean(0)
    i = r.methods.index(WEIGHTS)
    return Figure(
        "alignment", "Do the singular vectors point the same way?",
        f"Ordered by weights, R is {words.signed(mean[i, 0])} over all vectors and {words.signed(mean[i, g])} over those with s ≥ {GAMMAS[g]:g} s_max; the search alone reaches {words.signed(r.search_null[:, :, 0].max())} and {words.signed(r.search_null[:, :, g].max())}, random orders {words.signed(r.null[:, :, g].max())} at the latter.",
        {"A and B": partial(over_gamma, r, g, False), "A and merged": partial(over_gamma, r, g, True), "by layer": partial(by_layer, r, g)}, tables.alignment(r),
        "R over all matrices against γ, the threshold on singular values as a share of each matrix’s largest; mean of the pairs. Grey band: random orders. Dotted: the largest R that the same search finds between A and matrices with B’s singular values and random vectors. “A and merged”: R of A with the midpoint network, which contains half of A whatever the order. The data give R and the counts kept by layer.",
        "Lines of R over γ. " + "; ".join(f"{m}: {words.signed(mean[k, g])}" for k, m in enumerate(r.methods)) + ".",
    )


def over_gamma(r, g: int, merged: bool, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=56, r=14, t=44, b=42), height=344)
    lines = (r.merged if merged else r.r).mean(0)
    fig.update_layout(xaxis=dict(title="γ: vectors with s ≥ γ s_max", range=[-0.02, 0.97]), yaxis=dict(title="R of A and the merged network" if merged else "R of A and B", showgrid=True))
    if not merged:
        low, high = r.null.min((0, 1)), r.null.max((0, 1))
        fig.add_trace(go.Scatter(x=np.concatenate([GAMMAS, GAMMAS[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself", fillcolor=theme.null_fill, mode="lines", line=dict(width=0), hoverinfo="skip"))
        fig.add_trace(go.Scatter(x=GAMMAS, y=r.search_null.max((0, 1)), mode="lines", line=dict(color=theme.null_line, width=2, dash="dot"), hovertemplate="the search alone<br>γ = %{x:.2f}: R up to %{y:.4f}<extra></extra>"))
    plots.dashed(fig, theme, float(GAMMAS[g]))
    for m, line in zip(r.methods, lines):
        if m == RANDOM and not merged:
            continue
        fig.add_trace(go.Scatter(x=GAMMAS, y=line, mode="lines+markers", line=dict(color=color(theme, m), width=2, dash="dash" if m == RANDOM else "solid"), marker=dict(symbol=SYMBOLS[m], size=6, color=color(theme, m)),
                                 hovertemplate=f"{m}<br>γ = %{{x:.2f}}: R = %{{y:.4f}}<extra></extra>"))
    key(fig, theme, list(r.methods))
    return fig


def by_layer(r, g: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=92, r=76, t=26, b=42), height=344)
    z = np.nanmean(r.r_piece[..., g], 0)
    high = max(float(np.nanmax(np.abs(z))), 1e-6)
    names = [f"layer {p}" for p in range(z.shape[1])]
    fig.update_layout(xaxis=dict(**plots.ticks(names)), yaxis=dict(range=[len(z) - 0.5, -0.5], tickvals=list(range(len(z))), ticktext=list(r.methods)))
    kept = np.broadcast_to(r.ranks[..., g].mean(0).T, (*z.shape, 2))
    plots.heat(fig, theme, z, low=-high, high=high, scale=theme.diverging, custom=kept, bar=dict(title=dict(text=f"R at γ = {GAMMAS[g]:g}", side="right"), nticks=5), hover="%{y}, %{x}<br>R = %{z:.4f}, vectors kept %{customdata[0]:.1f} and %{customdata[1]:.1f}")
    plots.add(fig, [plots.text_at(theme, words.signed(z[i, j]), j, i, ref=("x", "y"), color=theme.text) for i, j in zip(*np.nonzero(np.isfinite(z)))])
    return fig


def _directions_card(r, g: int, split: float) -> Figure:
    large, small = r.cut_barrier.mean(0)
    return Figure(
        "directions", "Matched on large or on small singular values alone",
        f"From values ≥ {split:g} of the largest alone: barrier {number(large)} nats, though only {100 * r.cut_agreement[:, 0].mean():.0f} % of units are sent as by all weights; from the rest {number(small)}; as they are {number(float(middle(r, NONE).mean()))}.",
        {"": partial(directions, r, g)}, tables.intervention(r),
        f"Weight matching on matrices rebuilt from singular values ≥ {split:g} s_max, and from those below; then all weights of B are ordered that way. One mark a pair. Right: R at γ = {GAMMAS[g]:g}; grey: random orders, dotted: the search between strangers, at most.",
        f"Dots: barrier {number(large)} nats from large values, {number(small)} from small ones.",
    )


def directions(r, g: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=112, r=14, t=26, b=42), height=344)
    at = r.methods.index
    rows = [(NONE, middle(r, NONE), r.r[:, at(NONE), g], theme.text, "circle-open"), ("all weights", middle(r, WEIGHTS), r.r[:, at(WEIGHTS), g], theme.more[0], "square"),
            ("large values", r.cut_barrier[:, 0], r.cut_r[:, 0, g], theme.more[2], "triangle-up"), ("small values", r.cut_barrier[:, 1], r.cut_r[:, 1, g], theme.more[3], "triangle-down"),
            (RANDOM, middle(r, RANDOM), r.r[:, at(RANDOM), g], theme.null_line, "x")]
    n, null = len(rows), r.null[:, :, g]
    fig.update_layout(xaxis=dict(domain=[0, 0.55], title="midpoint barrier, nats", showgrid=True, nticks=6), yaxis=dict(range=[n - 0.5, -0.5], tickvals=list(range(n)), ticktext=[x[0] for x in rows]),
                      xaxis2=dict(domain=[0.65, 1], anchor="y", title=f"R at γ = {GAMMAS[g]:g}", showgrid=True, nticks=4))
    plots.add(fig, shapes=[dict(type="rect", x0=null.min(), x1=null.max(), y0=-0.5, y1=n - 0.5, xref="x2", yref="y", fillcolor=theme.null_fill, line_width=0, layer="below"), _search_line(r, g, n, theme, "x2")])
    for i, (name, barrier, aligned, hue, mark) in enumerate(rows):
        for values, axis, word in ((barrier, "x", "barrier %{x:.4g} nats"), (aligned, "x2", "R = %{x:.4f}")):
            fig.add_trace(go.Scatter(x=values, y=_spread(i, len(values)), mode="markers", xaxis=axis, cliponaxis=False, marker=dict(symbol=mark, size=8, color=hue), hovertemplate=f"{name}<br>{word}<extra></extra>"))
    return fig
