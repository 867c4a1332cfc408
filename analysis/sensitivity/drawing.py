"""The figure cards: the map of matrices, isolated against accumulated, the stream, errors of weights and outputs, spectra, masks."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.plots import number
from analysis.sensitivity import tables, words
from analysis.theme import Theme, figure

ACROSS = 12  # blocks beside each other in a drawing of masks
LEAST = 1e-6  # nats; below it float32 logits say nothing
MOST = 12  # matrices in the ranking


def figures(runs) -> list[Figure]:
    r = runs[0].result
    cards = [_map_card(r), _ranked_card(r), _blocks_card(r), _stream_card(r), _errors_card(r)]
    if r.spectrum_a.shape[1] and r.changed.any():
        cards.append(_spectra_card(r))
    if (r.zeros_b > r.zeros_a + 1e-12).any():
        cards.append(_masks_card(r))
    return cards


# ---- the map


def _map_card(r) -> Figure:
    u = words.worst(r)
    views = {"B": partial(part_map, r, "B")}
    if words.has_control(r):
        views |= {"noise": partial(part_map, r, "noise"), "B ÷ noise": partial(part_map, r, "ratio")}
    return Figure(
        "sensitivity", "Which matrix hurts alone",
        (f"Darkest is cheapest; {words.part(r, u)} costs most. " if u is not None else "") + "An empty cell is unchanged. Costs alone need not add up: see the next card.",
        views, tables.parts(r), f"KL(A ‖ A with one matrix of B), mean over {r.n_tokens:,} tokens, nats. Noise: the same matrix of A with Gaussian noise of the change’s Frobenius norm.",
        f"Heat map of blocks by matrices. {'; '.join(f'{words.part(r, i)} {words.nats(r.part_kl[i, 0])}' for i in np.argsort(-r.part_kl[:, 0])[:3])}.",
    )


def part_map(r, what: str, theme: Theme) -> go.Figure:
    names, layers = list(r.names), list(r.layers)
    z = np.full((len(layers), len(names)), np.nan)
    for u in np.flatnonzero(r.changed):
        b, noise = r.part_kl[u, 0], r.part_noise[u, 0]
        z[layers.index(r.layer[u]), names.index(str(r.name[u]))] = {"B": _log(b), "noise": _log(noise), "ratio": np.log2(max(b, LEAST) / max(noise, LEAST))}[what]
    fig = figure(theme, margin=dict(l=48, r=84, t=8, b=48))
    fig.update_layout(xaxis=plots.ticks(names), yaxis=dict(title="block", **plots.ticks(layers)))
    fig.update_yaxes(range=[len(layers) - 0.5, -0.5])
    if what == "ratio":
        top = max(float(np.nan_to_num(np.abs(z)).max()), 1.0)
        steps = sorted({-round(top), 0, round(top)})
        bar = dict(title=dict(text="B ÷ noise, × (log)", side="right"), tickvals=steps, ticktext=[f"{2.0**s:g}" for s in steps])
        plots.heat(fig, theme, z, scale=theme.diverging, low=-top, high=top, hover="block %{y}, column %{x}<br>2^%{z:.2f} times its noise", bar=bar)
    else:
        low, top = _scale(r)
        at = list(range(int(np.ceil(low)), int(np.floor(top)) + 1))
        nats = np.where(np.isfinite(z), 10.0**z, np.nan)
        plots.heat(fig, theme, z, low=low, high=top, custom=nats, hover="block %{y}, column %{x}<br>%{customdata:.4g} nats/token",
                   bar=dict(title=dict(text="KL, nats/token (log)", side="right"), tickvals=at, ticktext=[f"{10.0**e:g}" if e > -4 else f"10<sup>−{-e}</sup>" for e in at]))
    if z.size <= 120:
        shown = (lambda v: f"{number(2.0**v, 2)}×") if what == "ratio" else (lambda v: number(10.0**v, 2) if 10.0**v > 1.001 * LEAST else "≤ 10⁻⁶")
        ink = (lambda v: theme.text) if what == "ratio" else (lambda v: plots.ink(v, low, top))
        plots.add(fig, [plots.text_at(theme, shown(z[i, j]), j, i, ref=("x", "y"), color=ink(z[i, j])) for i, j in zip(*np.nonzero(np.isfinite(z)))])
    return fig


def _log(x: float) -> float:
    return float(np.log10(max(x, LEAST))) if np.isfinite(x) else float("nan")


def _scale(r) -> tuple[float, float]:
    """One colour scale for B and its noise, in decades."""
    every = [_log(x) for x in (*r.part_kl[r.changed, 0], *r.part_noise[r.changed, 0]) if np.isfinite(x)] or [_log(LEAST)]
    return min(every), max(max(every), min(every) + 1)


# ---- ranked


def _ranked_card(r) -> Figure:
    top = _ranked(r)
    better = int((r.part_kl[top, 0] < r.part_noise[top, 0]).sum()) if words.has_control(r) else 0
    return Figure(
        "ranked", "The costliest matrices", f"With their intervals over {r.n_sequences:,} sequences." + (
            f" {better} of these {len(top)} cost less than noise of their size (grey)." if words.has_control(r) else ""),
        {"": partial(ranked, r)}, tables.parts(r),
        f"The {len(top)} matrices of B that cost most alone in A: mean KL in nats, log axis, 95 % bootstrap intervals over sequences."
        + (" Grey squares: noise of the change’s Frobenius norm on the same matrix." if words.has_control(r) else ""),
        "Ranked dots: " + "; ".join(f"{words.part(r, u)} {words.nats(r.part_kl[u, 0])}" for u in top[:5]) + ".",
    )


def _ranked(r) -> np.ndarray:
    changed = np.flatnonzero(r.changed)
    return changed[np.argsort(-r.part_kl[changed, 0], kind="stable")][:MOST]


def ranked(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=142, r=14, t=26, b=42))
    top = _ranked(r)
    if not len(top):
        plots.note(fig, theme, "no block matrix is changed", 0.5, 0.5)
        return fig
    values = np.maximum(r.part_kl[top], LEAST)
    noise = np.maximum(r.part_noise[top, 0], LEAST)
    every = np.concatenate([values[np.isfinite(values)], noise[np.isfinite(noise)]])
    fig.update_layout(xaxis=dict(title="mean KL to A, nats/token (log)", **plots.log_axis(every.min(), max(every.max(), 10 * every.min()), 0.06, 6, bool((r.part_kl[top, 0] < LEAST).any()))),
                      yaxis=dict(range=[len(top) - 0.5, -0.5], tickvals=list(range(len(top))), ticktext=[f"{r.layer[u]} · {r.name[u]}" for u in top]))
    if words.has_control(r):
        fig.add_trace(go.Scatter(x=noise, y=np.arange(len(top)), mode="markers", marker=dict(symbol="square", size=7, color=theme.null_line), hovertemplate="noise of its size: %{x:.4g} nats<extra></extra>"))
        plots.note(fig, theme, "■ noise of its size", 1.0, 1.0, color=theme.axis, xanchor="right", yanchor="bottom", yshift=4)
    plots.dots(fig, theme, "B", values[:, 0], np.arange(len(top)), low=values[:, 1], high=values[:, 2], custom=r.part_kl[top], text=[words.part(r, u) for u in top],
               hover="%{text}<br>%{customdata[0]:.4g} nats (%{customdata[1]:.4g}–%{customdata[2]:.4g})")
    plots.note(fig, theme, f'<span style="color:{theme.b}">◆</span> B, block · matrix', 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


# ---- isolated against accumulated


def _blocks_card(r) -> Figure:
    total = r.accumulated[-1, 0]
    return Figure(
        "accumulated", "One block at a time, and all up to it",
        f"Where the line rises faster than the thin one, errors feed each other. Isolated costs sum to {words.nats(float(r.block_kl[:, 0].sum()))}, together they cost {words.nats(total)} nats.",
        {"": partial(by_block, r)}, tables.blocks(r),
        "Mean KL to A in nats. Open: only this block of B in A. Filled: all blocks up to this one. Thin line: running sum of the open ones. Bars: 95 % bootstrap intervals over sequences."
        + (" Grey: this block of A with noise of the change’s size." if words.has_control(r) else ""),
        f"By block: isolated cost up to {words.nats(float(r.block_kl[:, 0].max()))}, accumulated ending at {words.nats(total)} nats.",
    )


def by_block(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=60, r=14, t=26, b=42))
    x = np.arange(len(r.layers), dtype=float)
    fig.update_layout(xaxis=dict(title="block", **plots.ticks(list(r.layers))), yaxis=dict(title="mean KL to A, nats/token", rangemode="tozero", showgrid=True))
    fig.add_trace(go.Scatter(x=x, y=np.cumsum(r.block_kl[:, 0]), mode="lines", line=dict(color=theme.b, width=1, dash="dot"), hovertemplate="isolated costs up to here sum to %{y:.4g}<extra></extra>"))
    fig.add_trace(go.Scatter(x=x, y=r.accumulated[:, 0], mode="lines", line=dict(color=theme.b, width=1.5), hoverinfo="skip"))
    if words.has_control(r):
        fig.add_trace(go.Scatter(x=x + 0.14, y=r.block_noise[:, 0], mode="markers", marker=dict(symbol="square", size=7, color=theme.null_line),
                                 hovertemplate="noise as large as the change: %{y:.4g} nats<extra></extra>"))
        plots.note(fig, theme, "■ noise of its size", 1.0, 1.0, color=theme.axis, xanchor="right", yanchor="bottom", yshift=4)
    hover = "%{customdata[0]:.4g} nats (%{customdata[1]:.4g}–%{customdata[2]:.4g})"
    plots.dots(fig, theme, "B", x, r.accumulated[:, 0], low=r.accumulated[:, 1], high=r.accumulated[:, 2], along="y", custom=r.accumulated, hover="all blocks of B up to this one<br>" + hover)
    plots.dots(fig, theme, "B", x - 0.14, r.block_kl[:, 0], low=r.block_kl[:, 1], high=r.block_kl[:, 2], along="y", custom=r.block_kl, hover="only this block of B<br>" + hover,
               marker=dict(symbol="diamond-open", size=8, color=theme.b, line=dict(width=1.5)))
    plots.note(fig, theme, f'<span style="color:{theme.b}">◇</span> alone  <span style="color:{theme.b}">◆</span> all up to here  <span style="color:{theme.b}">┄</span> sum of alone', 0.0, 1.0,
               color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


# ---- the stream


def _stream_card(r) -> Figure:
    control = len(r.stream_noise) > 0
    return Figure(
        "stream", "Where B leaves A",
        "A jump marks the block where the two part" + ("; inside the grey band random noise of the same size does as much." if control else "."),
        {"": partial(stream, r)}, tables.stream(r),
        f"1 − cos between the residual streams of A and B after each block, mean over {r.n_tokens:,} tokens, 95 % bootstrap intervals over sequences."
        + (f" Grey: range over {len(r.stream_noise)} draws of A with noise on every changed matrix." if control else ""),
        f"Distance of the streams by depth, from {number(r.stream[0, 0])} before the first block to {number(r.stream[-1, 0])} after the last.",
    )


def stream(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=60, r=14, t=26, b=42))
    x = np.arange(len(r.stream), dtype=float)
    fig.update_layout(xaxis=dict(title="after block", **plots.ticks(["in", *r.layers])), yaxis=dict(title="1 − cos to A’s stream", rangemode="tozero", showgrid=True))
    if len(r.stream_noise):
        low, high = r.stream_noise.min(0), r.stream_noise.max(0)
        fig.add_trace(go.Scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], mode="lines", fill="toself", fillcolor=theme.null_fill, line=dict(width=1, color=theme.null_line), hoverinfo="skip"))
        plots.note(fig, theme, "■ noise of the same size", 0.62, 1.0, color=theme.axis, xanchor="left", yanchor="bottom", yshift=4)
    fig.add_trace(go.Scatter(x=x, y=r.stream[:, 0], mode="lines", line=dict(color=theme.b, width=1.5), hoverinfo="skip"))
    plots.dots(fig, theme, "B", x, r.stream[:, 0], low=r.stream[:, 1], high=r.stream[:, 2], along="y", custom=r.stream, hover="1 − cos %{customdata[0]:.4g} (%{customdata[1]:.4g}–%{customdata[2]:.4g})")
    for layer in sorted({i for i, _ in r.removed if {(i, "attn"), (i, "mlp")} <= set(r.removed)}):
        plots.note(fig, theme, "removed", float(r.layers.index(layer) + 1), 0.0, ref=("x", "paper"), textangle=-90, yanchor="bottom", yshift=4)
    plots.note(fig, theme, f'<span style="color:{theme.b}">◆</span> B', 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


# ---- errors of weights and outputs


def _errors_card(r) -> Figure:
    grown = int((r.output_accumulated[r.changed] > r.output_isolated[r.changed]).sum())
    return Figure(
        "errors", "Weights moved, outputs moved",
        f"Below the dashed line a matrix’s output moved less than its weights. On what B feeds it (open), {grown} of {int(r.changed.sum())} changed matrices are further off than on A’s inputs (filled).",
        {"": partial(errors, r)}, tables.parts(r),
        "Relative Frobenius errors of each matrix, log axes: weights across; outputs up, on A’s own inputs (filled) and on what B feeds it (open).",
        f"Scatter of {int(r.changed.sum())} changed matrices; weight errors {number(float(r.weight_error.min()))}–{number(float(r.weight_error.max()))}.",
    )


def errors(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=60, r=14, t=26, b=46))
    at = np.flatnonzero(r.changed & (r.weight_error > 0))
    if not len(at):
        plots.note(fig, theme, "no block matrix is changed", 0.5, 0.5)
        return fig
    x, inside, through = r.weight_error[at], r.output_isolated[at].clip(1e-7), r.output_accumulated[at].clip(1e-7)
    both = np.concatenate([inside, through])
    fig.update_layout(xaxis=dict(title="‖W′ − W‖ / ‖W‖ (log)", **plots.log_axis(x.min(), max(x.max(), 1.5 * x.min()), 0.08, 6)),
                      yaxis=dict(title="error of the output, relative (log)", **plots.log_axis(both.min(), max(both.max(), 1.5 * both.min()), 0.08, 6)))
    low, high = min(x.min(), both.min()), max(x.max(), both.max())
    fig.add_trace(go.Scatter(x=[low, high], y=[low, high], mode="lines", line=dict(color=theme.null_line, width=1.5, dash="dash"), hoverinfo="skip"))
    plots.joins(fig, theme, np.stack([x, inside], 1), np.stack([x, through], 1))
    fig.update_traces(showlegend=False)
    text = [words.part(r, u) for u in at]
    kinds = [str(n) for n in r.names]
    shapes = ("circle", "square", "triangle-up", "diamond", "cross", "star", "pentagon")
    for k, name in enumerate(kinds):
        own = [i for i, u in enumerate(at) if r.name[u] == name]
        if own:
            shape = shapes[k % len(shapes)]
            fig.add_trace(go.Scatter(x=x[own], y=inside[own], mode="markers", name=name, showlegend=True, marker=dict(symbol=shape, size=8, color=theme.b), text=[text[i] for i in own],
                                     hovertemplate="%{text}<br>weights %{x:.4g}, output on A’s inputs %{y:.4g}<extra></extra>"))
            fig.add_trace(go.Scatter(x=x[own], y=through[own], mode="markers", name=name, showlegend=False, marker=dict(symbol=f"{shape}-open", size=8, color=theme.b), text=[text[i] for i in own],
                                     hovertemplate="%{text}<br>weights %{x:.4g}, output on what B feeds it %{y:.4g}<extra></extra>"))
    fig.update_layout(showlegend=True, legend=dict(orientation="h", x=0, y=1.0, xanchor="left", yanchor="bottom", font=dict(size=theme.size, color=theme.text), itemclick=False))
    return fig


# ---- spectra


def _spectra_card(r) -> Figure:
    of = {name: _most_changed(r, name) for name in map(str, r.names)}
    chosen = {name: u for name, u in of.items() if u is not None}
    return Figure(
        "spectra", "Singular values", "Of each kind of matrix the one whose weights changed most. Where B’s line ends early, directions are gone.",
        {name: partial(spectrum, r, u) for name, u in chosen.items()}, tables.spectra(r),
        "Singular values of W in A (blue) and B (vermilion) by index, log axis: " + ", ".join(f"{name} of block {r.layer[u]}" for name, u in chosen.items()) + ".",
        "Lines of singular values of A and B for one matrix of each kind; the data holds all matrices.",
    )


def _most_changed(r, name: str) -> int | None:
    own = [u for u in np.flatnonzero(r.changed) if r.name[u] == name]
    return max(own, key=lambda u: r.weight_error[u]) if own else None


def spectrum(r, u: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=60, r=14, t=26, b=42))
    a, b = r.spectrum_a[u], r.spectrum_b[u]
    known = np.isfinite(a)
    top = float(np.nanmax(np.concatenate([a[known], b[known]])))
    floor = top * 1e-4
    fig.update_layout(xaxis=dict(title=f"index, of {int(known.sum())}"), yaxis=dict(title="singular value (log)", **plots.log_axis(max(float(np.nanmin(a[known])), floor), top, 0.06, 6)))
    for label, values in (("A", a), ("B", b)):
        v = values[known]
        here = v > floor
        fig.add_trace(go.Scatter(x=(np.arange(len(v)) + 1)[here], y=v[here], mode="lines", line=dict(color=theme.run(label), width=1.8, dash="solid" if label == "A" else "dash"), name=label,
                                 hovertemplate=f"{label}, value %{{x}}: %{{y:.4g}}<extra></extra>"))
    plots.key(fig, theme, ["A", "B"])
    plots.note(fig, theme, f"block {r.layer[u]}", 1.0, 1.0, color=theme.axis, xanchor="right", yanchor="bottom", yshift=4)
    return fig


# ---- masks


def _masks_card(r) -> Figure:
    rows = [str(n) for n in r.names if r.zeros_b[r.name == n].max() > 0]
    order = sorted(rows, key=lambda n: -r.zeros_b[r.name == n].mean())
    shown = sorted(r.layers)[:ACROSS]
    return Figure(
        "masks", "Where B is zero",
        f"Each square is one matrix, outputs down and inputs across; darker is emptier. {number(100 * float(r.zeros_b.mean()), 3)} % of these weights are exactly zero."
        + (f" The first {ACROSS} blocks are drawn, the data holds all." if len(r.layers) > ACROSS else ""),
        {name: partial(masks, r, name, shown) for name in order}, tables.masks(r),
        f"Share of weights that are not zero in squares of each matrix of B, for blocks {', '.join(map(str, shown))}.",
        "; ".join(f"{name} {number(100 * float(r.zeros_b[r.name == name].mean()), 3)} % zero" for name in order) + ".", wide=True, height=228,
    )


def masks(r, name: str, layers: list[int], theme: Theme) -> go.Figure:
    side = r.density.shape[1]
    gap = max(side // 8, 1)
    z = np.full((side, len(layers) * (side + gap) - gap), np.nan)
    at = {int(layer): u for u, layer in enumerate(r.layer) if r.name[u] == name}
    for k, layer in enumerate(layers):
        z[:, k * (side + gap) : k * (side + gap) + side] = r.density[at[layer]]
    fig = figure(theme, margin=dict(l=14, r=84, t=8, b=36), height=228)
    middles = [k * (side + gap) + (side - 1) / 2 for k in range(len(layers))]
    fig.update_layout(xaxis=dict(tickmode="array", tickvals=middles, ticktext=[f"block {layer}: {100 * r.zeros_b[at[layer]]:.0f} % zero" if len(layers) <= 6 else str(layer) for layer in layers],
                                 range=[-0.5, z.shape[1] - 0.5]), yaxis=dict(visible=False, range=[side - 0.5, -0.5]))
    plots.heat(fig, theme, z, low=0.0, high=1.0, gap=0, hover="%{z:.1%} not zero", bar=dict(title=dict(text="share not zero", side="right"), tickvals=[0, 0.5, 1], ticktext=["0", "50 %", "100 %"]))
    return fig
