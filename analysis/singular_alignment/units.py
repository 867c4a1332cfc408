"""The card about single units: their cosines in B's own order and in A's, and how much better a partner is than the next best."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.plots import number
from analysis.singular_alignment import tables
from analysis.theme import Theme, figure


def card(r) -> Figure:
    mlp = np.char.startswith(r.fit_space.astype(str), "mlp")
    matched, null = np.median(r.fit_cosine[mlp]), np.median(r.fit_null[mlp])
    views = {}
    if "resid" in r.unit_spaces:
        views["stream"] = partial(drawing, r, "resid")
    middle = [s for s in r.unit_spaces if s.startswith("mlp")]
    views |= {f"MLP {s.partition('.')[2]}": partial(drawing, r, s) for s in middle[:: max(1, -(-len(middle) // 6))]}
    views["heads"] = partial(head_maps, r)
    return Figure(
        "units", "Units and their partners",
        f"Median cosine between the weights of an MLP unit of A and its partner in B: {number(matched)}; matched with the rest of B in random order {number(null)}. "
        "A partner is a best fit, not proof of the same job.",
        views, tables.units(r),
        f"Left and middle: cosine between all weights of the first {r.unit_cosine.shape[-1]} units of A and of B, in B’s own order and in A’s (weight matching). "
        "Right: cosine of each unit with its partner against the best other unit of B; grey: partners when the rest of B is in random order.",
        f"Two heat maps and a histogram; the matched diagonal has median cosine {number(matched)}, by chance {number(null)}.", wide=True,
    )


def drawing(r, space: str, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=56, r=14, t=26, b=42), height=344)
    before, after = r.unit_cosine[r.unit_spaces.index(space)]
    n = int(np.isfinite(after[0]).sum())
    high = float(np.nanmax(np.abs(after)))
    word = "channel" if space == "resid" else "unit"
    fig.update_layout(
        xaxis=dict(domain=[0, 0.27], title=f"{word} of B, its own order", range=[-0.5, n - 0.5], nticks=4), yaxis=dict(title=f"{word} of A", range=[n - 0.5, -0.5], nticks=5),
        xaxis2=dict(domain=[0.31, 0.58], anchor="y2", title=f"{word} of B, partner of A’s", range=[-0.5, n - 0.5], nticks=4), yaxis2=dict(anchor="x2", range=[n - 0.5, -0.5], showticklabels=False),
        xaxis3=dict(domain=[0.73, 1], anchor="y3", title="cosine of weights"), yaxis3=dict(anchor="x3", title=f"{word}s", showgrid=True))
    for z, axes, bar in ((before, ("x", "y"), None), (after, ("x2", "y2"), dict(title=dict(text="cosine", side="right"), x=0.585, len=1.0, nticks=5))):
        plots.heat(fig, theme, z[:n, :n], axes=axes, low=-high, high=high, scale=theme.diverging, bar=bar, gap=0, hover="A %{y}, B place %{x}<br>cosine %{z:.3f}")
    own = r.fit_space == space
    rows = ((r.fit_null[own], theme.null_line, "by chance"), (r.fit_other[own], theme.quiet, "best other"), (r.fit_cosine[own], theme.more[0], "partner"))
    low, top = min(float(np.nanmin(v)) for v, _, _ in rows), max(float(np.nanmax(v)) for v, _, _ in rows)
    edges = np.linspace(low, top + 1e-9, 31)
    for values, hue, name in rows:
        counts, _ = np.histogram(values, edges)
        style = dict(line=dict(color=hue, width=2, shape="hvh", dash="dash" if name == "by chance" else "solid"), fill="tozeroy" if name == "partner" else None)
        fig.add_trace(go.Scatter(x=(edges[:-1] + edges[1:]) / 2, y=counts, mode="lines", xaxis="x3", yaxis="y3", name=name, hovertemplate=f"{name}: %{{y}} at %{{x:.2f}}<extra></extra>", **style))
    marks = f'<span style="color:{theme.more[0]}">━</span> partner  <span style="color:{theme.quiet}">━</span> best other  <span style="color:{theme.null_line}">┅</span> by chance'
    plots.note(fig, theme, marks, 1.0, 1.0, color=theme.text, xanchor="right", yanchor="bottom", yshift=4)
    return fig


def head_maps(r, theme: Theme) -> go.Figure:
    """Cosine between the weights of every group of heads of A and of B, block by block; partners outlined."""
    shown = list(range(len(r.head_cosine)))[:12]
    fig = figure(theme, margin=dict(l=40, r=76, t=26, b=42), height=344)
    n, columns = r.head_cosine.shape[1], min(6, len(shown))
    rows = -(-len(shown) // columns)
    low, high, layout, shapes = float(r.head_cosine.min()), float(r.head_cosine.max()), {}, []
    for i in shown:
        suffix = "" if i == 0 else str(i + 1)
        column, row = i % columns, i // columns
        width, height = 1 / columns, 1 / rows
        x0, top = column * width, 1 - row * height
        layout[f"xaxis{suffix}"] = dict(domain=[x0, x0 + 0.82 * width], anchor=f"y{suffix}", range=[-0.5, n - 0.5], nticks=4, title="head of B" if n > 1 and row == rows - 1 else "")
        layout[f"yaxis{suffix}"] = dict(domain=[top - 0.86 * height, top - 0.06 * height], anchor=f"x{suffix}", range=[n - 0.5, -0.5], nticks=4, title="head of A" if column == 0 else "")
        axes = (f"x{suffix}", f"y{suffix}")
        bar = dict(title=dict(text="cosine", side="right"), nticks=5) if i == 0 else None
        plots.heat(fig, theme, r.head_cosine[i], axes=axes, low=low, high=high, bar=bar, hover=f"block {i}: head %{{y}} of A, %{{x}} of B<br>cosine %{{z:.3f}}")
        shapes += [dict(type="rect", x0=h - 0.5, x1=h + 0.5, y0=g - 0.5, y1=g + 0.5, xref=axes[0], yref=axes[1], fillcolor="rgba(0,0,0,0)", line=dict(color="#FFFFFF", width=2))
                   for g, h in enumerate(r.head_partner[i])]
        plots.note(fig, theme, f"block {i}", x0, top - 0.06 * height, color=theme.text, xanchor="left", yanchor="bottom", yshift=1)
    fig.update_layout(**layout)
    plots.add(fig, shapes=shapes)
    return fig
