"""The cards about singular vectors: R over γ and by matrix, spectra of both models, how inputs lie along the vectors."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.order_marks import SYMBOLS, color, key
from analysis.plots import number
from analysis.singular_alignment import tables, words
from analysis.singular_alignment.measure import gamma_index
from analysis.theme import Theme, figure
from metrics.permutation.methods import RANDOM, WEIGHTS
from metrics.permutation.singular import GAMMAS


def cards(r, gamma: float) -> list[Figure]:
    return [_over_gamma_card(r, gamma), _by_matrix_card(r, gamma)]


def _over_gamma_card(r, gamma: float) -> Figure:
    total, null = r.total()
    i, g = r.methods.index(WEIGHTS), gamma_index(gamma)
    top = int(np.nanargmax(total[i]))
    return Figure(
        "alignment", "Do the singular vectors point the same way?",
        f"Ordered by weights, R is {words.signed(total[i, 0])} over all vectors and {words.signed(total[i, top])} over those with s ≥ {GAMMAS[top]:g} s_max. The search alone reaches {words.signed(r.search()[:, 0].max())} and {words.signed(r.search()[:, top].max())}.",
        {"A and B": partial(over_gamma, r, gamma, False), "A and merged": partial(over_gamma, r, gamma, True)}, tables.alignment(r),
        f"R over all matrices against γ: the threshold on singular values, as a share of each matrix’s largest. Grey band: {len(null)} random orders. Dotted: the largest R that the same search finds between A and matrices with B’s singular values and random vectors. “A and merged”: R of A with the midpoint model, which contains half of A whatever the order.",
        "Lines of R over γ. " + "; ".join(f"{m}: {words.signed(total[k, g])} at {gamma:g}" for k, m in enumerate(r.methods)) + ".",
    )


def over_gamma(r, gamma: float, merged: bool, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=56, r=14, t=44, b=42), height=344)
    total, null = (r.merged(), None) if merged else r.total()
    fig.update_layout(xaxis=dict(title="γ: vectors with s ≥ γ s_max", range=[-0.02, 0.97]), yaxis=dict(title="R of A and the merged model" if merged else "R of A and B", showgrid=True))
    if null is not None:
        x = np.concatenate([GAMMAS, GAMMAS[::-1]])
        fig.add_trace(go.Scatter(x=x, y=np.concatenate([null.max(0), null.min(0)[::-1]]), fill="toself", fillcolor=theme.null_fill, mode="lines", line=dict(width=0), hoverinfo="skip"))
        fig.add_trace(go.Scatter(x=GAMMAS, y=r.search().max(0), mode="lines", line=dict(color=theme.null_line, width=2, dash="dot"), hovertemplate="the search alone<br>γ = %{x:.2f}: R up to %{y:.4f}<extra></extra>"))
    plots.dashed(fig, theme, gamma, ("x", "y domain"))
    for m, line in zip(r.methods, total):
        if m == RANDOM and null is not None:
            continue
        fig.add_trace(go.Scatter(x=GAMMAS, y=line, mode="lines+markers", line=dict(color=color(theme, m), width=2, dash="dash" if m == RANDOM else "solid"),
                                 marker=dict(symbol=SYMBOLS[m], size=6, color=color(theme, m)), hovertemplate=f"{m}<br>γ = %{{x:.2f}}: R = %{{y:.4f}}<extra></extra>"))
    key(fig, theme, list(r.methods))
    return fig


def _by_matrix_card(r, gamma: float) -> Figure:
    each, null = r.r(gamma)
    i = r.methods.index(WEIGHTS)
    best = int(np.nanargmax(each[i]))
    g = gamma_index(gamma)
    search = r.search_sums[:, best, g].max() / max(np.sqrt(r.ranks_a * r.ranks_b)[best, g], 1e-300)
    return Figure(
        "by_matrix", "Where they align", f"At γ = {gamma:g}, {words.place(r, best)} aligns most, {words.signed(each[i, best])}; the search alone reaches {words.signed(search)} there, the largest of any matrix in {len(null)} random orders is {words.signed(np.nanmax(null))}.",
        {m: partial(by_matrix, r, gamma, k) for k, m in enumerate(r.methods) if m not in ("as they are",)}, tables.alignment(r),
        f"R of each weight matrix at γ = {gamma:g} after ordering B. Matrices without a block stand in the last rows; the colour scale is that of the blocks.",
        f"Heat map of R by matrix and block, ordered by weights: from {words.signed(np.nanmin(each[i]))} to {words.signed(np.nanmax(each[i]))}.",
    )


def by_matrix(r, gamma: float, method: int, theme: Theme) -> go.Figure:
    each, _ = r.r(gamma)
    high = float(np.nanmax(np.abs(each[:, r.layer >= 0])))  # embeddings of one vocabulary align far beyond the rest and would drown it
    inner = list(dict.fromkeys(k for k, layer in zip(r.kind.tolist(), r.layer) if layer >= 0))
    outer = list(dict.fromkeys(k for k, layer in zip(r.kind.tolist(), r.layer) if layer < 0))
    n_layers = int(r.layer.max()) + 1
    z, custom = np.full((len(inner) + len(outer), n_layers), np.nan), np.zeros((len(inner) + len(outer), n_layers, 2))
    g = gamma_index(gamma)
    for p, (kind, layer) in enumerate(zip(r.kind.tolist(), r.layer)):
        row, column = (inner.index(kind), layer) if layer >= 0 else (len(inner) + outer.index(kind), 0)
        z[row, column], custom[row, column] = each[method, p], (r.ranks_a[p, g], r.ranks_b[p, g])
    fig = figure(theme, margin=dict(l=72, r=76, t=26, b=42), height=344)
    names = inner + outer
    fig.update_layout(xaxis=dict(title="block", **plots.ticks(list(range(n_layers)))), yaxis=dict(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5]))
    plots.heat(fig, theme, z, low=-high, high=high, scale=theme.diverging, custom=custom, bar=dict(title=dict(text=f"R at γ = {gamma:g}", side="right"), nticks=5),
               hover="%{y}, block %{x}<br>R = %{z:.4f}, ranks kept %{customdata[0]} and %{customdata[1]}")
    if z.size <= 120:
        plots.add(fig, [plots.text_at(theme, words.signed(z[i, j]), j, i, ref=("x", "y"), color=theme.text) for i, j in zip(*np.nonzero(np.isfinite(z)))])
    return fig


# ---- spectra and inputs


def spectra_card(r) -> Figure:
    gap = np.nanmean(np.abs(r.spectrum_a - r.spectrum_b) / r.spectrum_a[:, :1])
    high, low = _along_ends(r)
    return Figure(
        "spectra", "Singular values, and the inputs along them",
        f"The two models’ values differ by {number(100 * gap)} % of the largest on average. A’s inputs lie {number(high)}× as much as chance along the tenth of vectors with the largest values, {number(low)}× along the tenth with the smallest.",
        {"values": partial(spectra, r), "inputs": partial(inputs, r)}, tables.vectors(r),
        "Values: s / s_max against the rank of the vector, one line a block; A solid, B dotted. Inputs: E|v · x| / ‖x‖ of A’s right singular vectors over the inputs of the matrix, against s / s_max; dashed: a random direction.",
        f"Small multiples by kind of matrix. Mean difference of the spectra {number(100 * gap)} % of s_max.", height=380,
    )


def _along_ends(r) -> tuple[float, float]:
    """E|v · x| / ‖x‖ over chance, mean over matrices, in the first and the last tenth of vectors."""
    first, last = [], []
    for row, chance in zip(r.along, r.chance):
        row = row[np.isfinite(row)]
        if len(row):
            n = max(1, len(row) // 10)
            first.append(row[:n].mean() / chance)
            last.append(row[-n:].mean() / chance)
    return (float(np.mean(first)), float(np.mean(last))) if first else (float("nan"), float("nan"))


def _panels(kinds: list[str], fig: go.Figure, theme: Theme, x_title: str, y_title: str, **axis) -> dict[str, tuple[str, str]]:
    """A grid of small plots, three in a row; axis names by kind."""
    rows, out, layout = -(-len(kinds) // 3), {}, {}
    for i, kind in enumerate(kinds):
        column, row = i % 3, i // 3
        suffix = "" if i == 0 else str(i + 1)
        height = 1 / rows
        top = 1 - row * height
        layout[f"xaxis{suffix}"] = dict(domain=[column * 0.345, column * 0.345 + 0.29], anchor=f"y{suffix}", title=x_title if row == rows - 1 or i + 3 >= len(kinds) else "", nticks=4)
        layout[f"yaxis{suffix}"] = dict(domain=[top - height + 0.13, top - 0.06], anchor=f"x{suffix}", title=y_title if column == 0 else "", nticks=4, showgrid=True, **axis)
        out[kind] = (f"x{suffix}", f"y{suffix}")
        plots.note(fig, theme, kind, column * 0.345, top - 0.06, color=theme.text, xanchor="left", yanchor="bottom", yshift=1)
    fig.update_layout(**layout)
    return out


def _kinds(r, finite: np.ndarray) -> list[str]:
    """Kinds of block matrices."""
    return [k for k in dict.fromkeys(r.kind[r.layer >= 0].tolist()) if np.isfinite(finite[r.kind == k]).any()][:9]


def spectra(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=380)
    axes = _panels(_kinds(r, r.spectrum_a), fig, theme, "vector", "s / s_max", range=[0, 1.04])
    for p, kind in enumerate(r.kind.tolist()):
        if kind in axes:
            x, y = axes[kind]
            for values, hue, dash, label in ((r.spectrum_a[p], theme.a, "solid", "A"), (r.spectrum_b[p], theme.b, "dot", "B")):
                kept = values[np.isfinite(values)]
                at = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), 80)).astype(int)) if len(kept) else []
                fig.add_trace(go.Scatter(x=at, y=kept[at] / kept[0] if len(kept) else [], mode="lines", line=dict(color=hue, width=1, dash=dash), opacity=0.7, xaxis=x, yaxis=y,
                                         hovertemplate=f"{label}, {words.place(r, p)}<br>vector %{{x}}: %{{y:.3f}} of the largest<extra></extra>"))
    plots.note(fig, theme, f'<span style="color:{theme.a}">━</span> A  <span style="color:{theme.b}">┅</span> B', 1.0, 1.0, color=theme.text, xanchor="right", yanchor="bottom", yshift=4)
    return fig


def inputs(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=380)
    axes = _panels(_kinds(r, r.along), fig, theme, "s / s_max", "E|v·x| / ‖x‖", rangemode="tozero")
    for kind, (x, y) in axes.items():
        rows = np.flatnonzero((r.kind == kind) & np.isfinite(r.chance))
        for p in rows:
            ok = np.isfinite(r.along[p])
            fig.add_trace(go.Scatter(x=r.spectrum_a[p][ok] / r.spectrum_a[p][0], y=r.along[p][ok], mode="markers", marker=dict(size=3, color=theme.a, opacity=0.35), xaxis=x, yaxis=y,
                                     hovertemplate=f"{words.place(r, p)}<br>s / s_max = %{{x:.3f}}: %{{y:.3f}}<extra></extra>"))
        chance = float(r.chance[rows[0]])
        fig.add_trace(go.Scatter(x=[0, 1], y=[chance, chance], mode="lines", line=dict(color=theme.null_line, width=1.5, dash="dash"), xaxis=x, yaxis=y,
                                 hovertemplate="a random direction: %{y:.3f}<extra></extra>"))
    return fig
