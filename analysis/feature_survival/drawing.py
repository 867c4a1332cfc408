"""The figure cards: fates, correlations, firing rates, reconstruction, the most damaged features and their contexts side by side."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.feature_survival import tables, words
from analysis.feature_survival.contexts import contexts_card
from analysis.feature_survival.measure import FATES
from analysis.plots import number
from analysis.theme import Theme, figure

HEIGHT = 332


def figures(runs) -> list[Figure]:
    r, p = runs[0].result, runs[0].params
    cards = [_fates_card(r, p), _curve_card(r, p), _rates_card(r), _reconstruction_card(r)]
    return [*cards, _worst_card(r, p), contexts_card(r)] if len(r.worst) else cards


def _control(r) -> str:
    return f" Grey: control, {r.control}." if words.has_control(r) else ""


def _key(fig: go.Figure, theme: Theme, r, mark: str = "◆", more: str = "") -> None:
    control = f'  <span style="color:{theme.null_line}">■</span> control' if words.has_control(r) else ""
    plots.note(fig, theme, f'{more}<span style="color:{theme.b}">{mark}</span> B{control}', 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)


# ---- fates


def _fates_card(r, p) -> Figure:
    kept, distorted, dead, born = words.counts(r)
    return Figure(
        "fates", "What became of A’s features", f"{dead} dead and {distorted} distorted of {words.active(r)} active ones; {born} born." + _control(r),
        {"": partial(fates, r)}, tables.fates(r),
        f"Features of {r.sae} that fire on A at {r.least} tokens or more of {r.n_tokens:,}, by what becomes of them on B: kept, distorted (correlation below {number(p.below)}), dead "
        f"(never fires), and born (never fires on A)." + _control(r),
        f"Bars: {kept} kept, {distorted} distorted, {dead} dead, {born} born.", height=HEIGHT,
    )


def fates(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=70, r=44, t=26, b=42), height=HEIGHT, bargap=0.35)
    rows = list(range(len(FATES)))
    fig.update_layout(xaxis=dict(title="features", rangemode="tozero", showgrid=True), yaxis=dict(range=[len(FATES) - 0.5, -0.5], tickvals=rows, ticktext=list(FATES)))
    pairs = [(1, "control", theme.null_line)] if words.has_control(r) else []
    for pair, name, color in [*pairs, (0, "B", theme.b)]:
        n = words.counts(r, pair)
        fig.add_trace(go.Bar(x=n, y=rows, orientation="h", marker_color=color, name=name, text=[f"{x:,}" for x in n], textposition="outside", textfont=dict(color=theme.axis, size=theme.size),
                             cliponaxis=False, hovertemplate=f"{name}: %{{x:,}} features<extra></extra>"))
    _key(fig, theme, r, "■")
    return fig


# ---- correlations


def _curve_card(r, p) -> Figure:
    here = r.fate[0] >= 0
    median = np.nanmedian(r.correlation[1][here & (r.fate[0] != words.BORN)]) if words.active(r) else float("nan")
    return Figure(
        "correlation", "How well each feature survives", f"Half of the active features correlate at {number(median)} or more. Left of the dashed line: distorted." + _control(r),
        {"": partial(curve, r, p)}, tables.features(r),
        "Share of A’s active features whose activations on A and on B correlate at most so much (Pearson’s r over the same tokens, zeros included; dead features count as 0)." + _control(r),
        f"Cumulative curve of correlations; median {number(median)}.", height=HEIGHT,
    )


def curve(r, p, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=56, r=14, t=26, b=42), height=HEIGHT)
    pairs = [(1, "control", dict(color=theme.null_line, width=1.5, dash="dash"))] if words.has_control(r) else []
    low = 1.0
    for pair, name, line in [*pairs, (0, "B", dict(color=theme.b, width=2))]:
        use = np.isin(r.fate[pair], (words.KEPT, words.DISTORTED, words.DEAD))
        values = np.sort(np.where(r.fate[pair] == words.DEAD, 0.0, np.nan_to_num(r.correlation[pair + 1]))[use])
        if len(values):
            low = min(low, values[0])
            fig.add_trace(go.Scatter(x=[values[0], *values, 1.0], y=[0, *((np.arange(len(values)) + 1) / len(values)), 1.0], mode="lines", line={**line, "shape": "hv"}, name=name,
                                     hovertemplate=name + ": %{y:.1%} of features at r = %{x:.3f} or less<extra></extra>"))
    low = min(low, p.below - 0.1)
    fig.update_layout(xaxis=dict(title="correlation with A, r", range=[low - 0.03 * (1 - low), 1 + 0.02 * (1 - low)], showgrid=True),
                      yaxis=dict(title="share of active features", range=[-0.02, 1.03], tickformat=".0%", showgrid=True))
    plots.dashed(fig, theme, p.below)
    _key(fig, theme, r, "━")
    return fig


# ---- firing rates


def _rates_card(r) -> Figure:
    x, y = r.fired[:2]
    more = int(((y > 2 * x) & (r.fate[0] >= 0)).sum())
    less = int(((2 * y < x) & (r.fate[0] >= 0)).sum())
    return Figure(
        "rates", "How often each feature fires", f"{less} features fire less than half as often on B, {more} more than twice as often. On the line nothing changed.",
        {"": partial(rates, r)}, tables.features(r),
        f"Share of {r.n_tokens:,} tokens at which each feature fires on A (across) and on B (up), both axes log; never is drawn at the edge.",
        f"Scatter of firing rates on A and B around the diagonal; {less} below half, {more} above double.", height=HEIGHT,
    )


def rates(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=62, r=14, t=26, b=42), height=HEIGHT)
    use = np.flatnonzero(r.fate[0] >= 0)
    floor = 0.5 / r.n_tokens
    x, y = (np.maximum(r.fired[i][use] / r.n_tokens, floor) for i in (0, 1))
    top = max(float(x.max(initial=floor)), float(y.max(initial=floor)), 10 * floor)
    axis = plots.log_axis(floor, top, 0.05, 5, clipped=True)
    axis["ticktext"] = ["never", *axis["ticktext"][1:]]
    fig.update_layout(xaxis=dict(title="share of tokens on A (log)", **axis), yaxis=dict(title="on B (log)", **axis))
    fig.add_trace(go.Scatter(x=[floor, top], y=[floor, top], mode="lines", line=dict(color=theme.null_line, width=1.5, dash="dash"), hoverinfo="skip"))
    kind = r.fate[0][use]
    for name, color, opacity in (("kept", theme.quiet, 0.55), ("distorted", theme.b, 0.9), ("dead", theme.b, 1.0), ("born", theme.a, 1.0)):
        at = kind == FATES.index(name)
        symbol = {"dead": "x", "born": "triangle-up"}.get(name, "circle" if name == "kept" else "diamond")
        fig.add_trace(go.Scattergl(x=x[at], y=y[at], mode="markers", marker=dict(size=6, color=color, opacity=opacity, symbol=symbol), name=name,
                                   customdata=np.column_stack([use[at], r.fired[0][use][at], r.fired[1][use][at], np.nan_to_num(r.correlation[1][use][at])]),
                                   hovertemplate=f"#%{{customdata[0]}} {name}<br>fires on A at %{{customdata[1]:,}} tokens, on B at %{{customdata[2]:,}}<br>r = %{{customdata[3]:.3f}}<extra></extra>"))
    marks = [f'<span style="color:{c}">{m}</span> {n}' for m, n, c in (("●", "kept", theme.quiet), ("◆", "distorted", theme.b), ("✕", "dead", theme.b), ("▲", "born", theme.a))]
    plots.note(fig, theme, "  ".join(marks), 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


# ---- reconstruction


def _reconstruction_card(r) -> Figure:
    return Figure(
        "reconstruction", "Does A’s dictionary still describe B?",
        f"Explained variance {words.percent(r.explained[0, 0])} on A, {words.percent(r.explained[1, 0])} on B; cross-entropy recovered {words.percent(r.recovered[0, 0])} and {words.percent(r.recovered[1, 0])}.",
        {"": partial(reconstruction, r)}, tables.reconstruction(r),
        "Left: share of the site’s variance that the frozen SAE rebuilds. Right: share of the loss added by zeroing the site that the reconstruction saves. 95 % bootstrap intervals over sequences." + _control(r),
        f"Dots: explained variance A {number(r.explained[0, 0])}, B {number(r.explained[1, 0])}; recovered A {number(r.recovered[0, 0])}, B {number(r.recovered[1, 0])}.", height=HEIGHT,
    )


def reconstruction(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=62, r=18, t=26, b=42), height=HEIGHT)
    n = len(r.fired)
    fig.update_layout(xaxis=dict(domain=[0, 0.46], title="explained variance", showgrid=True, nticks=4), xaxis2=dict(domain=[0.56, 1], title="cross-entropy recovered", showgrid=True, nticks=4, anchor="y"),
                      yaxis=dict(range=[n - 0.5, -0.5], tickvals=list(range(n)), ticktext=list(tables.MODELS[:n])))
    for values, axis in ((r.explained, "x"), (r.recovered, "x2")):
        for i in range(n):
            color = (theme.a, theme.b, theme.null_line)[i]
            v = values[i]
            bars = dict(type="data", symmetric=False, array=[np.nan_to_num(v[2] - v[0])], arrayminus=[np.nan_to_num(v[0] - v[1])], color=color, thickness=1.5, width=0)
            fig.add_trace(go.Scatter(x=[v[0]], y=[i], mode="markers", marker=dict(size=9, color=color, symbol=("circle", "diamond", "square")[i]), error_x=bars, xaxis=axis, yaxis="y", cliponaxis=False,
                                     name=tables.MODELS[i], hovertemplate=f"{tables.MODELS[i]}: {number(v[0], 4)} ({plots.interval(v[1], v[2])})<extra></extra>"))
    return fig


# ---- the most damaged


def _worst_card(r, p) -> Figure:
    return Figure(
        "worst", "The most damaged features", f"{words.label(r, 0)} has r = {number(np.nan_to_num(r.correlation[1][r.worst[0]]))}. After → stands the token that the feature promotes most." + _control(r),
        {"": partial(worst, r, p)}, tables.worst(r),
        f"The {len(r.worst)} active features with the lowest correlation between A and B (dead ones count as 0), with 95 % bootstrap intervals over groups of sequences." + _control(r),
        "Dots of correlation: " + "; ".join(f"{words.label(r, i)} {number(np.nan_to_num(r.correlation[1][f]))}" for i, f in enumerate(r.worst[:5])) + ".", height=60 + 22 * len(r.worst),
        links={words.label(r, i): f"feature_browser?sae={r.sae}&feature={int(f)}" for i, f in enumerate(r.worst)}, wide=True,
    )


def worst(r, p, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=142, r=14, t=26, b=42), height=60 + 22 * len(r.worst))
    rows = np.arange(len(r.worst))
    names = [words.label(r, i) for i in range(len(r.worst))]
    low = 0.0
    for pair, name, color, symbol, shift in ((1, "control", theme.null_line, "square", 0.16), (0, "B", theme.b, "diamond", -0.16)):
        if pair >= len(r.worst_correlation):
            continue
        v = np.nan_to_num(r.worst_correlation[pair])
        low = min(low, float(v.min(initial=0)))
        bars = dict(type="data", symmetric=False, array=v[:, 2] - v[:, 0], arrayminus=v[:, 0] - v[:, 1], color=color, thickness=1.5, width=0)
        fig.add_trace(go.Scatter(x=v[:, 0], y=rows + (shift if words.has_control(r) else 0), mode="markers", marker=dict(size=8, color=color, symbol=symbol), error_x=bars, cliponaxis=False, name=name,
                                 customdata=[[names[i], int(r.fired[0, f]), int(r.fired[pair + 1, f])] for i, f in enumerate(r.worst)],
                                 hovertemplate=f"%{{customdata[0]}}<br>{name}: r = %{{x:.3f}}<br>fires at %{{customdata[1]:,}} tokens of A, %{{customdata[2]:,}} of {name}<extra></extra>"))
    fig.update_layout(xaxis=dict(title="correlation with A, r (0: dead, or no longer related)", range=[low - 0.05, 1.03], showgrid=True),
                      yaxis=dict(range=[len(r.worst) - 0.5, -0.5], tickvals=rows, ticktext=names))
    plots.dashed(fig, theme, p.below)
    _key(fig, theme, r)
    return fig
