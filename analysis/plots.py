"""Pieces that figures share: keys, marks, axes, maps. Each takes the figure and the Theme; units and words come from the caller.

Bars start at zero on a linear axis; a log axis gets dots with intervals. A pair is joined by a thin grey line. A null is a
grey band, a removed block an empty row or column with the word in it.
"""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from analysis.theme import Theme, symbol

NARROW = "\u202f"  # thin space between thousands
MARK = {"circle": "●", "diamond": "◆", "square": "■", "triangle-up": "▲", "x": "✕", "cross": "✚"}


def number(x: float, digits: int = 3) -> str:
    """Three significant digits, thousands separated, a true minus: 0.0213, 2.41, 1,230, −0.5."""
    if x is None or not math.isfinite(x):
        return "–"
    if x == 0:
        return "0"
    if abs(x) < 1e-4:
        return f"{x:.{digits - 1}e}".replace("-", "−")
    places = max(0, digits - 1 - math.floor(math.log10(abs(x)) + 1e-12))
    return f"{x:,.{places}f}".replace("-", "−")


def interval(low: float, high: float) -> str:
    return f"{number(low)}\u2060–\u2060{number(high)}"


def note(fig: go.Figure, theme: Theme, text: str, x, y, **more) -> None:
    """One piece of text; see `text_at`."""
    add(fig, [text_at(theme, text, x, y, **more)])


def text_at(theme: Theme, text: str, x, y, *, ref=("paper", "paper"), color: str | None = None, **more) -> dict:
    """A piece of text as plotly takes it; `ref` are axis names."""
    return {**dict(text=text, x=x, y=y, xref=ref[0], yref=ref[1], showarrow=False, font=dict(size=theme.size, color=color or theme.axis)), **more}


def add(fig: go.Figure, texts: list[dict] = (), shapes: list[dict] = ()) -> None:
    """Texts and shapes all at once: plotly checks the whole list again at every single addition."""
    layout = {}
    if texts:
        layout["annotations"] = [*fig.layout.annotations, *texts]
    if shapes:
        layout["shapes"] = [*fig.layout.shapes, *shapes]
    fig.update_layout(layout, overwrite=True)


def key(fig: go.Figure, theme: Theme, labels: list[str], x: float = 0.0) -> None:
    """● A ◆ B above the plot's upper left; nothing for a single run."""
    if len(labels) > 1:
        marks = [f'<span style="color:{theme.run(label)}">{MARK[symbol(label)]}</span> {label}' for label in labels]
        note(fig, theme, "  ".join(marks), x, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """1, 2, 5 steps inside [low, high]; only powers of ten, or every second or third one, where that would be too many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    inside = lambda ticks: [t for t in ticks if low <= t * 1.0000001 and t <= high * 1.0000001]
    ticks = inside([m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)])
    step = 1
    while len(ticks) > most:
        ticks = inside([10.0**e for e in range(first, last + 1) if e % step == 0])
        step += 1
    return ticks


def log_axis(low: float, high: float, pad: float = 0.08, most: int = 8, clipped: bool = False) -> dict:
    """Axis settings for values in [low, high], with 1-2-5 ticks; `clipped` marks the first tick as “≤”."""
    span = max(math.log10(high / low), 0.3)
    a, b = math.log10(low) - pad * span, math.log10(high) + pad * span
    ticks = log_ticks(10**a, 10**b, most)
    text = [f"{t:g}" if t >= 1e-4 else f"10<sup>−{round(-math.log10(t))}</sup>" for t in ticks]
    if clipped:
        ticks, text = [low, *[t for t in ticks if t > low * 1.5]], [f"≤ {low:g}", *[s for t, s in zip(ticks, text) if t > low * 1.5]]
    return dict(type="log", range=[a, b], tickvals=ticks, ticktext=text, showgrid=True)


def log_floor(values: np.ndarray, low: float = 1e-4) -> tuple[float, bool]:
    """(smallest value to draw, whether anything lies below it): zeros and tiny values sit on a log axis's edge."""
    values = values[np.isfinite(values)]
    return (low, True) if (values < low).any() else (float(values.min()), False)


def dots(fig: go.Figure, theme: Theme, label: str, x, y, *, low=None, high=None, along: str = "x", axes=("x", "y"), hover: str = "",
         custom=None, size: float = 8, **more) -> None:
    """Marks of one run (A a circle, B a diamond) with intervals along x or y; NaN are left out."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    value = x if along == "x" else y
    error = {}
    if low is not None:
        bar = dict(type="data", symmetric=False, array=np.nan_to_num(np.asarray(high) - value), arrayminus=np.nan_to_num(value - np.asarray(low)),
                   color=theme.run(label), thickness=1.5, width=0)
        error = {f"error_{along}": bar}
    mark = dict(symbol=symbol(label), size=size, color=theme.run(label), line=dict(width=0))
    fig.add_trace(go.Scatter(**{**dict(x=x, y=y, mode="markers", marker=mark, xaxis=axes[0], yaxis=axes[1], name=label, customdata=custom,
                                       hovertemplate=hover + "<extra></extra>", cliponaxis=False), **error, **more}))


def joins(fig: go.Figure, theme: Theme, starts, ends, axes=("x", "y")) -> None:
    """Thin grey lines from each start (x, y) to its end; pairs with a missing side are left out."""
    x, y = [], []
    for (x0, y0), (x1, y1) in zip(starts, ends):
        if all(map(math.isfinite, (x0, y0, x1, y1))):
            x += [x0, x1, None]
            y += [y0, y1, None]
    fig.add_trace(go.Scatter(x=x, y=y, mode="lines", line=dict(color=theme.quiet, width=1), hoverinfo="skip", xaxis=axes[0], yaxis=axes[1]))


def outline(x: float, y: float, axes=("x", "y"), width: float = 1.0, height: float = 1.0) -> list[dict]:
    """Shapes that mark a cell in data units, so that they scale with the map: dark below, white above."""
    box = dict(type="rect", x0=x - width / 2, x1=x + width / 2, y0=y - height / 2, y1=y + height / 2, xref=axes[0], yref=axes[1],
               fillcolor="rgba(0,0,0,0)")
    return [{**box, "line": dict(color="#16202A", width=4)}, {**box, "line": dict(color="#FFFFFF", width=2)}]


def band(fig: go.Figure, theme: Theme, x0: float, x1: float, low: float, high: float, axes=("x", "y")) -> None:
    """The null: a grey band with a dashed line at zero."""
    fig.add_shape(type="rect", x0=x0, x1=x1, y0=low, y1=high, xref=axes[0], yref=axes[1], fillcolor=theme.null_fill, line_width=0, layer="below")
    fig.add_shape(type="line", x0=x0, x1=x1, y0=0, y1=0, xref=axes[0], yref=axes[1], line=dict(color=theme.null_line, width=1.5, dash="dash"), layer="below")


def dashed(fig: go.Figure, theme: Theme, x: float, axes=("x", "y domain")) -> None:
    """A vertical reference line in the grey of nulls and controls."""
    fig.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, xref=axes[0], yref=axes[1], line=dict(color=theme.null_line, width=1.5, dash="dash"), layer="below")


def heat(fig: go.Figure, theme: Theme, z: np.ndarray, *, axes=("x", "y"), scale=None, low=None, high=None, bar: dict | None = None, hover: str = "",
         custom=None, gap: float = 1, text=None) -> None:
    """A heat map on integer positions; NaN cells stay empty."""
    fig.add_trace(go.Heatmap(z=np.where(np.isfinite(z), z, np.nan), zmin=low, zmax=high, colorscale=scale or theme.sequential, xgap=gap, ygap=gap,
                             xaxis=axes[0], yaxis=axes[1], colorbar=bar, showscale=bar is not None, customdata=custom, hoverongaps=False,
                             hovertemplate=hover + "<extra></extra>"))


def horizontal_bar(theme: Theme, title: str, centre: float, ticks: list, texts: list | None = None, length: float = 0.34) -> dict:
    """A colour bar below a map; at most .40 long, or two neighbours' end labels collide."""
    return dict(orientation="h", x=centre, xanchor="center", y=0, yanchor="top", ypad=44, len=length, thickness=8, tickvals=ticks,
                ticktext=texts or [f"{t:g}" for t in ticks], title=dict(text=title, side="bottom"), xpad=0)


def ticks(labels: list, most: int = 13) -> dict:
    """Axis settings for integer positions 0 … n−1 with these labels; every second, third, … where there are many."""
    step = math.ceil(len(labels) / most)
    at = list(range(0, len(labels), step))
    return dict(tickmode="array", tickvals=at, ticktext=[str(labels[i]) for i in at], range=[-0.5, len(labels) - 0.5])


def ink(value: float, low: float, high: float) -> str:
    """Text on a Cividis cell: white below 57 % of the scale, ink above."""
    return "#FFFFFF" if value < low + 0.57 * (high - low) else "#16202A"


def apart(values: list[float], gap: float) -> list[float]:
    """Positions as near to `values` as they can be with at least `gap` between neighbours, in the same order: labels of lines
    that end close to each other."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[list[float]] = []  # [sum, count] of value minus its rank's share; neighbours that would collide are merged
    for rank, i in enumerate(order):
        groups.append([values[i] - rank * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, count = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + count]
    flat = [total / count for total, count in groups for _ in range(count)]
    out = [0.0] * len(values)
    for rank, i in enumerate(order):
        out[i] = flat[rank] + rank * gap
    return out


def label_sides(x: np.ndarray, y: np.ndarray, more: np.ndarray, width: float, height: float) -> list[tuple[str, int, int]]:
    """(anchor, shift x, shift y) in px for a short label at each point, in unit coordinates of a plot of that size in px, so
    that it covers neither points, nor the `more` points [n, 2], nor labels already placed."""
    points = np.concatenate([np.stack([x, y], 1), more.reshape(-1, 2)]) * (width, height)
    sides = (("left", 8, 0), ("right", -8, 0), ("center", 0, 12), ("center", 0, -12))
    centres = np.array([(14, 0), (-14, 0), (0, 12), (0, -12)])
    placed, out = [], []
    for i in range(len(x)):
        spots = points[i] + centres
        taken = np.concatenate([np.delete(points, i, 0), np.array(placed).reshape(-1, 2)])
        away = np.abs(spots[:, None] - taken[None]) / (18, 13)  # a label is about 18 by 13 px
        crowd = (1.0 / (0.05 + away.max(2).clip(max=1.5))).max(1) if len(taken) else np.zeros(4)
        best = int(np.argmin(np.round(crowd, 3)))
        placed.append(spots[best])
        out.append(sides[best])
    return out
