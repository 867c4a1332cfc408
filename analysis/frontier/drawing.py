"""The plane: size across, distance up, the front as a stepped line; operators by shape and by colours that are neither A's nor B's."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from analysis import plots
from analysis.contract import Figure
from analysis.frontier import words
from analysis.frontier.orders import Order, orders
from analysis.frontier.points import COMBINED, MEASURES, UNITS, Point, healings, on_front
from analysis.plots import number
from analysis.theme import Theme, figure

SYMBOLS = ("circle", "square", "triangle-up", "star", "hexagon", "pentagon", "cross", "triangle-down", "star-square")
LEAST = (1e-6, 1e-6, 1e-3, None)  # below these a log axis has no room; the ratio of perplexities is linear
HEIGHT, ROW = 452, 20


def figures(points: list[Point], families: tuple[str, ...], chosen: str | None) -> list[Figure]:
    front = on_front(points)
    nulls = any(np.isfinite(p.null[0]) for p in points)
    reading = (f"Lower left is better. The line joins the {len(front)} of {len(points)} recipes that nothing smaller beats"
               + ("; a grey square is what random noise as large as a recipe’s change costs." if nulls else ".") + " It says nothing of texts unlike this one.")
    healed = len(healings(points))
    if healed:
        reading += f" Open marks were healed after compressing; a thin line joins {'them' if healed > 1 else 'it'} to the same recipe before."
    links = {p.written: f"compression_cost?a={p.subject}&b={p.written}&corpus={p.corpus}" for p in points}
    cards = [Figure(
        "frontier", "Size against distance", reading, {name: partial(plane, points, families, chosen, i) for i, name in enumerate(MEASURES)}, table(points),
        f"Stored size and distance to A of {len(points)} recipes on {points[0].n_tokens:,} tokens of {points[0].corpus}. Bars: range over calibration seeds, or with one "
        "seed the 95 % bootstrap interval over sequences. Line: Pareto front." + (" Grey squares: A with Gaussian noise of the norm of each recipe’s change." if nulls else "")
        + (" Open marks: healed; thin lines lead to the same recipe without its healing step." if healed else ""),
        f"Scatter of {len(points)} recipes. On the front, from small to large: " + "; ".join(
            f"{p.label}, {words.megabytes(p.n_bytes)}, {words.nats(p.measures[0, 0])} nats" for p in front[:12]) + ".",
        height=HEIGHT + ROW * (legend_rows(points) - 1), wide=True, links=links,
    )]
    found = orders(points)
    return [*cards, _orders_card(found)] if found else cards


# ---- orders that papers report


def _orders_card(found: list[Order]) -> Figure:
    counts = {word: sum(o.verdict == word for o in found) for word in ("holds", "not shown", "reversed")}
    told = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    height = max(120, 64 + 38 * len(found))
    return Figure(
        "orders", "Do the orders that papers report hold here?",
        f"Left of the dashed line they do: {told}, of {len(found)} pair{'s' * (len(found) > 1)} that store as much. Where the interval crosses it, this model and text do not show the order.",
        {"": partial(order_dots, found, height)}, order_table(found),
        "KL of the recipe that papers report closer minus KL of the other, nats per token, on the same tokens; 95 % bootstrap intervals over sequences, calibration seeds together. "
        "Scale: symmetric square root, so that small differences are seen beside large ones.",
        "; ".join(f"{o.closer} against {o.farther}: {number(o.difference[0])} nats, {o.verdict}" for o in found) + ".", height=height, wide=True,
    )


def order_dots(found: list[Order], height: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=292, r=84, t=8, b=46), height=height)
    values = np.array([o.difference for o in found])
    squeezed = np.sign(values) * np.sqrt(np.abs(values))
    top = float(np.nanmax(np.abs(squeezed))) or 1e-3
    sides: list[float] = []  # from the largest inwards, as long as labels keep apart in a narrow window
    for size in (2.56, 0.64, 0.16, 0.04, 0.01, 0.0025, 0.0004, 0.0001):
        if np.sqrt(size) <= 1.1 * top and np.sqrt(size) > 0.28 * top and (not sides or np.sqrt(sides[-1]) - np.sqrt(size) > 0.28 * top):
            sides.append(size)
    inside = [*(-t for t in sides), 0.0, *reversed(sides)]
    fig.update_layout(xaxis=dict(title="KL difference, nats/token (square-root scale)", range=[-1.15 * top, 1.15 * top], tickangle=0, tickvals=[float(np.sign(t) * np.sqrt(abs(t))) for t in inside],
                                 ticktext=[f"{t:g}".replace("-", "−") for t in inside], showgrid=True),
                      yaxis=dict(range=[len(found) - 0.5, -0.5], tickvals=list(range(len(found))), ticktext=[f"{o.closer}<br>against {o.farther}" for o in found]))
    plots.dashed(fig, theme, 0.0)
    bars = dict(type="data", symmetric=False, array=np.nan_to_num(squeezed[:, 2] - squeezed[:, 0]), arrayminus=np.nan_to_num(squeezed[:, 0] - squeezed[:, 1]), color=theme.text, thickness=1.5, width=0)
    fig.add_trace(go.Scatter(x=squeezed[:, 0], y=list(range(len(found))), mode="markers", error_x=bars, cliponaxis=False, customdata=values,
                             marker=dict(size=8, color=theme.text, symbol=["circle" if o.verdict == "holds" else "circle-open" if o.verdict == "not shown" else "x" for o in found]),
                             hovertemplate="%{customdata[0]:.4g} nats/token (%{customdata[1]:.4g} to %{customdata[2]:.4g})<extra></extra>"))
    plots.add(fig, [plots.text_at(theme, o.verdict, 1.0, i, ref=("paper", "y"), xanchor="left", xshift=10) for i, o in enumerate(found)])
    return fig


def order_table(found: list[Order]) -> pa.Table:
    return pa.Table.from_pylist([{"closer": o.closer, "farther": o.farther, "bytes": o.n_bytes, "kl_difference_nats": o.difference[0], "low": o.difference[1], "high": o.difference[2],
                                  "verdict": o.verdict, "sequences_and_seeds": o.n} for o in found])


def mark(family: str, families: tuple[str, ...], theme: Theme) -> tuple[str, str]:
    """(symbol, colour) of an operator, the same on every plane; combinations are in ink; never blue, vermilion or grey."""
    if family == COMBINED or family not in families:
        return "bowtie", theme.text
    hues = (*theme.more[:3], theme.text)
    at = families.index(family)
    return SYMBOLS[at % len(SYMBOLS)], hues[at % len(hues)]


def plane(points: list[Point], families: tuple[str, ...], chosen: str | None, measure: int, theme: Theme) -> go.Figure:
    rows = legend_rows(points)
    fig = figure(theme, margin=dict(l=72, r=24, t=24 + ROW * rows, b=46), height=HEIGHT + ROW * (rows - 1), showlegend=True, legend=_legend(theme))
    values = np.array([p.measures[measure] for p in points])
    floor = LEAST[measure]
    shown = values if floor is None else np.maximum(values, floor)
    sizes = np.array([p.n_bytes for p in points]) / 1e6
    size_a = points[0].bytes_a / 1e6
    nulls = np.array([p.null[measure] for p in points])
    smallest, largest = min(sizes.min(), size_a), max(sizes.max(), size_a)
    room = smallest * (smallest / max(largest, 2 * smallest)) ** 0.24  # for the labels left of the smallest points
    fig.update_layout(xaxis=dict(title="stored size, MB (log), with indices, scales and codebooks", **plots.log_axis(room, largest, 0.03, 9)),
                      yaxis=_upright(shown, nulls, measure, floor))
    if np.isfinite(nulls).any():
        _nulls(fig, theme, points, sizes, nulls, measure)
    front = on_front(points, measure)
    line = [(p.n_bytes / 1e6, max(p.measures[measure, 0], floor or 0)) for p in front]
    fig.add_trace(go.Scatter(x=[x for x, _ in line], y=[y for _, y in line], mode="lines", line=dict(shape="hv", color=theme.text, width=1.2), hoverinfo="skip", showlegend=False))
    pairs = [[(p.n_bytes / 1e6, max(p.measures[measure, 0], floor or 0)) for p in pair] for pair in healings(points)]
    if pairs:
        plots.joins(fig, theme, [start for start, _ in pairs], [end for _, end in pairs])
        fig.data[-1].showlegend = False
    for family in dict.fromkeys([*families, COMBINED]):
        at = [i for i, p in enumerate(points) if p.family == family]
        if at:
            _family(fig, theme, family, families, [points[i] for i in at], sizes[at], shown[at], measure)
    fig.add_vline(x=size_a, line=dict(color=theme.a, width=1.5))
    plots.note(fig, theme, "A", np.log10(size_a), 1.0, ref=("x", "paper"), color=theme.a, xanchor="center", yanchor="bottom", yshift=2)
    _labels(fig, theme, points, front, chosen, measure, floor)
    return fig


def legend_rows(points: list[Point]) -> int:
    """Lines of the legend at the width of a paper's page."""
    return -(-(len({p.family for p in points}) + 1) // 6)


def _legend(theme: Theme) -> dict:
    return dict(orientation="h", x=0, y=1.0, xanchor="left", yanchor="bottom", font=dict(size=theme.size, color=theme.text), bgcolor="rgba(0,0,0,0)", itemclick=False, itemdoubleclick=False)


def _upright(shown: np.ndarray, nulls: np.ndarray, measure: int, floor: float | None) -> dict:
    title = f"{('mean KL to A', '99 % quantile of KL to A', 'tokens whose likeliest next token changes', 'perplexity')[measure]}, {UNITS[measure]}"
    if floor is None:
        return dict(title=title, showgrid=True)
    every = np.concatenate([shown.ravel(), nulls[np.isfinite(nulls)]])
    low = max(float(np.nanmin(every)), floor)
    return dict(title=f"{title} (log)", **plots.log_axis(low, max(float(np.nanmax(every)), low * 10), 0.06, 7, bool((shown[:, 0] <= floor).any())))


def _nulls(fig: go.Figure, theme: Theme, points: list[Point], sizes, nulls, measure: int) -> None:
    fig.add_trace(go.Scatter(x=sizes, y=nulls, mode="markers", name="noise of the same size", marker=dict(symbol="square", size=6, color=theme.null_line),
                             text=[p.label for p in points], hovertemplate="noise as large as the change of %{text}<br>%{y:.4g} " + UNITS[measure] + "<extra></extra>"))


def _family(fig: go.Figure, theme: Theme, family: str, families: tuple[str, ...], points: list[Point], x, y, measure: int) -> None:
    symbol, colour = mark(family, families, theme)
    low, high = y[:, 1], y[:, 2]
    bars = dict(type="data", symmetric=False, array=np.nan_to_num(high - y[:, 0]).clip(0), arrayminus=np.nan_to_num(y[:, 0] - low).clip(0), color=colour, thickness=1.2, width=0)
    custom = [[p.written, p.label, 100 * p.n_bytes / p.bytes_a, p.bits_per_weight, *p.measures[measure].tolist(), len(p.seeds)] for p in points]
    fig.add_trace(go.Scatter(
        x=x, y=y[:, 0], mode="markers", name=family, marker=dict(symbol=[f"{symbol}-open" if p.healed else symbol for p in points], size=10, color=colour, line=dict(width=[1.6 if p.healed else 0 for p in points])), error_y=bars, customdata=custom, cliponaxis=False,
        hovertemplate="%{customdata[1]}<br>%{x:.3g} MB, %{customdata[2]:.1f} % of A, %{customdata[3]:.2f} bits per weight"
                      f"<br>%{{customdata[4]:.4g}} {UNITS[measure]} (%{{customdata[5]:.4g}}–%{{customdata[6]:.4g}}), %{{customdata[7]}} made<extra></extra>"))


def _labels(fig: go.Figure, theme: Theme, points: list[Point], front: list[Point], chosen: str | None, measure: int, floor: float | None) -> None:
    """Below and left of each point on the front, where by definition nothing stands; B in a ring of its colour."""
    b = next((p for p in points if chosen in p.seeds), None)
    upright = lambda p: max(p.measures[measure, 0], floor) if floor else p.measures[measure, 0]
    place = lambda p: (np.log10(p.n_bytes / 1e6), np.log10(upright(p)) if floor else upright(p))
    texts, last = [], None
    for p in reversed(front):  # from the lowest right up: a label that would cover the one before it is left to the table
        x, y = place(p)
        if p is not b and (last is None or abs(y - last) > 0.045 * _span(fig)):
            texts.append(plots.text_at(theme, p.label, x, y, ref=("x", "y"), xanchor="right", yanchor="top", xshift=-6, yshift=-2))
            last = y
    if b is not None:
        x, y = place(b)
        fig.add_trace(go.Scatter(x=[b.n_bytes / 1e6], y=[upright(b)], mode="markers", name="B", hoverinfo="skip",
                                 marker=dict(symbol="circle-open", size=20, color=theme.b, line=dict(width=2))))
        texts.append(plots.text_at(theme, f"<b>B</b>, {b.label}", x, y, ref=("x", "y"), color=theme.text, xanchor="right", yanchor="top", xshift=-10, yshift=-6))
    plots.add(fig, texts)


def _span(fig: go.Figure) -> float:
    given = fig.layout.yaxis.range
    if given:
        return given[1] - given[0]
    values = np.concatenate([np.asarray(t.y, float) for t in fig.data if t.y is not None])
    return float(np.nanmax(values) - np.nanmin(values)) or 1.0


def table(points: list[Point]) -> pa.Table:
    """Every point with all measures, by rising size."""
    front = {p.written for p in on_front(points)}
    rows = []
    for p in sorted(points, key=lambda p: p.n_bytes):
        row = {"recipe": p.label, "variant": p.written, "operator": p.family, "healed": p.healed, "on_front": p.written in front, "calibration_seeds": len(p.seeds),
               "bytes": p.n_bytes, "bytes_low": p.bytes_range[0], "bytes_high": p.bytes_range[1], "share_of_a": p.n_bytes / p.bytes_a, "bits_per_weight": p.bits_per_weight}
        for name, values in zip(("mean_kl_nats", "p99_kl_nats", "changed_top1_percent", "perplexity_over_a"), p.measures):
            row |= {name: _plain(values[0]), f"{name}_low": _plain(values[1]), f"{name}_high": _plain(values[2])}
        rows.append(row | {"noise_mean_kl_nats": _plain(p.null[0]), "tokens": p.n_tokens, "corpus": p.corpus})
    return pa.Table.from_pylist(rows)


def _plain(x) -> float | None:
    return float(x) if np.isfinite(x) else None
