"""The figure cards: divergence and its tail, perplexity by strand, flips, weight errors, positions, worst tokens, one passage."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.compression_cost import passage, tables, words
from analysis.contract import Figure
from analysis.plots import number
from analysis.theme import Theme, figure

LABELS = ("A", "B")
LEAST = 1e-6  # nats; below it float32 logits say nothing
CONTROL, BEFORE = "A with noise", "B before healing"


def figures(runs) -> list[Figure]:
    r = runs[0].result
    cards = [_divergence_card(r), _strands_card(r), _flips_card(r)]
    if len(r.weight_error):
        cards.append(_weights_card(r))
    return [*cards, _positions_card(r), passage.worst_card(r), passage.strip_card(r)]


# ---- how far, and how long the tail


def _divergence_card(r) -> Figure:
    control = words.has_control(r)
    return Figure(
        "divergence", "How far B’s predictions are from A’s",
        "Left: mean and quantiles over tokens. Right: share of tokens that lost at least that much."
        + (" Open: B’s recipe without its healing." if words.healed(r) else "") + (" Grey: A with random noise as large as B’s change." if control else ""),
        {"": partial(divergence, r)}, tables.divergence(r),
        f"KL(A ‖ B) in nats at each of {r.n_tokens:,} tokens in {len(r.strand):,} sequences. Left: mean, median, 95 % and 99 % quantiles with 95 % bootstrap "
        "intervals over sequences. Right: complementary distribution, both axes log."
        + (" Open diamonds, dotted: B before its healing step." if words.healed(r) else "") + (" Grey: A with Gaussian noise of the Frobenius norm of each matrix’s change." if control else ""),
        f"Dots of KL quantiles and the tail curve. Mean {words.nats(r.kl_summary[0, 0])}, median {words.nats(r.kl_summary[1, 0])}, p99 {words.nats(r.kl_summary[3, 0])} nats.",
    )


def divergence(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=56, r=14, t=26, b=42), height=344)
    control = words.has_control(r)
    healed = words.healed(r)
    shown = np.concatenate([r.kl_summary[:, 0], r.noise_summary[:, 0] if control else [], r.before_summary[:, 0] if healed else []])
    floor = max(min(np.nanmin(shown), 1e-3), LEAST)
    top = max(np.nanmax(shown), floor * 10)
    fig.update_layout(
        xaxis=dict(domain=[0, 0.42], title="KL, nats (log)", **plots.log_axis(floor, top, 0.08, 4, bool((shown < floor).any()))),
        yaxis=dict(range=[3.5, -0.5], tickvals=[0, 1, 2, 3], ticktext=list(tables.SUMMARY)),
        xaxis2=dict(domain=[0.58, 1], anchor="y2", title="KL at least, nats (log)", **plots.log_axis(max(floor / 10, LEAST), max(float(r.kl.max()), top), 0.04, 4)),
        yaxis2=dict(anchor="x2", title="share of tokens (log)", **plots.log_axis(max(1 / r.n_tokens, 1e-4), 1.0, 0.03, 5)))
    if control:
        _summary_dots(fig, theme, r.noise_summary, floor, 0.14, CONTROL, theme.null_line, "square")
        _tail(fig, r.noise, dict(color=theme.null_line, width=1.5, dash="dash"), CONTROL)
    if healed:
        _summary_dots(fig, theme, r.before_summary, floor, 0.0, BEFORE, theme.b, "diamond-open")
        _tail(fig, r.before, dict(color=theme.b, width=1.5, dash="dot"), BEFORE)
    _summary_dots(fig, theme, r.kl_summary, floor, -0.14 if control else 0.0, "B", theme.b, "diamond")
    _tail(fig, r.kl, dict(color=theme.b, width=2), "B")
    mark = lambda symbol, color: f'<span style="color:{color}">{symbol}</span>'
    marks = [("◆", theme.b, "B"), *([("◇", theme.b, "before healing")] if healed else []), *([("■", theme.null_line, "A with noise")] if control else [])]
    plots.note(fig, theme, "  ".join(f"{mark(symbol, color)} {name}" for symbol, color, name in marks), 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


def _summary_dots(fig: go.Figure, theme: Theme, values: np.ndarray, floor: float, shift: float, name: str, color: str, symbol: str) -> None:
    v = np.maximum(values, floor)
    rows = np.arange(len(v)) + shift
    bars = dict(type="data", symmetric=False, array=np.nan_to_num(v[:, 2] - v[:, 0]), arrayminus=np.nan_to_num(v[:, 0] - v[:, 1]), color=color, thickness=1.5, width=0)
    fig.add_trace(go.Scatter(x=v[:, 0], y=rows, mode="markers", marker=dict(symbol=symbol, size=8, color=color), error_x=bars, cliponaxis=False, name=name,
                             customdata=np.column_stack([values, np.arange(len(v))]), text=tables.SUMMARY,
                             hovertemplate=name + " · %{text}<br>%{customdata[0]:.4g} nats (%{customdata[1]:.4g}–%{customdata[2]:.4g})<extra></extra>"))


def _tail(fig: go.Figure, values: np.ndarray, line: dict, name: str) -> None:
    """Share of tokens with at least that KL, at a few hundred of the values."""
    ranked = np.sort(values.astype(np.float64))
    n = len(ranked)
    at = np.unique(np.concatenate([np.linspace(0, n - 1, min(n, 200)), n - np.geomspace(1, n, min(n, 200))]).astype(int))
    fig.add_trace(go.Scatter(x=np.maximum(ranked[at], LEAST), y=(n - at) / n, mode="lines", line=line, xaxis="x2", yaxis="y2", name=name,
                             hovertemplate=name + ": %{y:.2%} of tokens lost %{x:.3g} nats or more<extra></extra>"))


# ---- perplexity by strand


def _strands_card(r) -> Figure:
    worst = int(np.nanargmax(r.nll_change[:, 0]))
    reading = (f"Furthest apart: {r.groups[worst]}, × {number(np.exp(r.nll_change[worst, 0]))}. " if len(r.groups) > 1 else "") + (
        "Right of the dashed line at 1, B is worse; the paired interval is the one to trust.")
    return Figure(
        "strands", "Perplexity by strand", reading, {"": partial(strands, r)}, tables.strands(r),
        "Left: perplexity of A (circle) and B (diamond), log axis. Right: B over A from the paired difference on the same tokens; "
        "bars are 95 % bootstrap intervals over sequences. Numbers beside a name: sequences.",
        "; ".join(f"{name}: perplexity {number(np.exp(r.nll_a[g, 0]))} in A, {number(np.exp(r.nll_b[g, 0]))} in B" for g, name in enumerate(r.groups)) + ".",
    )


def strands(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=112, r=14, t=26, b=42), height=344)
    a, b, ratio = np.exp(r.nll_a), np.exp(r.nll_b), np.exp(r.nll_change)
    n = len(r.groups)
    both = np.concatenate([a, b])
    fig.update_layout(
        xaxis=dict(domain=[0, 0.5], title="perplexity (log)", **plots.log_axis(float(np.nanmin(both)), float(np.nanmax(both)), 0.06, 5)),
        yaxis=dict(range=[n - 0.5, -0.5], tickvals=list(range(n)), ticktext=[f"{name} ({r.group_sequences[g]:,})" for g, name in enumerate(r.groups)]),
        xaxis2=dict(domain=[0.6, 1], anchor="y", title="B over A, ×", showgrid=True, nticks=4, range=_around_one(ratio)))
    rows = np.arange(n)
    plots.joins(fig, theme, np.stack([a[:, 0], rows - 0.12], 1), np.stack([b[:, 0], rows + 0.12], 1))
    for label, values, shift in (("A", a, -0.12), ("B", b, 0.12)):
        plots.dots(fig, theme, label, values[:, 0], rows + shift, low=values[:, 1], high=values[:, 2], custom=np.column_stack([values]), text=r.groups,
                   hover=f"{label} · %{{text}}<br>perplexity %{{customdata[0]:.4g}} (%{{customdata[1]:.4g}}–%{{customdata[2]:.4g}})")
    plots.dashed(fig, theme, 1.0, ("x2", "y domain"))
    plots.dots(fig, theme, "B", ratio[:, 0], rows, low=ratio[:, 1], high=ratio[:, 2], axes=("x2", "y"), custom=ratio, text=r.groups,
               hover="%{text}: B over A<br>× %{customdata[0]:.4g} (%{customdata[1]:.4g}–%{customdata[2]:.4g})")
    plots.key(fig, theme, list(LABELS))
    return fig


def _around_one(ratio: np.ndarray) -> list[float]:
    low, high = min(float(np.nanmin(ratio)), 1.0), max(float(np.nanmax(ratio)), 1.0)
    pad = max(0.08 * (high - low), 1e-3)
    return [low - pad, high + pad]


# ---- flips


def _flips_card(r) -> Figure:
    share, low, high, p = r.mcnemar[0]
    test = (f"Of the {int(r.flips[0, 1:3].sum()):,} flips {number(100 * share, 2)} % go to wrong (exact interval {number(100 * low, 2)}–{number(100 * high, 2)} %, "
            f"McNemar p = {number(p, 2)}); a coin would give 50 %." if r.flips[0, 1:3].sum() else "No token changes between right and wrong.")
    return Figure(
        "flips", "Tokens that flip", test + " Tokens of one text are not independent, so trust the intervals over sequences.", {"": partial(flips, r)}, tables.flips(r),
        "Share of tokens whose likeliest next token goes from right to wrong (only A right, blue) and from wrong to right (only B right, vermilion); "
        "bars are 95 % bootstrap intervals over sequences.",
        f"Bars: {int(r.flips[0, 1]):,} tokens flip from right to wrong, {int(r.flips[0, 2]):,} from wrong to right, of {int(r.flips[0].sum()):,}.",
    )


def flips(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=112, r=14, t=26, b=42), height=344, bargap=0.4)
    n = len(r.groups)
    fig.update_layout(xaxis=dict(title="share of tokens, %", rangemode="tozero", showgrid=True),
                      yaxis=dict(range=[n - 0.5, -0.5], tickvals=list(range(n)), ticktext=list(r.groups)))
    for label, values, column in (("A", r.only_a, 1), ("B", r.only_b, 2)):
        v = 100 * values
        bars = dict(type="data", symmetric=False, array=np.nan_to_num(v[:, 2] - v[:, 0]), arrayminus=np.nan_to_num(v[:, 0] - v[:, 1]), color=theme.axis, thickness=1.5, width=0)
        fig.add_trace(go.Bar(x=v[:, 0], y=list(range(n)), orientation="h", marker_color=theme.run(label), error_x=bars, name=label,
                             customdata=np.column_stack([r.flips[:, column], v[:, 1:]]), text=r.groups, textposition="none",
                             hovertemplate=f"%{{text}}: only {label} right<br>%{{x:.3g}} % (%{{customdata[1]:.3g}}–%{{customdata[2]:.3g}}), %{{customdata[0]:,}} tokens<extra></extra>"))
    marks = f'<span style="color:{theme.a}">■</span> right to wrong (only A right)  <span style="color:{theme.b}">■</span> wrong to right (only B right)'
    plots.note(fig, theme, marks, 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


# ---- weights


def _weights_card(r) -> Figure:
    most = int(np.nanargmax(r.weight_error))
    return Figure(
        "weight_error", "Where the weights changed", "Relative change of each matrix. It says where the recipe cut, not what the cut did to the output.",
        {"": partial(weights, r)}, tables.weights(r),
        "‖W′ − W‖ / ‖W‖ of every block matrix, Frobenius; 0 is unchanged, empty is removed.",
        f"Heat map by block and matrix. The largest change is {number(r.weight_error[most])} in {r.weight_name[most]} of block {r.weight_layer[most]}.",
    )


def weights(r, theme: Theme) -> go.Figure:
    names = list(dict.fromkeys(r.weight_name.tolist()))
    z = np.full((len(names), r.n_layers), np.nan)
    for layer, name, error in zip(r.weight_layer, r.weight_name, r.weight_error):
        z[names.index(name), layer] = error
    fig = figure(theme, margin=dict(l=118, r=76, t=26, b=42), height=344)
    fig.update_layout(xaxis=dict(title="block", **plots.ticks(list(range(r.n_layers)))),
                      yaxis=dict(tickmode="array", tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5]))
    top = float(np.nanmax(z)) or 1.0
    plots.heat(fig, theme, z, low=0.0, high=top, hover="block %{x}, row %{y}<br>relative change %{z:.4f}", bar=dict(title=dict(text="‖W′ − W‖ / ‖W‖", side="right"), nticks=6))
    if z.size <= 120:
        plots.add(fig, [plots.text_at(theme, number(z[i, j], 2), j, i, ref=("x", "y"), color=plots.ink(z[i, j], 0.0, top))
                        for i, j in zip(*np.nonzero(np.isfinite(z)))])
    for block in sorted({layer for layer, _ in r.removed if np.isnan(z[:, layer]).all()}):
        plots.note(fig, theme, "removed in B", block, (len(names) - 1) / 2, ref=("x", "y"), textangle=-90)
    return fig


# ---- positions


def _positions_card(r) -> Figure:
    by_size = sorted(range(1, len(r.groups)), key=lambda g: -r.group_tokens[g])  # all last: there strands of different lengths mix
    views = {r.groups[g]: g for g in (*by_size, 0) if g == 0 or np.isfinite(r.position_kl[g, :, 0]).sum() > 1}
    return Figure(
        "positions", "KL along the sequence", "A rise says that errors of earlier tokens add up. Where sequences differ in length, late positions hold only the long ones.",
        {name if len(views) > 1 else "": partial(positions, r, g) for name, g in views.items()}, tables.positions(r),
        f"Mean KL(A ‖ B) in nats by position ({r.bin_width} to a point), with 95 % bootstrap intervals over sequences.",
        f"Dots along the position. First {number(r.position_kl[0, 0, 0])}, last {number(r.position_kl[0, -1, 0])} nats.", height=356,
    )


def positions(r, group: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=56, r=14, t=8, b=42), height=356)
    v = r.position_kl[group]
    middle = r.bin_start + (r.bin_width - 1) / 2
    fig.update_layout(xaxis=dict(title="position, tokens", range=[-1, r.bin_start[-1] + r.bin_width]), yaxis=dict(title="mean KL, nats/token", rangemode="tozero", showgrid=True))
    plots.dots(fig, theme, "B", middle, v[:, 0], low=v[:, 1], high=v[:, 2], along="y", custom=np.column_stack([r.bin_start, r.bin_start + r.bin_width - 1, v]),
               hover="positions %{customdata[0]}–%{customdata[1]}<br>%{customdata[2]:.4g} nats (%{customdata[3]:.4g}–%{customdata[4]:.4g})")
    return fig
