"""Cards that show the images: regions on the plane through three of them, distances between codes, images that share one."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.hash_codes_lab import tables, words
from analysis.hash_codes_lab.measure import STATES
from analysis.theme import Theme, figure
from metrics import regions

GRID = 161  # points along a side, for colours only; boundaries are exact
MARGIN = 0.25  # around the three images, of their distance
GROUPS = 8


def plane_card(run) -> Figure:
    r = run.result
    one, two = (words.lines(r, "trained", kind) for kind in ("one class", "two classes"))
    before = words.lines(r, "untrained", "two classes")
    cuts = {state: _cut(run, state) for state in STATES}
    count = {state: len(found.polygons) for state, (_, found, *_) in cuts.items()}
    images = ", ".join(f"{i} ({r.y_test[i]})" for i in _chosen(run))
    return Figure(
        "regions_on_a_plane", "Linear regions on the plane through three test images",
        f"{count['trained']:,} regions in this window, {count['untrained']:,} before training; every line is where a unit turns on or off. On straight lines between two test images lie {one[0]:.1f} regions "
        f"within a class, {two[0]:.1f} between classes (untrained {before[0]:.1f}). Another plane of the same network looks different.",
        {state: partial(plane, run, cuts[state]) for state in STATES[::-1]}, r.lines,
        f"Exact linear regions of one network of width {r.focus} on the plane through the test images {images}. Colour: Hamming distance of each point's code to that of the first image; "
        f"white: where the predicted class changes. Data: regions along lines between {len(r.lines) // max(1, 2 * 2 * run.params.repeats):,} pairs of test images of either kind.",
        f"Plane cut by {count['trained']:,} polygons, three images marked.", height=420,
    )


def _chosen(run) -> list[int]:
    """Three test images: those asked for, else the first ones."""
    n = len(run.result.x_test)
    wanted = [i for i in dict.fromkeys(run.params.plane) if i < n][:3]
    return (wanted + [i for i in range(n) if i not in wanted])[:3]


def _cut(run, state: str) -> tuple:
    """(network on the plane, regions, corners [3, 2], window's low and high corner)."""
    r = run.result
    layers = [tuple(map(np.asarray, layer)) for layer in r.layers[state]]
    flat = r.x_test.reshape(len(r.x_test), -1)
    origin, u, v, corners = regions.through(*(flat[i] for i in _chosen(run)))
    low, high = corners.min(0), corners.max(0)
    pad = MARGIN * max(high - low)
    low, high = low - pad, high + pad
    window = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
    return regions.restricted(layers, origin, u, v), regions.on_plane(layers, origin, u, v, window), corners, low, high


def plane(run, cut: tuple, theme: Theme) -> go.Figure:
    r, (layers, found, corners, low, high) = run.result, cut
    xs, ys = (np.linspace(low[k], high[k], GRID) for k in (0, 1))
    points = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    distance = (regions.code(layers, points) != regions.code(layers, corners[:1])).sum(1).reshape(GRID, GRID)
    logits = regions.output(layers, points)
    classes = logits.argmax(1).reshape(GRID, GRID)
    fig = figure(theme, margin=dict(l=44, r=14, t=14, b=84), height=420)
    most = max(int(distance.max()), 1)
    fig.add_trace(go.Heatmap(z=distance, x=xs, y=ys, zmin=0, zmax=most, colorscale=theme.sequential, xgap=0, ygap=0, customdata=classes, zsmooth=False,
                             colorbar=plots.horizontal_bar(theme, "bits from the code of the first image", 0.37, [0, most // 2, most] if most > 1 else [0, 1]),
                             hovertemplate="%{z} bits from the first image<br>predicted %{customdata}<extra></extra>"))
    for k in np.unique(classes):
        fig.add_trace(go.Contour(z=(classes == k).astype(float), x=xs, y=ys, showscale=False, hoverinfo="skip", contours=dict(start=0.5, end=0.5, size=1, coloring="none"), line=dict(color="#FFFFFF", width=2.5)))
    for layer in range(len(layers) - 1):
        edges = found.edges[found.made_by[:, 0] == layer]
        if len(edges):
            x, y = (np.insert(edges[:, :, k].astype(object), 2, None, axis=1).ravel() for k in (0, 1))
            fig.add_trace(go.Scatter(x=x, y=y, mode="lines", line=dict(color="rgba(10,16,24,.55)", width=1.0 if layer == 0 else 0.6), hoverinfo="skip"))
    for k in np.unique(classes):
        where = points[(classes == k).ravel()]
        spot = where[np.abs(where - np.median(where, 0)).sum(1).argmin()]
        plots.note(fig, theme, f"<b>{k}</b>", spot[0], spot[1], ref=("x", "y"), color="#FFFFFF")
    fig.add_trace(go.Scatter(x=corners[:, 0], y=corners[:, 1], mode="markers+text", marker=dict(size=11, color=theme.a, line=dict(color="#FFFFFF", width=2)), text=list("123"), textposition="top center",
                             textfont=dict(color="#FFFFFF", size=theme.size + 1), hoverinfo="skip"))
    fig.update_layout(xaxis=dict(domain=[0, 0.74], title="distance along the plane, in pixels’ units", range=[low[0], high[0]], constrain="domain"),
                      yaxis=dict(range=[low[1], high[1]], scaleanchor="x", constrain="domain"))
    for k, i in enumerate(_chosen(run)):
        _thumbnail(fig, theme, r.x_test[i].mean(0), f"{k + 1}: image {i}, a {r.y_test[i]}", k)
    return fig


def _thumbnail(fig: go.Figure, theme: Theme, image: np.ndarray, text: str, k: int) -> None:
    top = 1 - k * 0.35
    axes = (f"x{k + 2}", f"y{k + 2}")
    fig.add_trace(go.Heatmap(z=image[::-1], colorscale=_ink(theme), zmin=0, zmax=max(float(image.max()), 1e-6), showscale=False, xaxis=axes[0], yaxis=axes[1], hoverinfo="skip", xgap=0, ygap=0))
    hidden = dict(visible=False)
    fig.update_layout({f"xaxis{k + 2}": dict(domain=[0.8, 1.0], anchor=axes[1], constrain="domain", **hidden), f"yaxis{k + 2}": dict(domain=[top - 0.24, top], anchor=axes[0], scaleanchor=axes[0], constrain="domain", **hidden)})
    plots.note(fig, theme, text, 0.9, top - 0.25, xanchor="center", yanchor="top")


def _ink(theme: Theme) -> list:
    return [[0, "rgba(0,0,0,0)"], [1, theme.text]]


def distances_card(run) -> Figure:
    r = run.result
    mean = lambda state, kind: float(np.average(np.arange(r.pairs.shape[2]), weights=r.pairs[state, kind]) if r.pairs[state, kind].sum() else np.nan)
    constant = int(((r.on_fraction[1] == 0) | (r.on_fraction[1] == 1)).sum())
    return Figure(
        "distances", "Distances between codes, and how bits are used", f"Two test images of one class differ in {mean(1, 0):.1f} of {r.n_bits:,} bits, of two classes in {mean(1, 1):.1f}; random hyperplanes: {mean(2, 0):.1f} and {mean(2, 1):.1f}. "
        f"{constant:,} bits are constant on the training images.",
        {"trained": partial(distances, r, 1), "untrained": partial(distances, r, 0), "bit use": partial(bit_use, r)}, tables.distances(r),
        f"Hamming distances of {int(r.pairs[1, 0].sum()):,} pairs of test images of one class and {int(r.pairs[1, 1].sum()):,} of two, one network of width {r.focus}. Grey: random hyperplanes with as many bits.",
        "Histograms of Hamming distance within and between classes.",
    )


def distances(r, state: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=34, b=42), height=344)
    step = max(1, r.n_bits // 100)
    top = int(np.flatnonzero(r.pairs.sum((0, 1)))[-1]) + 1 if r.pairs.any() else 1
    for kind, (color, dash, name) in enumerate(((theme.a, None, "one class"), (theme.a, "dot", "two classes"))):
        for which, (c, width) in ((2, (theme.null_line, 1.2)), (state, (color, 2))):
            counts = r.pairs[which, kind][: top + 1]
            counts = np.add.reduceat(counts, np.arange(0, len(counts), step))
            fig.add_trace(go.Scatter(x=np.arange(len(counts)) * step, y=100 * counts / max(counts.sum(), 1), mode="lines", line=dict(color=c, width=width, dash=dash, shape="hvh"),
                                     name=name, hovertemplate=f"{'hyperplanes' if which == 2 else STATES[state]}, {name}<br>%{{x}} bits: %{{y:.1f}} %<extra></extra>"))
    plots.note(fig, theme, f'<span style="color:{theme.a}">─</span> one class&nbsp;&nbsp;<span style="color:{theme.a}">┄</span> two classes&nbsp;&nbsp;<span style="color:{theme.null_line}">─</span> random hyperplanes',
               0, 1, color=theme.text, xanchor="left", yanchor="bottom", yshift=6)
    fig.update_layout(xaxis=dict(title=f"Hamming distance, of {r.n_bits:,} bits"), yaxis=dict(title="pairs, %", rangemode="tozero", showgrid=True))
    return fig


def bit_use(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=34, b=42), height=344)
    for state, (color, dash) in enumerate(((theme.quiet, "dot"), (theme.a, None))):
        values = np.sort(r.on_fraction[state])[::-1]
        fig.add_trace(go.Scatter(x=np.arange(1, len(values) + 1), y=100 * values, mode="lines", line=dict(color=color, width=2, dash=dash), hovertemplate=f"{STATES[state]}, rank %{{x}}<br>on for %{{y:.1f}} %<extra></extra>"))
    plots.note(fig, theme, f'<span style="color:{theme.a}">─</span> trained&nbsp;&nbsp;<span style="color:{theme.quiet}">┄</span> untrained', 0, 1, color=theme.text, xanchor="left", yanchor="bottom", yshift=6)
    fig.update_layout(xaxis=dict(title="units, by how often they are on"), yaxis=dict(title="on for training images, %", range=[0, 102], showgrid=True))
    return fig


def shared_card(run, rows) -> Figure:
    r = run.result
    sizes, purity = np.array(r.shared["size"]), np.array(r.shared["purity"])
    if len(sizes):
        found = float((sizes * purity).sum() / sizes.sum())
        reading = (f"{sizes.sum():,} of {r.n_train:,} training images share their code with others, in {len(sizes):,} groups; {100 * found:.0f} % have the class of most of their group "
                   f"(shuffled labels: {100 * r.shared_null[0]:.0f} %, {100 * r.shared_null[1]:.0f}–{100 * r.shared_null[2]:.0f}).")
    else:
        reading = f"No two of {r.n_train:,} training images share a code at width {r.focus}."
    return Figure(
        "shared_codes", "Training images that share a code", reading, {"": partial(shared, r)}, r.shared,
        f"The largest groups of training images with one code, in one network of width {r.focus}; up to eight of each. Share of the majority class, and what shuffled labels give.",
        f"Rows of images with equal codes; {len(sizes):,} groups.",
    )


def shared(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=118, r=14, t=14, b=14), height=344)
    n = min(GROUPS, len(r.shared_images))
    fig.update_layout(xaxis=dict(visible=False, constrain="domain"), yaxis=dict(visible=False, scaleanchor="x", autorange="reversed", constrain="domain"))
    if n == 0:
        plots.note(fig, theme, "every image has a code of its own", 0.5, 0.5)
        return fig
    members, height, width = r.shared_images.shape[1:]
    gap = max(1, height // 8)
    canvas = np.full((n * (height + gap), members * (width + gap)), np.nan)
    for i in range(n):
        for j in range(members):
            canvas[i * (height + gap) : i * (height + gap) + height, j * (width + gap) : j * (width + gap) + width] = r.shared_images[i, j]
    fig.add_trace(go.Heatmap(z=canvas, colorscale=_ink(theme), zmin=0, zmax=1, showscale=False, hoverinfo="skip", xgap=0, ygap=0))
    texts = [plots.text_at(theme, f"{r.shared['size'][i].as_py()} images, {100 * r.shared['purity'][i].as_py():.0f} % a {r.shared['majority'][i].as_py()}", -1.5 * gap, i * (height + gap) + height / 2,
                           ref=("x", "y"), xanchor="right", color=theme.text) for i in range(n)]
    plots.add(fig, texts)
    return fig
