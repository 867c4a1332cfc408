"""Figures of one checkpoint: its architecture drawn as blocks, one tensor's histogram and spectrum."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from analysis import plots
from analysis.contract import Figure
from analysis.theme import Theme, figure
from pages.checkpoint.names import in_figure

UP, DOWN = ("attention",), ("mlp", "experts")  # above and below the residual stream; norms and the rest lie on it
ENDS = ("embedding", "position", "final norm", "head", "other")
CUT = 1.25  # an embedding is drawn at most this many times as tall as the tallest part of a block
MOST = 400  # blocks drawn one by one


def count(n: float) -> str:
    """12.3 M, 4.1 k, 640."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= scale:
            return f"{n / scale:.1f} {unit}" if n < 100 * scale else f"{n / scale:.0f} {unit}"
    return f"{n:.0f}"


def architecture(outline: pa.Table, table: pa.Table) -> Figure:
    """Boxes along the residual stream, attention above, MLP below, heights are parameters; largest tensors where no block shows."""
    rows = outline.to_pylist()
    blocks = sorted({r["block"] for r in rows if r["block"] is not None})[:MOST]
    if not blocks:
        return _largest(table)
    sums = {(b, side): sum(r["elements"] for r in rows if r["block"] == b and _side(r["part"]) == side) for b in blocks for side in ("up", "down", "on")}
    outside = [(part, sum(r["elements"] for r in rows if r["block"] is None and r["part"] == part)) for part in ENDS]
    tallest = max(sums.values()) or 1
    alike = len({tuple(sums[b, s] for s in ("up", "down", "on")) for b in blocks}) == 1
    reading = (f"{len(blocks)} blocks, {'all of one size' if alike else 'of different sizes'}: {count(sums[blocks[0], 'up'])} parameters of attention above the stream and "
               f"{count(sums[blocks[0], 'down'])} of MLP below it in block {blocks[0]}.")
    if any(n > CUT * tallest for _, n in outside):
        reading += " Boxes with an open end are cut: they hold what is written on them."
    return Figure(
        "architecture", "How is it built?", reading, {"": partial(_draw_blocks, blocks=blocks, sums=sums, outside=[o for o in outside if o[1]], tallest=tallest)},
        outline, "Parameters by block and part, as stored in the checkpoint; attention above, MLP below the residual stream.",
        f"Boxes along the residual stream: {len(blocks)} blocks with attention above and MLP below, embedding at the left, head at the right.", height=300, wide=True,
    )


def _side(part: str) -> str:
    return "up" if part in UP else "down" if part in DOWN else "on"


def _draw_blocks(theme: Theme, blocks: list, sums: dict, outside: list, tallest: float) -> go.Figure:
    fig = figure(theme, margin=dict(l=64, r=14, t=14, b=44))
    left = [(part, n) for part, n in outside if part in ("embedding", "position")]
    right = [(part, n) for part, n in outside if part not in ("embedding", "position")]
    start, width = len(left), 0.72
    place = {b: start + 0.6 + i for i, b in enumerate(blocks)}
    end = start + len(blocks) + 0.2
    hover = {"x": [], "y": [], "text": []}
    thin = 0.025 * tallest

    def box(x: float, low: float, high: float, fill: str, text: str) -> None:
        fig.add_shape(type="rect", x0=x - width / 2, x1=x + width / 2, y0=low, y1=high, fillcolor=fill, line=dict(width=0), layer="below")
        for name, value in (("x", x), ("y", (low + high) / 2), ("text", text)):
            hover[name].append(value)

    stop = end + len(right) + 0.1
    fig.add_shape(type="line", x0=-0.5, x1=stop, y0=0, y1=0, line=dict(color=theme.axis, width=1.5), layer="above")
    for b in blocks:
        up, down, on = (sums[b, side] for side in ("up", "down", "on"))
        if up:
            box(place[b], thin, thin + up, theme.axis, f"block {b}, attention: {up:,} parameters")
        if down:
            box(place[b], -thin - down, -thin, theme.quiet, f"block {b}, MLP: {down:,} parameters")
        if on:
            box(place[b], -thin * 0.6, thin * 0.6, theme.line, f"block {b}, norms and the rest: {on:,} parameters")
    for i, (part, n) in enumerate([*left, *right]):
        x = i if i < len(left) else end + 0.4 + i - len(left)
        half = min(n, 2 * CUT * tallest) / 2
        half = max(half, thin)
        box(x, -half, half, theme.line, f"{part}: {n:,} parameters")
        if n > 2 * CUT * tallest:
            for y in (-half, half):
                fig.add_shape(type="line", x0=x - width / 2 - 0.06, x1=x + width / 2 + 0.06, y0=y, y1=y, line=dict(color=theme.page, width=4, dash="dot"), layer="above")
        plots.note(fig, theme, count(n), x, 0, ref=("x", "y"), color=theme.text, textangle=-90 if half > 0.5 * tallest else 0, yshift=0 if half > 0.5 * tallest else 14)
    fig.add_trace(go.Scatter(x=hover["x"], y=hover["y"], customdata=hover["text"], mode="markers", marker=dict(size=22, opacity=0), hovertemplate="%{customdata}<extra></extra>"))
    step = -(-len(blocks) // 26)
    ticks = [(i, part) for i, (part, _) in enumerate(left)] + [(place[b], str(b)) for b in blocks[::step]] + [(end + 0.4 + i, part) for i, (part, _) in enumerate(right)]
    extent = max([CUT * tallest if outside else 0, *(n + thin for n in sums.values())]) * 1.2
    magnitudes = _round_steps(tallest)
    fig.update_xaxes(range=[-0.6, stop + 0.1], tickvals=[x for x, _ in ticks], ticktext=[_short(t) for _, t in ticks], title=dict(text="block"))
    fig.update_yaxes(range=[-extent, extent], tickvals=[-m for m in magnitudes[::-1]] + [0] + magnitudes, ticktext=[count(m) for m in magnitudes[::-1]] + ["0"] + [count(m) for m in magnitudes],
                     title=dict(text="parameters"), showgrid=False)
    if blocks:
        plots.note(fig, theme, "attention", place[blocks[0]] - width / 2, extent, ref=("x", "y"), xanchor="left", yanchor="top")
        plots.note(fig, theme, "MLP", place[blocks[0]] - width / 2, -extent, ref=("x", "y"), xanchor="left", yanchor="bottom")
    return fig


def _short(part: str) -> str:
    return {"embedding": "embed", "position": "pos", "final norm": "norm"}.get(part, part)


def _round_steps(tallest: float) -> list[float]:
    power = 10 ** np.floor(np.log10(max(tallest, 1)))
    return [float(m * power) for m in (1, 2, 5) if m * power <= tallest * 1.05][-2:]


def _largest(table: pa.Table) -> Figure:
    rows = sorted(table.select(["name", "elements"]).to_pylist(), key=lambda r: -r["elements"])[:16]

    def draw(theme: Theme) -> go.Figure:
        fig = figure(theme, margin=dict(l=230, r=14, t=8, b=42))
        fig.add_trace(go.Bar(x=[r["elements"] for r in rows], y=list(range(len(rows))), orientation="h", marker=dict(color=theme.quiet),
                             customdata=[in_figure(r["name"], 120) for r in rows], hovertemplate="%{customdata}: %{x:,} elements<extra></extra>"))
        fig.update_yaxes(tickvals=list(range(len(rows))), ticktext=[in_figure(r["name"], 30) for r in rows], autorange="reversed")
        fig.update_xaxes(title=dict(text="elements"), showgrid=True, rangemode="tozero")
        return fig

    return Figure("architecture", "What does it hold?", f"No blocks are recognised in the names; these are the {len(rows)} largest of {table.num_rows:,} tensors.", {"": draw},
                  table, "The largest tensors of the checkpoint by number of elements.", "Bars: elements of the largest tensors.", height=360, wide=True)


def histogram(statistics: dict) -> Figure:
    """Counts of one tensor's elements against a normal distribution of the same mean and standard deviation (grey)."""
    counts, low, high = np.array(statistics["counts"], float), statistics["low"], statistics["high"]
    edges = np.linspace(low, high, len(counts) + 1)
    mean, std, n = statistics["mean"], statistics["std"], counts.sum()
    centres, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    normal = n * width / (std * np.sqrt(2 * np.pi)) * np.exp(-((centres - mean) ** 2) / (2 * std**2)) if std > 0 else np.zeros_like(centres)

    def draw(theme: Theme, log: bool) -> go.Figure:
        fig = figure(theme, margin=dict(l=56, r=14, t=8, b=42))
        if log:
            some = counts > 0
            fig.add_trace(go.Scatter(x=centres[some], y=counts[some], mode="markers", marker=dict(color=theme.a, size=6), hovertemplate="%{x:.3g}: %{y:,} elements<extra></extra>"))
            fig.update_yaxes(**plots.log_axis(1, max(counts.max(), 2)), title=dict(text="elements, log scale"))
        else:
            fig.add_trace(go.Bar(x=centres, y=counts, width=width * 0.92, marker=dict(color=theme.a), hovertemplate="%{x:.3g}: %{y:,} elements<extra></extra>"))
            fig.update_yaxes(title=dict(text="elements"), showgrid=True, rangemode="tozero", nticks=5)
        shown = normal >= (1 if log else 0)
        fig.add_trace(go.Scatter(x=centres[shown], y=normal[shown], mode="lines", line=dict(color=theme.null_line, dash="dash", width=1.5), hoverinfo="skip"))
        fig.update_xaxes(title=dict(text="value"))
        return fig

    kurtosis = statistics["kurtosis"]
    heavy = "heavier" if kurtosis > 0 else "lighter"
    reading = f"Standard deviation {plots.number(std)}, largest magnitude {plots.number(statistics['largest'])}; tails {heavy} than the normal distribution's (dashed), kurtosis {plots.number(kurtosis)}."
    if not std > 0:
        reading = f"Every element is {plots.number(mean)}."
    data = pa.table({"low": edges[:-1], "high": edges[1:], "elements": counts.astype(np.int64), "normal": normal})
    return Figure("histogram", "How are its values distributed?", reading, {"log": partial(draw, log=True), "linear": partial(draw, log=False)}, data,
                  "Histogram of one tensor's elements; dashed, a normal distribution of the same mean and standard deviation.", "Histogram of the elements, with a dashed normal curve.", height=280)


def spectrum(sigma: np.ndarray, effective: float, stable: float, shape: tuple[int, int], std: float) -> Figure:
    """Singular values by rank against the band of a matrix of independent entries with the same spread (Marchenko & Pastur 1967)."""
    rows, columns = shape
    low, high = std * abs(np.sqrt(rows) - np.sqrt(columns)), std * (np.sqrt(rows) + np.sqrt(columns))
    above = int((sigma > high).sum())
    index = np.arange(1, len(sigma) + 1)

    def draw(theme: Theme) -> go.Figure:
        fig = figure(theme, margin=dict(l=56, r=14, t=8, b=42))
        floor = max(sigma[0] * 1e-6, 1e-30)
        fig.add_shape(type="rect", x0=0, x1=1, xref="x domain", y0=max(low, floor), y1=max(high, floor), fillcolor=theme.null_fill, line_width=0, layer="below")
        kept = sigma > floor
        fig.add_trace(go.Scatter(x=index[kept], y=sigma[kept], mode="lines", line=dict(color=theme.a, width=2), hovertemplate="rank %{x}: %{y:.3g}<extra></extra>"))
        bottom = max(float(sigma[kept].min()), floor)
        fig.update_yaxes(**plots.log_axis(min(bottom, max(low, floor)), max(float(sigma[0]), high)), title=dict(text="singular value, log scale"))
        fig.update_xaxes(title=dict(text="rank"))
        return fig

    reading = (f"Effective rank {plots.number(effective)} and stable rank {plots.number(stable)} of {len(sigma):,}; {above:,} singular values lie above the grey band, "
               "where those of independent entries with the same spread would be.")
    data = pa.table({"rank": index, "singular value": sigma})
    return Figure("spectrum", "How many directions does it use?", reading, {"": draw}, data,
                  "Singular values of one matrix; grey, the range of a random matrix with independent entries of the same standard deviation.",
                  "Line of singular values by rank on a log axis over a grey band of the random matrix.", height=280)


def where_weights_differ(difference: pa.Table) -> Figure | None:
    """Relative difference ‖B − A‖ / ‖A‖ of each matrix (rows) in each block (columns); None where no matrix of a block differs."""
    rows = [r for r in difference.to_pylist() if r["block"] is not None and r["relative"] is not None and np.isfinite(r["relative"])]
    if not any(r["relative"] for r in rows):
        return None
    inside = lambda r: re.sub(r"^.*?(?:h|layers?|blocks?|blk)\.\d+\.", "", r["name"])
    parts, blocks = list(dict.fromkeys(inside(r) for r in rows))[:40], sorted({r["block"] for r in rows})
    z = np.full((len(parts), len(blocks)), np.nan)
    for r in rows:
        if inside(r) in parts:
            z[parts.index(inside(r)), blocks.index(r["block"])] = r["relative"]
    top = float(np.nanmax(z))
    peak = np.unravel_index(np.nanargmax(z), z.shape)

    def draw(theme: Theme) -> go.Figure:
        fig = figure(theme, margin=dict(l=190, r=76, t=26, b=42))
        names = [[in_figure(p, 100)] * len(blocks) for p in parts]
        plots.heat(fig, theme, z, low=0.0, high=top, bar=dict(title=dict(text="‖B − A‖ / ‖A‖", side="top"), thickness=8), custom=names, hover="%{customdata}, block %{x}: %{z:.3g}")
        fig.update_yaxes(tickvals=list(range(len(parts))), ticktext=[in_figure(p, 26) for p in parts], range=[len(parts) - 0.5, -0.5])
        fig.update_xaxes(**plots.ticks(blocks, 26), title=dict(text="block"))
        return fig

    reading = f"The largest relative difference is {plots.number(top)}, in block {blocks[peak[1]]}. Zero is no difference; 1.41 is what two unrelated matrices of one norm have."
    return Figure("difference", "Where do the weights differ?", reading, {"": draw}, difference, "Relative difference of each matrix of B from the same matrix of A.",
                  "Heat map of relative weight differences, matrices by blocks.", height=max(240, 20 * len(parts) + 80), wide=True)
