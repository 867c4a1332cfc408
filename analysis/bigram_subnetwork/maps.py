"""The map cards: the subnetwork by block and component, by head, along the run; covariance similarity along the depth."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.bigram_subnetwork import tables, words
from analysis.bigram_subnetwork.words import ALONE, EMPTY, FULL
from analysis.contract import Figure
from analysis.plots import number
from analysis.theme import Theme, figure, symbol
from metrics.subnetworks import ATTENTION


def height(n_layers: int) -> int:
    return 344 if n_layers <= 14 else min(344 + 14 * (n_layers - 14), 700)


# ---- by block and component


def places_card(runs) -> Figure:
    r, i = runs[0].result, words.chosen(runs[0])
    share = r.layer[i] / max(r.active[i], 1)
    top = int(share.sum(1).argmax())
    mlp = float(share[:, 4:].sum())
    return Figure(
        "places", "In which blocks and matrices does it lie?",
        f"Block {top} holds {words.percent(share[top].sum())} of it, MLPs {words.percent(mlp)} (of all weights {words.percent(r.layer_total[:, 4:].sum() / r.n_weights)}). "
        "“Kept” divides by the weights that are there.",
        {"share of it": partial(places, runs, "share"), "kept there": partial(places, runs, "kept")}, tables.places(runs),
        f"Active weights of the subnetwork of {words.name(r, i)} by block and component: as a share of the {r.active[i]:,} active weights, or of the weights of that component.",
        f"Heat map of active weights over {r.n_layers} blocks and {len(r.components)} components; most in block {top}.", height=height(r.n_layers),
    )


def places(runs, what: str, theme: Theme) -> go.Figure:
    r0 = runs[0].result
    fig = figure(theme, margin=dict(l=44, r=66, t=26, b=42), height=height(r0.n_layers))
    values = []
    for run in runs:
        r, i = run.result, words.chosen(run)
        values.append(100 * r.layer[i] / (max(r.active[i], 1) if what == "share" else np.where(r.layer_total > 0, r.layer_total, np.nan)))
    top = max(float(np.nanmax(v)) for v in values) or 1.0
    for n, (run, z) in enumerate(zip(runs, values)):
        r = run.result
        axes = _panel(fig, n, len(runs), [c.replace("MLP ", "MLP<br>") for c in r.components], r.n_layers)
        last = run is runs[-1]
        plots.heat(fig, theme, z, axes=axes, low=0, high=top, hover=f"{run.label} · block %{{y}}<br>%{{z:.3g}} %",
                   bar=dict(title=dict(text="% of the subnetwork" if what == "share" else "% kept", side="right"), nticks=5) if last else None)
        if r.n_layers <= 14:
            plots.add(fig, [plots.text_at(theme, _cell(z[y, x]), x, y, ref=axes, color=plots.ink(float(z[y, x]), 0, top))
                            for y in range(z.shape[0]) for x in range(z.shape[1]) if np.isfinite(z[y, x])])
        if len(runs) > 1:
            plots.note(fig, theme, run.label, 0, 1.0, ref=(f"{axes[0]} domain", "paper"), color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


def _cell(x: float) -> str:
    return f"{x:.0f}" if x >= 9.95 or x == 0 else f"{x:.1f}" if x >= 0.05 else "<0.1"


def _panel(fig: go.Figure, n: int, of: int, columns: list, n_rows: int) -> tuple[str, str]:
    """Axes of panel n of `of` beside each other; blocks downwards."""
    gap = 0.06 if of > 1 else 0.0
    width = (1 - gap * (of - 1)) / of
    tag = "" if n == 0 else str(n + 1)
    rows = plots.ticks(list(range(n_rows)), 24)
    fig.update_layout({
        f"xaxis{tag}": dict(domain=[n * (width + gap), n * (width + gap) + width], anchor=f"y{tag}", tickangle=0, **plots.ticks(columns, 17)),
        f"yaxis{tag}": dict(anchor=f"x{tag}", **{**rows, "range": [n_rows - 0.5, -0.5]}, **(dict(title="block") if n == 0 else dict(showticklabels=False))),
    })
    return f"x{tag}", f"y{tag}"


# ---- by head


def heads_card(runs) -> Figure:
    r, i = runs[0].result, words.chosen(runs[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = r.head[i] / r.head_total
    block, c, h = np.unravel_index(np.nanargmax(kept), kept.shape)
    groups = f" {r.n_kv} K and V heads serve {r.n_heads} query heads and are counted once." if r.n_kv < r.n_heads else ""
    return Figure(
        "heads", "Which heads does it use?", f"Most is kept of {ATTENTION[c]} of L{block}H{h}: {words.percent(kept[block, c, h])} of its weights.{groups} Few kept weights do not say what a head does.",
        {ATTENTION[c]: partial(heads, runs, c) for c in (2, 3, 0, 1)}, tables.heads(runs),
        f"Share of each attention head’s weights that is in the subnetwork of {words.name(r, i)}: its rows of Q, K and V, its columns of O. Fused matrices are taken apart as the architecture stores them.{groups}",
        f"Heat map of kept weights over {r.n_layers} blocks and {r.n_heads} heads; most in L{block}H{h}.", height=height(r.n_layers),
    )


def heads(runs, c: int, theme: Theme) -> go.Figure:
    r0 = runs[0].result
    fig = figure(theme, margin=dict(l=44, r=66, t=26, b=42), height=height(r0.n_layers))
    with np.errstate(invalid="ignore", divide="ignore"):
        each = [100 * run.result.head[words.chosen(run)] / run.result.head_total for run in runs]
    top = max(float(np.nanmax(z)) for z in each) or 1.0
    for n, (run, z) in enumerate(zip(runs, each)):
        n_heads = run.result.n_kv if c in (1, 2) else run.result.n_heads
        axes = _panel(fig, n, len(runs), list(range(n_heads)), run.result.n_layers)
        fig.update_layout({f"xaxis{axes[0][1:]}": dict(title="K/V head" if c in (1, 2) and run.result.n_kv < run.result.n_heads else "head")})
        plots.heat(fig, theme, z[:, c, :n_heads], axes=axes, low=0, high=top, hover=f"{run.label} · L%{{y}}H%{{x}}<br>{ATTENTION[c]}: %{{z:.3g}} % kept",
                   bar=dict(title=dict(text=f"% of the head’s {ATTENTION[c]} kept", side="right"), nticks=5) if run is runs[-1] else None)
        if len(runs) > 1:
            plots.note(fig, theme, run.label, 0, 1.0, ref=(f"{axes[0]} domain", "paper"), color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


# ---- covariance similarity


def covariance_card(runs) -> Figure:
    r, i = runs[0].result, words.chosen(runs[0])
    at = _views(r, i)
    far = r.covariance[at["subnetwork alone"]][0, -1] if "subnetwork alone" in at else np.nan
    return Figure(
        "covariance", "Which states vary alike?",
        f"Dark is unlike. First and last state of the whole model: {number(r.covariance[0][0, -1], 2)}, of the subnetwork: {number(far, 2)}. The random one barely changes the stream, so all its states are alike.",
        {run.label if len(runs) > 1 else "": partial(covariance, run) for run in runs}, tables.covariance(runs),
        f"Frobenius cosine of the covariances of the residual stream at two depths, each without its direction of largest variance; {r.n_geometry:,} tokens. Subnetwork of {words.name(r, i)}; random: same count in every matrix.",
        "Three maps of covariance similarity between states: whole model, subnetwork, random subnetwork.", height=380, wide=True,
    )


def _views(r, i: int) -> dict[str, int]:
    """Panels for the whole model, the mask alone and its random match."""
    out = {"whole model": 0}
    for v, (m, role) in enumerate(zip(r.view_mask, r.view_role)):
        if m == i:
            out["subnetwork alone" if role == "alone" else "as many random alone"] = v
    return out


def covariance(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=44, r=14, t=26, b=84), height=380)
    at = _views(r, words.chosen(run))
    names = ["emb", *range(r.covariance.shape[1] - 1)]
    for n, (title, v) in enumerate(at.items()):
        axes = _panel(fig, n, len(at), names, len(names))
        tag = axes[0][1:]
        fig.update_layout({f"xaxis{tag}": dict(title="state after block"), f"yaxis{tag}": dict(**plots.ticks(names, 24) | {"range": [len(names) - 0.5, -0.5]}, title="state after block" if n == 0 else None,
                                                                                               scaleanchor=axes[0], constrain="domain")})
        fig.update_layout({f"xaxis{tag}": dict(constrain="domain")})
        bar = plots.horizontal_bar(theme, "covariance similarity", 0.5, [0, 0.25, 0.5, 0.75, 1]) if n == 0 else None
        plots.heat(fig, theme, r.covariance[v], axes=axes, low=0, high=1, bar=bar, hover=f"{run.label} · {title}<br>%{{x}} and %{{y}}: %{{z:.3f}}")
        plots.note(fig, theme, title, 0.5, 1.0, ref=(f"{axes[0]} domain", "paper"), color=theme.text, xanchor="center", yanchor="bottom", yshift=4)
    return fig


# ---- along the run


def along_card(runs) -> Figure:
    run = next(run for run in runs if run.result.along)
    r, k = run.result, words.rule(run)
    i = list(r.of_kind("bigram")).index(words.chosen(run)) if words.chosen(run) in r.of_kind("bigram") else 0
    first = r.along_r[k, 0, i, 0]
    return Figure(
        "along", "How does the subnetwork form along the run?",
        f"At the first checkpoint λ {r.penalty[r.of_kind('bigram')[i]]:g} gives r = {number(first)} with {int(r.along_active[0, i]):,} weights; the whole model has {number(r.along_base[k, 0, FULL, 0])} there. "
        "Each checkpoint has masks of its own.",
        {"r": partial(along, run, "r"), "at equal size": partial(along, run, "size"), "where": partial(along_places, run)}, tables.along(runs),
        "r with the bigram table of the subnetworks trained at each checkpoint (one line per λ), of the whole model (dashed) and of the empty one (grey). “At equal size”: a power law r = c · (weights)^b fitted "
        "over the λ of a checkpoint, read off at three sizes.",
        f"r by checkpoint for {len(r.along)} checkpoints and the finished model.", wide=True,
    )


def _checkpoints(r) -> list[str]:
    short = [name.rpartition("@" if "@" in name else "/")[2].removeprefix("step-").removeprefix("step").lstrip("0") or "0" for name in r.along]
    return [*short, "end"]


def _with_end(r, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(r [checkpoint, λ, 3], active [checkpoint, λ], base r [checkpoint, base, 3]), the finished model last."""
    at = r.of_kind("bigram")
    return (np.concatenate([r.along_r[k], r.r[k, at, ALONE][None]]), np.concatenate([r.along_active, r.active[at][None]]), np.concatenate([r.along_base[k], r.base_r[k][None]]))


def along(run, what: str, theme: Theme) -> go.Figure:
    r = run.result
    values, active, base = _with_end(r, words.rule(run))
    x = np.arange(len(values))
    fig = figure(theme, margin=dict(l=52, r=86, t=26, b=42), height=344)
    fig.update_layout(xaxis=dict(title="checkpoint, step", tickvals=x, ticktext=_checkpoints(r), range=[-0.2, len(x) - 0.8]), yaxis=dict(title="r with the bigram table", showgrid=True))
    color = theme.run(run.label)
    if what == "size":
        sizes = [0.005 * r.n_weights, 0.05 * r.n_weights, 0.5 * r.n_weights]
        lines = {f"{words.percent(size / r.n_weights)}": np.array([[power_law(active[c], values[c, :, 0], size)] * 3 for c in x]) for size in sizes}
    else:
        lines = {f"λ {r.penalty[i]:g}": values[:, n] for n, i in enumerate(r.of_kind("bigram"))}
    for n, (name, v) in enumerate(lines.items()):
        fig.add_trace(go.Scatter(x=x, y=v[:, 0], mode="lines+markers", opacity=1 - 0.6 * n / len(lines), line=dict(color=color, width=1.5), marker=dict(symbol=symbol(run.label), size=7, color=color),
                                 error_y=None if what == "size" else dict(type="data", symmetric=False, array=v[:, 2] - v[:, 0], arrayminus=v[:, 0] - v[:, 1], thickness=1, width=0, color=color),
                                 hovertemplate=f"{name}<br>%{{y:.3f}}<extra></extra>", cliponaxis=False))
    for b, (dash_color, name) in enumerate(((color, "whole"), (theme.null_line, "empty"))):
        fig.add_trace(go.Scatter(x=x, y=base[:, b, 0], mode="lines", line=dict(color=dash_color, width=1.5, dash="dash"), hovertemplate=f"{name}<br>%{{y:.3f}}<extra></extra>"))
    ends = [(float(v[-1, 0]), name) for name, v in lines.items()] + [(float(base[-1, b, 0]), name) for b, name in enumerate(("whole", "empty"))]
    ends = [e for e in ends if np.isfinite(e[0])]
    low, high = min(values[..., 0].min(), base[..., 0].min()), max(values[..., 0].max(), base[..., 0].max())
    for y, (_, name) in zip(plots.apart([y for y, _ in ends], 0.06 * (high - low)), ends):
        plots.note(fig, theme, name, x[-1], y, ref=("x", "y"), xanchor="left", xshift=10)
    return fig


def power_law(active: np.ndarray, r: np.ndarray, size: float) -> float:
    """r at `size` weights from log r = log c + b log weights, least squares; NaN with fewer than two positive points."""
    here = (active > 0) & (r > 0)
    if len(np.unique(active[here])) < 2:
        return float("nan")
    b, c = np.polyfit(np.log(active[here]), np.log(r[here]), 1)
    return float(np.exp(c + b * np.log(size)))


def along_places(run, theme: Theme) -> go.Figure:
    """Share of the chosen λ's subnetwork in each block's attention and MLP, by checkpoint."""
    r = run.result
    at = list(r.of_kind("bigram"))
    n = at.index(words.chosen(run)) if words.chosen(run) in at else 0
    counts = np.concatenate([r.along_layer[:, n], r.layer[at[n]][None]])
    share = 100 * counts / np.maximum(counts.sum((1, 2), keepdims=True), 1)
    fig = figure(theme, margin=dict(l=44, r=66, t=26, b=42), height=344)
    both = (share[:, :, :4].sum(2).T, share[:, :, 4:].sum(2).T)
    for p, (name, z) in enumerate(zip(("attention", "MLP"), both)):
        axes = _panel(fig, p, 2, _checkpoints(r), r.n_layers)
        fig.update_layout({f"xaxis{axes[0][1:]}": dict(title="checkpoint, step")})
        plots.heat(fig, theme, z, axes=axes, low=0, high=max(float(v.max()) for v in both), hover=f"{name} of block %{{y}}<br>%{{z:.3g}} %", bar=dict(title=dict(text="% of the subnetwork", side="right"), nticks=5) if p else None)
        plots.note(fig, theme, name, 0, 1.0, ref=(f"{axes[0]} domain", "paper"), color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig
