"""The figure cards: partners sorted by r, their means by block, a few units instead of one, groups of both networks."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.convergent_learning import tables, words
from analysis.convergent_learning.measure import BEST, COUNTS, FRESH, ONE, SHUFFLED
from analysis.plots import number
from analysis.theme import Theme, figure

HEIGHT = 332
NAMES = {ONE: "one to one", BEST: "best each", FRESH: "untrained", SHUFFLED: "shuffled"}


def figures(runs) -> list[Figure]:
    r = runs[0].result
    return [_partners_card(r), _blocks_card(r), _few_card(r), _inside_card(r), _map_card(r)]


def _by_block(r, draw) -> dict:
    """A view for every block, at most eight of them, the first and the last among them."""
    shown = sorted({round(i) for i in np.linspace(0, len(r.layers) - 1, min(len(r.layers), 8))})
    return {f"block {r.layers[i]}": partial(draw, r, i) for i in shown}


def _styles(theme: Theme) -> dict:
    return {ONE: dict(color=theme.a, width=2.5), BEST: dict(color=theme.more[0], width=2), FRESH: dict(color=theme.quiet, width=2, dash="dot"), SHUFFLED: dict(color=theme.null_line, width=2, dash="dash")}


def _key(fig: go.Figure, theme: Theme, r) -> None:
    signs = {ONE: "━", BEST: "━", FRESH: "┄", SHUFFLED: "╌"}
    shown = [k for k in NAMES if k != FRESH or words.fresh(r)]
    plots.note(fig, theme, "  ".join(f'<span style="color:{_styles(theme)[k]["color"]}">{signs[k]}</span> {NAMES[k]}' for k in shown), 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)


# ---- partners


def _partners_card(r) -> Figure:
    return Figure(
        "partners", "Units of A by how well they are matched", f"One to one, {100 * words.close(r, ONE):.0f} % of all units reach r ≥ {words.CLOSE}; {words.agreement(r)} of all have their best unit of B to themselves. "
        "High r is not the same job.", _by_block(r, partners), tables.partners(r),
        f"Pearson’s r between units of A and their partners in B, sorted, on {r.n_held_tokens:,} tokens that did not choose them ({r.n_fit_tokens:,} did). One to one: no unit of B twice; best each: repeats allowed. Grey: "
        "B’s tokens shuffled" + (", and an untrained network of B’s shape." if words.fresh(r) else "."),
        f"Falling curves of r over units; mean one to one {number(words.overall(r, ONE))}, shuffled {number(words.overall(r, SHUFFLED))}.", height=HEIGHT,
    )


def partners(r, i: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=16, t=26, b=42), height=HEIGHT)
    n = int((r.units_a[i] >= 0).sum())
    fig.update_layout(xaxis=dict(title=f"units of A in block {r.layers[i]}, sorted", range=[0, n]), yaxis=dict(title="r with the partner", showgrid=True, zeroline=False))
    for kind in (SHUFFLED, FRESH, BEST, ONE):
        values = np.sort(r.r[kind, i][np.isfinite(r.r[kind, i])])[::-1]
        if len(values):
            fig.add_trace(go.Scatter(x=np.arange(len(values)) + 0.5, y=values, mode="lines", line=_styles(theme)[kind], name=NAMES[kind], hovertemplate=f"{NAMES[kind]}: unit %{{x:.0f}}, r %{{y:.3f}}<extra></extra>"))
    _key(fig, theme, r)
    return fig


# ---- blocks


def _blocks_card(r) -> Figure:
    high, low = int(np.argmax(r.mean[ONE, :, 0])), int(np.argmin(r.mean[ONE, :, 0]))
    reading = (f"Mean r is highest in block {r.layers[high]}, {words.of_block(r, high)}, and lowest in block {r.layers[low]}, {words.of_block(r, low)}." if high != low
               else f"Mean r {words.of_block(r, high)}.")
    return Figure(
        "blocks", "Mean r by block", reading, {"": partial(blocks, r)}, tables.blocks(r),
        f"Mean of r over the units of A in each block, with 95 % intervals over the {r.n_held_tokens:,} held-out tokens’ sequences. Grey: shuffled tokens" + (" and an untrained network." if words.fresh(r) else "."),
        f"Dots by block; one to one from {number(r.mean[ONE, :, 0].min())} to {number(r.mean[ONE, :, 0].max())}.", height=HEIGHT,
    )


def blocks(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=16, t=26, b=42), height=HEIGHT)
    x = np.arange(len(r.layers))
    fig.update_layout(xaxis=dict(title="block", **plots.ticks(list(r.layers))), yaxis=dict(title="mean r", showgrid=True, rangemode="tozero"))
    styles = _styles(theme)
    for kind in (SHUFFLED, FRESH):
        values = np.array([np.nanmean(row) if np.isfinite(row).any() else np.nan for row in r.r[kind]])
        if np.isfinite(values).any():
            fig.add_trace(go.Scatter(x=x, y=values, mode="lines+markers", line=styles[kind], marker=dict(size=5), name=NAMES[kind], hovertemplate=f"{NAMES[kind]}: %{{y:.3f}}<extra></extra>"))
    for kind in (BEST, ONE):
        value, low, high = r.mean[kind].T
        bar = dict(type="data", symmetric=False, array=high - value, arrayminus=value - low, thickness=1.5, width=0, color=styles[kind]["color"])
        fig.add_trace(go.Scatter(x=x, y=value, error_y=bar, mode="lines+markers", line=dict(styles[kind], width=1.5), marker=dict(size=8, symbol="circle" if kind == ONE else "square"), name=NAMES[kind],
                                 hovertemplate=f"block %{{x}}, {NAMES[kind]}: %{{y:.3f}}<extra></extra>", cliponaxis=False))
    _key(fig, theme, r)
    return fig


# ---- a few units instead of one


def _few_card(r) -> Figure:
    one, many, luck = words.typical(r, 0, 0), words.typical(r, 0, words.FEW), words.typical(r, 1, words.FEW)
    return Figure(
        "few", "A unit of B from a few units of A", f"By one unit of A {words.percent(one)} of the variance, by {COUNTS[words.FEW]} {words.percent(many)}, shuffled {words.percent(luck)} (median).",
        {"": partial(few, r)}, tables.few(r),
        f"Share of the variance of a unit of B that the first units on the lasso path predict on {r.n_held_tokens:,} held-out tokens, by least squares on {r.n_fit_tokens:,} others; medians over {int((r.predicted[0] >= 0).sum())} "
        "units of B a block, the shade holds the middle half of all. Dashed: the same with shuffled tokens.",
        f"Rising lines by number of units; medians from {words.percent(one)} to {words.percent(many)}, shuffled {words.percent(luck)}.", height=HEIGHT,
    )


def few(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=52, t=26, b=42), height=HEIGHT)
    x = np.arange(len(COUNTS))
    fig.update_layout(xaxis=dict(title="units of A used", tickvals=x, ticktext=[str(c) for c in COUNTS], range=[-0.25, len(COUNTS) - 0.75]), yaxis=dict(title="variance explained", tickformat=".0%", showgrid=True))
    middle = lambda rows, q: np.array([np.nanquantile(v, q) if np.isfinite(v).any() else np.nan for v in rows.T])
    everything = r.explained[0].reshape(-1, len(COUNTS))
    low, high = middle(everything, 0.25), middle(everything, 0.75)
    fig.add_trace(go.Scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", mode="none", fillcolor=theme.null_fill, hoverinfo="skip"))
    fig.add_trace(go.Scatter(x=x, y=middle(r.explained[1].reshape(-1, len(COUNTS)), 0.5), mode="lines", line=dict(color=theme.null_line, width=2, dash="dash"), name="shuffled",
                             hovertemplate="shuffled: %{y:.1%}<extra></extra>"))
    ends = []
    shades = _shades(theme, len(r.layers))
    for i, layer in enumerate(r.layers):
        y = middle(r.explained[0, i], 0.5)
        fig.add_trace(go.Scatter(x=x, y=y, mode="lines+markers", line=dict(color=shades[i], width=1.8), marker=dict(size=5), name=f"block {layer}", hovertemplate=f"block {layer}, %{{y:.1%}}<extra></extra>"))
        ends.append(y[np.isfinite(y)][-1] if np.isfinite(y).any() else np.nan)
    shown = [i for i in range(len(ends)) if np.isfinite(ends[i]) and (len(ends) <= 8 or i % -(-len(ends) // 8) == 0)]
    span = max(float(np.nanmax(high)) - min(0.0, float(np.nanmin(low))), 1e-6)
    for i, at in zip(shown, plots.apart([ends[i] for i in shown], 0.055 * span)):
        plots.note(fig, theme, f"{r.layers[i]}", 1.0, at, ref=("paper", "y"), color=shades[i], xanchor="left", xshift=4)
    plots.note(fig, theme, "block", 1.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    plots.note(fig, theme, f'<span style="color:{theme.null_line}">╌</span> shuffled', 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


def _shades(theme: Theme, n: int) -> list[str]:
    """Blocks from early to late along the theme's own scale, its two ends left out."""
    from plotly.colors import sample_colorscale

    first, last = (0.45, 0.95) if theme.name == "dark" else (0.1, 0.75)  # the end nearest to the page would vanish
    return sample_colorscale(theme.sequential, [first + (last - first) * i / max(1, n - 1) for i in range(n)])


# ---- groups


def _inside_card(r) -> Figure:
    real = r.inside[..., 2]
    above = (real > r.inside_high) & np.isfinite(real)
    return Figure(
        "inside", "What holds a group together", f"In {int(above.sum())} of {int(np.isfinite(real).sum())} groups with units of both networks, these correlate more with each other than in groups of the same sizes drawn at random.",
        _by_block(r, inside), tables.inside(r),
        f"Mean |r| on {r.n_held_tokens:,} held-out tokens between the units of a group: within A, within B, and between the two. Grey: groups of the same sizes at random, with their 97.5 % point.",
        f"Dots by group; between networks up to {number(np.nanmax(real)) if np.isfinite(real).any() else '–'}.", height=HEIGHT,
    )


def inside(r, i: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=16, t=26, b=56), height=HEIGHT)
    here = np.flatnonzero((r.sizes[i] > 0).any(1))
    fig.update_layout(xaxis=dict(title="group: units of A | of B", **plots.ticks([f"{r.sizes[i, g, 0]}|{r.sizes[i, g, 1]}" for g in here], most=8)), yaxis=dict(title="mean |r| in the group", showgrid=True, rangemode="tozero"))
    x = np.arange(len(here))
    low = r.inside[i, here, 3]
    fig.add_trace(go.Scatter(x=x, y=low, mode="markers", marker=dict(symbol="line-ew-open", size=13, color=theme.null_line, line=dict(width=2)), name="random",
                             error_y=dict(type="data", symmetric=False, array=r.inside_high[i, here] - low, arrayminus=np.zeros(len(here)), thickness=1.5, width=0, color=theme.null_line),
                             hovertemplate="random groups: %{y:.3f}<extra></extra>"))
    for k, (word, color, mark) in enumerate((("within A", theme.a, "circle-open"), ("within B", theme.b, "diamond-open"), ("between", theme.more[0], "square"))):
        fig.add_trace(go.Scatter(x=x, y=r.inside[i, here, k], mode="markers", marker=dict(symbol=mark, size=8, color=color, line=dict(width=0 if k == 2 else 1.5)), name=word, hovertemplate=f"{word}: %{{y:.3f}}<extra></extra>"))
    signs = f'<span style="color:{theme.a}">○</span> within A  <span style="color:{theme.b}">◇</span> within B  <span style="color:{theme.more[0]}">■</span> between  <span style="color:{theme.null_line}">━</span> at random'
    plots.note(fig, theme, signs, 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


def _map_card(r) -> Figure:
    alone = int(((r.group_a < 0) & (r.units_a >= 0)).sum() + ((r.group_b < 0) & (r.units_b >= 0)).sum())
    return Figure(
        "groups", "Units of both networks, group by group",
        "|r| between units of A (rows) and of B (columns), ordered by group: blocks on the diagonal are groups that both networks have." + (f" {alone} units that never change belong to none." if alone else ""),
        _by_block(r, groups), tables.members(r),
        f"|r| between the units of A and of B on {r.n_fit_tokens:,} tokens, units ordered by the group that spectral clustering gives them. White lines part the groups.",
        "Heat map of |r| between units of both networks, ordered by group.", height=420, wide=True,
    )


def groups(r, i: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=56, r=76, t=14, b=42), height=420)
    order = [np.argsort(np.where(g < 0, g.max() + 1, g), kind="stable") for g in (r.group_a[i][r.units_a[i] >= 0], r.group_b[i][r.units_b[i] >= 0])]
    z = np.abs(r.between[i][: len(order[0]), : len(order[1])])[np.ix_(*order)]
    step = max(1, -(-max(z.shape) // 320))  # cells smaller than a pixel are averaged
    cut = z[: z.shape[0] // step * step, : z.shape[1] // step * step]
    cut = cut.reshape(cut.shape[0] // step, step, cut.shape[1] // step, step).mean((1, 3))
    plots.heat(fig, theme, np.round(cut, 3), low=0.0, high=float(np.quantile(cut, 0.995)) or 1.0, bar=dict(title=dict(text="|r|", side="right"), nticks=5), gap=0, hover="place %{y} of A, %{x} of B<br>mean |r| %{z:.3f}")
    shapes = []
    for axis, group in ((0, r.group_a[i]), (1, r.group_b[i])):
        ends = np.cumsum(np.bincount(group[group >= 0], minlength=1))[:-1] / step - 0.5
        size = cut.shape[1 - axis]
        for end in ends:
            line = dict(x0=-0.5, x1=size - 0.5, y0=end, y1=end) if axis == 0 else dict(x0=end, x1=end, y0=-0.5, y1=size - 0.5)
            shapes.append(dict(type="line", xref="x", yref="y", line=dict(color="#FFFFFF", width=0.8), **line))
    plots.add(fig, shapes=shapes)
    fig.update_layout(xaxis=dict(title=f"units of B in block {r.layers[i]}, by group", showticklabels=False), yaxis=dict(title="units of A, by group", showticklabels=False, range=[cut.shape[0] - 0.5, -0.5]))
    return fig
