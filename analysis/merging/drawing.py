"""The cards: what each merge loses on each text, and which parent's singular vectors it keeps."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.merging import tables, words
from analysis.plots import number
from analysis.theme import Theme, figure, symbol
from metrics.permutation.singular import GAMMAS

LEFT = 250  # px for names such as average:align=weights,stream=rotated


def figures(runs) -> list[Figure]:
    run = runs[0]
    return [_losses_card(run), *([_both_card(run)] if len(run.result.texts) > 1 else []), _alignment_card(run), _sizes_card(run)]


def _height(run) -> int:
    return 130 + 24 * len(words.names(run.result))


def _links(run) -> dict[str, str]:
    """A clicked merge opens as a model in the first analysis."""
    return {words.step_of(m): f"layer_redundancy?a={m}" for m in run.result.merges}


def _losses_card(run) -> Figure:
    r, price = run.result, words.cost(run, 0)
    best, worst = int(np.argmin(price[:, 0])), int(np.argmax(price[:, 0]))
    step = lambda i: words.step_of(r.merges[i])
    return Figure(
        "losses", "What each merge loses, beside its parents",
        f"Above the parents’ mean (dashed): {step(best)} {number(float(price[best, 0]))} nats, {step(worst)} {number(float(price[worst, 0]))}. Reversible gives back one parent, not a merge of all.",
        {text: partial(losses, run, t) for t, text in enumerate(r.texts)} if len(r.texts) > 1 else {"": partial(losses, run, 0)}, tables.losses(run),
        f"Loss in nats per token on {int(r.tokens[0].sum()):,} tokens in {len(r.tokens[0])} sequences; bars are 95 % intervals over sequences. Click a merge to open it as a model.",
        "Dots of loss: " + ", ".join(f"{n} {number(float(v[0]))}" for n, v in zip(words.names(r), words.losses(run, 0))) + ".", height=_height(run), wide=True, links=_links(run),
    )


def losses(run, text: int, theme: Theme) -> go.Figure:
    r, value = run.result, words.losses(run, text)
    fig = _rows(run, theme)
    n = len(r.parents)
    plots.dashed(fig, theme, float(value[:n, 0].mean()), ("x", "y domain"))
    fig.update_layout(xaxis=dict(title=f"loss on {r.texts[text]}, nats per token", showgrid=True))
    for i, (name, (v, low, high)) in enumerate(zip(words.names(r), value)):
        _dot(fig, theme, i, n, name, v, low, high, "%{x:.4g} nats")
    return fig


def _rows(run, theme: Theme) -> go.Figure:
    names = words.names(run.result)
    fig = figure(theme, margin=dict(l=LEFT, r=24, t=26, b=42), height=_height(run))
    fig.update_layout(yaxis=dict(range=[len(names) - 0.5, -0.5], tickvals=list(range(len(names))), ticktext=names))
    return fig


def _dot(fig, theme: Theme, i: int, n: int, name: str, v: float, low: float, high: float, hover: str, hue: str | None = None, **axes) -> None:
    hue = hue or (theme.run(name) if i < n else theme.more[0])
    bars = dict(type="data", symmetric=False, array=[np.nan_to_num(high - v)], arrayminus=[np.nan_to_num(v - low)], color=hue, thickness=1.5, width=0)
    fig.add_trace(go.Scatter(x=[v], y=[i], mode="markers", marker=dict(symbol=symbol(name) if i < n else "square", size=9, color=hue), error_x=bars, cliponaxis=False, customdata=[[name, low, high]],
                             hovertemplate=f"%{{customdata[0]}}<br>{hover} (%{{customdata[1]:.4g}}–%{{customdata[2]:.4g}})<extra></extra>", **axes))


def _both_card(run) -> Figure:
    r = run.result
    first, second = words.losses(run, 0), words.losses(run, 1)
    return Figure(
        "both_texts", "One text against the other",
        f"A merge that keeps both parents lies low on both axes; A stands at {number(first[0, 0])} and {number(second[0, 0])} nats, B at {number(first[1, 0])} and {number(second[1, 0])}.",
        {"": partial(both, run)}, tables.losses(run), f"Loss on {r.texts[0]} (across) and on {r.texts[1]} (up), nats per token.", "Scatter of losses on two texts.", height=420, wide=True,
    )


def both(run, theme: Theme) -> go.Figure:
    r, x, y = run.result, words.losses(run, 0)[:, 0], words.losses(run, 1)[:, 0]
    fig = figure(theme, margin=dict(l=56, r=24, t=26, b=42), height=420)
    fig.update_layout(xaxis=dict(title=f"loss on {r.texts[0]}, nats per token", showgrid=True), yaxis=dict(title=f"loss on {r.texts[1]}, nats per token", showgrid=True))
    for i, name in enumerate(words.names(r)):
        parent = i < len(r.parents)
        fig.add_trace(go.Scatter(x=[x[i]], y=[y[i]], mode="markers", marker=dict(symbol=symbol(name) if parent else "square", size=10, color=theme.run(name) if parent else theme.more[0]),
                                 hovertemplate=f"{name}<br>%{{x:.4g}} and %{{y:.4g}} nats<extra></extra>", cliponaxis=False))
    _names(fig, theme, x, y, words.names(r))
    return fig


def _names(fig: go.Figure, theme: Theme, x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """Each point's name on its inner side, moved up or down where two would meet, a thin line to the point then."""
    (left, right), (low, high) = ((v.min() - 0.06 * np.ptp(v) - 1e-6, v.max() + 0.06 * np.ptp(v) + 1e-6) for v in (x, y))
    fig.update_layout(xaxis_range=[left, right], yaxis_range=[low, high])
    line = (high - low) * 15 / 352  # of text, on this figure's height
    inner = x < (left + right) / 2
    texts, lines = [], []
    for side, anchor, sign in ((inner, "left", 1), (~inner, "right", -1)):
        at = np.flatnonzero(side)
        for i, spot in zip(at, plots.apart(y[at].tolist(), line)):
            start, end = x[i] + sign * 0.008 * (right - left), x[i] + sign * 0.022 * (right - left)
            if abs(spot - y[i]) > line / 4:
                lines.append(dict(type="line", x0=start, y0=y[i], x1=end, y1=spot, xref="x", yref="y", line=dict(color=theme.quiet, width=1)))
            texts.append(plots.text_at(theme, names[i], end, spot, ref=("x", "y"), color=theme.text, xanchor=anchor, yanchor="middle"))
    plots.add(fig, texts, lines)


def _alignment_card(run) -> Figure:
    r, g = run.result, words.gamma_index(run.params.gamma)
    gain = r.r[:, 1, 1, g] - r.r[:, 1, 0, g]
    best = int(np.nanargmax(gain)) if np.isfinite(gain).any() else 0
    reading = (f"With B in its order, {words.step_of(r.merges[best])} has R = {words.signed(r.r[best, 1, 1, g])} with B, as B is {words.signed(r.r[best, 1, 0, g])}. R with A is high for every merge: it contains A."
               if np.isfinite(gain).any() else "No merge here has its parents’ shapes, so there is no R.")
    return Figure(
        "alignment", "Whose singular vectors the merge keeps", reading, {"": partial(alignment, run)}, tables.alignment(run),
        f"R of each merge with A (circle), with B as it is (open diamond) and with B in the merge’s own order by weight matching (diamond), γ = {GAMMAS[g]:g}. Grey: {len(r.null)} random orders. Wider merges have none.",
        "Dots of R by merge and parent.", height=_height(run), wide=True, links=_links(run),
    )


def alignment(run, theme: Theme) -> go.Figure:
    r, g = run.result, words.gamma_index(run.params.gamma)
    names = [words.step_of(m) for m in r.merges]
    fig = figure(theme, margin=dict(l=LEFT, r=24, t=44, b=42), height=_height(run))
    fig.update_layout(yaxis=dict(range=[len(names) - 0.5, -0.5], tickvals=list(range(len(names))), ticktext=names), xaxis=dict(title=f"R of the merge with a parent, γ = {GAMMAS[g]:g}", showgrid=True))
    if len(r.null):
        plots.add(fig, shapes=[dict(type="rect", x0=r.null[:, g].min(), x1=r.null[:, g].max(), y0=-0.5, y1=len(names) - 0.5, xref="x", yref="y", fillcolor=theme.null_fill, line_width=0, layer="below")])
    for k, o, mark, hue, word in ((0, 0, "circle", theme.a, "A"), (1, 0, "diamond-open", theme.b, "B as it is"), (1, 1, "diamond", theme.b, "B in its order")):
        fig.add_trace(go.Scatter(x=r.r[:, k, o, g], y=list(range(len(names))), mode="markers", marker=dict(symbol=mark, size=10, color=hue), cliponaxis=False,
                                 hovertemplate=f"%{{y}}<br>R with {word} = %{{x:.4f}}<extra></extra>"))
    words_key = f'<span style="color:{theme.a}">●</span> A&nbsp;&nbsp;<span style="color:{theme.b}">◇</span> B as it is&nbsp;&nbsp;<span style="color:{theme.b}">◆</span> B in its order'
    plots.note(fig, theme, words_key, 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


def _sizes_card(run) -> Figure:
    r, d = run.result, run.result.distance[:, :2]
    n = len(r.parents)
    wide = [words.step_of(m) for m, p in zip(r.merges, r.parameters[n:]) if p > r.parameters[0]]
    return Figure(
        "distance", "How far a merge lies from its parents",
        "1 is as far as the plain mean is from that parent, 0 the parent itself." + (f" {', '.join(wide)} {'has' if len(wide) == 1 else 'have'} more weights than a parent and no distance." if wide else ""),
        {"": partial(distances, run)}, tables.alignment(run), "‖merge − parent‖ over ‖plain mean − parent‖, parents as they are, norms folded. Vertical dashed line: the plain mean.",
        f"Dots of distance; from {number(float(np.nanmin(d)))} to {number(float(np.nanmax(d)))}." if np.isfinite(d).any() else "No distances.", height=_height(run), wide=True, links=_links(run),
    )


def distances(run, theme: Theme) -> go.Figure:
    r = run.result
    names = [words.step_of(m) for m in r.merges]
    fig = figure(theme, margin=dict(l=LEFT, r=24, t=26, b=42), height=_height(run))
    fig.update_layout(yaxis=dict(range=[len(names) - 0.5, -0.5], tickvals=list(range(len(names))), ticktext=names), xaxis=dict(title="distance, in that of the plain mean", showgrid=True, rangemode="tozero"))
    plots.dashed(fig, theme, 1.0)
    for k, letter in enumerate(words.LETTERS[: len(r.parents)]):
        plots.dots(fig, theme, letter, r.distance[:, k], np.arange(len(names)), hover=f"{letter}<br>%{{x:.4g}}")
    plots.key(fig, theme, list(words.LETTERS[: len(r.parents)]))
    return fig
