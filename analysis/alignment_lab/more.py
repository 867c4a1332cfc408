"""The cards about sweeps, spectra and inputs, single units, and three networks."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.alignment_lab import tables
from analysis.alignment_lab.pairs import FEW
from analysis.alignment_lab.triple import ORDERS
from analysis.contract import Figure
from analysis.order_marks import SYMBOLS, color, key
from analysis.plots import number
from analysis.theme import Theme, figure
from metrics.permutation.singular import GAMMAS


def sweep_card(r, g: int) -> Figure:
    wide = r.width_barrier.mean(1)
    return Figure(
        "sweeps", "Width and training time",
        f"By weights the barrier goes from {number(wide[0, 1])} nats at width {r.widths[0]} to {number(wide[-1, 1])} at {r.widths[-1]} (as they are {number(wide[0, 0])} to {number(wide[-1, 0])}). Before training there is nothing to lose and no barrier.",
        {"width": partial(sweep, r, "width", None), "epochs": partial(sweep, r, "epoch", None), "R by width": partial(sweep, r, "width", g), "R by epoch": partial(sweep, r, "epoch", g)}, tables.sweeps(r),
        "Barrier at the midpoint on test images, and R, of pairs of each width after all epochs and of the chosen width on the way. Lines: means of pairs; bars: their range.",
        "Lines of the midpoint barrier over width: " + "; ".join(f"{m} {number(wide[0, j])} to {number(wide[-1, j])}" for j, m in enumerate(FEW)) + ".",
    )


def sweep(r, axis: str, g: int | None, theme: Theme) -> go.Figure:
    xs, values = (r.widths, r.width_barrier) if axis == "width" else (r.epochs, r.epoch_barrier)
    values = values if g is None else (r.width_r if axis == "width" else r.epoch_r)[..., g]
    fig = figure(theme, margin=dict(l=56, r=14, t=44, b=42), height=344)
    fig.update_layout(xaxis=dict(title="width, units a layer" if axis == "width" else "epochs", **plots.ticks(xs.tolist())), yaxis=dict(title="midpoint barrier, nats" if g is None else f"R at γ = {GAMMAS[g]:g}", showgrid=True))
    for j, m in enumerate(FEW):
        mean, low, high = (f(values[:, :, j], 1) for f in (np.mean, np.min, np.max))
        bars = dict(type="data", symmetric=False, array=high - mean, arrayminus=mean - low, color=color(theme, m), thickness=1.2, width=0)
        fig.add_trace(go.Scatter(x=np.arange(len(xs)) + 0.06 * (j - 1), y=mean, mode="lines+markers", error_y=bars, line=dict(color=color(theme, m), width=2), marker=dict(symbol=SYMBOLS[m], size=8, color=color(theme, m)), customdata=xs,
                                 hovertemplate=f"{m}, {axis} %{{customdata}}<br>%{{y:.4g}}<extra></extra>"))
    key(fig, theme, list(FEW))
    return fig


def spectra_card(r) -> Figure:
    gap = 100 * float(np.nanmean(np.abs(r.spectra[0] - r.spectra[1]) / r.spectra[0, :, :1]))
    first = r.along[:, 0] / r.chance
    last = np.array([row[np.isfinite(row)][-1] for row in r.along]) / r.chance
    return Figure(
        "spectra", "Singular values, and the inputs along them",
        f"The two networks’ values differ by {number(gap)} % of the largest on average. Inputs lie {number(float(first.mean()))}× as much as chance along the vector of the largest value, {number(float(last.mean()))}× along that of the smallest.",
        {"values": partial(spectra, r), "inputs": partial(inputs, r)}, tables.vectors(r),
        "First pair. Values: s of each layer against the rank of the vector; A circles, B diamonds. Inputs: E|v · x| / ‖x‖ of A’s right singular vectors over test images, against s; dashed: a random direction.",
        f"Spectra of two networks; mean difference {number(gap)} % of s_max.",
    )


def _panels(r, fig: go.Figure, theme: Theme, x: str, y: str) -> None:
    n, layout = r.spectra.shape[1], {}
    for p in range(n):
        suffix, width = str(p + 1) if p else "", 1 / n
        layout |= {f"xaxis{suffix}": dict(domain=[p * width, (p + 1) * width - 0.06], anchor=f"y{suffix}", title=x, nticks=4), f"yaxis{suffix}": dict(anchor=f"x{suffix}", title=y if p == 0 else "", nticks=5, showgrid=True, rangemode="tozero")}
        plots.note(fig, theme, f"layer {p}", p * width, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    fig.update_layout(**layout)


def spectra(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=344)
    _panels(r, fig, theme, "vector", "singular value")
    for p in range(r.spectra.shape[1]):
        for k, label in ((1, "B"), (0, "A")):
            here = np.isfinite(r.spectra[k, p])
            plots.dots(fig, theme, label, np.flatnonzero(here) + 1, r.spectra[k, p][here], axes=(f"x{p + 1}" if p else "x", f"y{p + 1}" if p else "y"), size=5, hover=f"{label}, vector %{{x}}<br>s = %{{y:.4g}}")
    return fig


def inputs(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=344)
    _panels(r, fig, theme, "singular value", "E|v · x| / ‖x‖")
    for p in range(r.spectra.shape[1]):
        axes = (f"x{p + 1}" if p else "x", f"y{p + 1}" if p else "y")
        here = np.isfinite(r.along[p])
        plots.dots(fig, theme, "A", r.spectra[0, p][here], r.along[p][here], axes=axes, size=5, hover="s = %{x:.4g}<br>%{y:.4g}")
        plots.add(fig, shapes=[dict(type="line", x0=0, x1=float(np.nanmax(r.spectra[0, p])), y0=r.chance[p], y1=r.chance[p], xref=axes[0], yref=axes[1], line=dict(color=theme.null_line, width=1.5, dash="dash"))])
    return fig


def units_card(r) -> Figure:
    diagonal = r.units.diagonal(axis1=2, axis2=3).mean((0, 2))
    return Figure(
        "units", "Units before and after", f"The weights of unit i of A and of the unit of B in its place have a cosine of {number(float(diagonal[0]))} on average before, {number(float(diagonal[1]))} in the order by weights.",
        {f"layer {s}": partial(units, r, s) for s in range(len(r.units))}, tables.units(r),
        "Cosine between all weights of units, incoming and outgoing with the other layers in order, of A (rows) and B (columns): in B’s own order (left) and by weights (right). First pair.",
        f"Two heat maps; the mean of the diagonal is {number(float(diagonal[0]))} and {number(float(diagonal[1]))}.",
    )


def units(r, space: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=44, r=76, t=26, b=42), height=344)
    n, high = r.units.shape[-1], float(np.abs(r.units).max())
    fig.update_layout(xaxis=dict(domain=[0, 0.47], title="unit of B, its own order", constrain="domain"), yaxis=dict(range=[n - 0.5, -0.5], title="unit of A"),
                      xaxis2=dict(domain=[0.53, 1], anchor="y2", title="unit of B, by weights"), yaxis2=dict(anchor="x2", range=[n - 0.5, -0.5], showticklabels=False))
    for k, axes in enumerate((("x", "y"), ("x2", "y2"))):
        plots.heat(fig, theme, r.units[space, k], axes=axes, low=-high, high=high, scale=theme.diverging, gap=0, bar=dict(title=dict(text="cosine", side="right"), nticks=5) if k else None, hover="A %{y}, place %{x}<br>%{z:.3f}")
    return fig


def triangle_card(r) -> Figure:
    middle = int(np.abs(r.corner_weights - 1 / 3).sum(1).argmin())
    pair = [float(np.nanmean(t)) for t in r.pair_barrier]
    return Figure(
        "triangle", "Mixtures of three networks",
        f"Near equal shares the loss is {', '.join(f'{number(float(r.corner_loss[k, middle]))} nats {o}' for k, o in enumerate(ORDERS))}. The pair without the first: {number(float(r.pair_barrier[1, 1, 2]))} to the first, {number(float(r.pair_barrier[2, 1, 2]))} by MergeMany. "
        f"Round the three, {100 * r.cycle:.0f} % of units end elsewhere.",
        {o: partial(triangle, r, k) for k, o in enumerate(ORDERS)}, tables.triangle(r),
        f"Test loss of weighted means of three networks in nats; corners are the networks. One colour scale. Mean barrier of the pairs: {', '.join(f'{number(x)} {o}' for x, o in zip(pair, ORDERS))}.",
        f"Triangle of {len(r.corner_weights)} mixtures; loss from {number(float(r.corner_loss.min()))} to {number(float(r.corner_loss.max()))} nats.",
    )


def triangle(r, order: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=14, r=86, t=26, b=26), height=344)
    w, loss = r.corner_weights, r.corner_loss[order]
    fig.update_layout(xaxis=dict(visible=False, range=[-0.12, 1.12]), yaxis=dict(visible=False, range=[-0.12, 1.0], scaleanchor="x"))
    marks = dict(symbol="hexagon2", size=26, color=loss, colorscale=theme.sequential, cmin=float(r.corner_loss.min()), cmax=float(r.corner_loss.max()), showscale=True, colorbar=dict(title=dict(text="test loss, nats", side="right"), thickness=8, outlinewidth=0))
    fig.add_trace(go.Scatter(x=w[:, 1] + 0.5 * w[:, 2], y=w[:, 2] * 3**0.5 / 2, mode="markers", marker=marks, customdata=np.column_stack([100 * w, loss]), cliponaxis=False,
                             hovertemplate="%{customdata[0]:.0f} %, %{customdata[1]:.0f} %, %{customdata[2]:.0f} %<br>%{customdata[3]:.4g} nats<extra></extra>"))
    for word, at in zip(("1", "2", "3"), ((-0.09, -0.05), (1.09, -0.05), (0.5, 0.96))):
        plots.note(fig, theme, f"<b>{word}</b>", *at, ref=("x", "y"), color=theme.text)
    return fig
