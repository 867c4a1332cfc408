"""The figure cards: similarity beside damage, the score's worth, spans, CKA, the joint ranking, spectra."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.layer_redundancy import maps, tables, words
from analysis.layer_redundancy.words import ATTENTION, BLOCK, MLP, gone, scope
from analysis.plots import number
from analysis.theme import Theme, figure

SCORE = ("Block Influence, 1 − cos", "attention score, 1 − cos", "MLP score, 1 − cos")
NAMES = ("block", "attention", "MLP")
VIEWS = {"blocks": BLOCK, "attention": ATTENTION, "MLP": MLP}


def figures(runs) -> list[Figure]:
    measured = words.measured(runs[0])
    cards = [_damage_card(runs)] if measured else [_similarity_card(runs)]
    if measured:
        cards.append(_worth_card(runs))
    return [*cards, maps.spans_card(runs), maps.cka_card(runs), maps.ranking_card(runs), maps.spectra_card(runs)]


def _kinds(runs) -> dict[str, int]:
    """Views that have anything measured."""
    return {name: kind for name, kind in VIEWS.items() if any(np.isfinite(r.result.kl[kind]).any() for r in runs)}


def _height(n_layers: int) -> int:
    return 344 if n_layers <= 14 else min(344 + 14 * (n_layers - 14), 700)


# ---- similarity and damage, block by block


def _damage_card(runs) -> Figure:
    kinds = _kinds(runs)
    a = runs[0].result
    return Figure(
        "similarity_and_damage", "Similarity score and measured damage, block by block", _damage_reading(runs),
        {name if len(kinds) > 1 else "": partial(damage, runs, kind) for name, kind in kinds.items()}, tables.units(runs),
        f"Left: similarity score of each block, attention or MLP, the mean over {a.n_tokens:,} tokens of 1 − cos between the residual stream "
        f"without and with it. Right: mean KL divergence, in nats per token, of the model with it removed from the model as it is "
        f"({a.n_measured} sequences, {a.n_measured_tokens:,} tokens); bars are 95 % bootstrap intervals over sequences, log axis. "
        "Dashed: median of A.",
        f"Bars of similarity per block and dots of measured KL per block. Cheapest to remove: block {a.blocks[words.cheapest(runs[0])]} at "
        f"{number(a.kl[BLOCK, words.cheapest(runs[0]), scope(runs[0])])} nats per token.",
        height=_height(words.depth(runs)), links=_without(runs[0]),
    )


def _without(run) -> dict[str, str]:
    """A clicked block opens what its removal costs, token by token."""
    return {str(block): f"compression_cost?a={run.subject}&b=~drop_layers:blocks={block}" for block in run.result.blocks}


def _damage_reading(runs) -> str:
    text = ("A short bar says the block barely turns the residual stream; the right side says what removing it costs, with 95 % intervals. "
            "Click a block to see its removal token by token.")
    return text + (" Each model is measured against itself." if len(runs) > 1 else "")


def _similarity_card(runs) -> Figure:
    a = runs[0].result
    return Figure(
        "similarity", "Similarity score, block by block", "A short bar says the block barely turns the residual stream. No removal was measured.",
        {name: partial(damage, runs, kind, bars_only=True) for name, kind in VIEWS.items()}, tables.units(runs),
        f"Similarity score of each block: mean over {a.n_tokens:,} tokens of 1 − cos between the residual stream without and with it.",
        f"Bars of similarity per block; the shortest is block {a.blocks[words.most_similar(runs[0])]}.", height=_height(words.depth(runs)),
    )


def damage(runs, kind: int, theme: Theme, bars_only: bool = False) -> go.Figure:
    """Bars of the score left, dots of measured KL right, on one axis of blocks."""
    n_layers = words.depth(runs)
    right = [0.52, 1.0]
    fig = figure(theme, margin=dict(l=44, r=14, t=26, b=42), height=_height(n_layers), bargap=0.42 if len(runs) == 1 else 0.3)
    fig.update_layout(
        xaxis=dict(domain=[0, 1.0 if bars_only else 0.44], rangemode="tozero", showgrid=True, title=SCORE[kind], nticks=6),
        yaxis=dict(title="block", range=[n_layers - 0.5, -0.5], **{k: v for k, v in plots.ticks(list(range(n_layers)), 24).items() if k != "range"}))
    for run in runs:
        r, s = run.result, scope(run)
        fig.add_trace(go.Bar(x=r.score[kind, :, s], y=r.blocks, orientation="h", marker_color=theme.run(run.label), name=run.label,
                             customdata=np.stack([r.score_low[kind, :, s], r.score_high[kind, :, s]], 1),
                             hovertemplate=f"{run.label} · {NAMES[kind]} %{{y}}<br>1 − cos %{{x:.4f}} (%{{customdata[0]:.4f}}–%{{customdata[1]:.4f}})<extra></extra>"))
    if not bars_only:
        fig.update_layout(xaxis2=dict(domain=right, anchor="y", title="mean KL when removed, nats/token (log)"))
        _kl_dots(fig, theme, runs, kind)
        _marks(fig, theme, runs, kind)
    _absent(fig, theme, runs, kind)
    plots.key(fig, theme, [run.label for run in runs])
    return fig


def _kl_dots(fig: go.Figure, theme: Theme, runs, kind: int) -> None:
    values = np.concatenate([run.result.kl[kind, :, scope(run)] for run in runs])
    floor, clipped = plots.log_floor(values)
    fig.update_layout(xaxis2=plots.log_axis(floor, max(np.nanmax(values), floor * 2), most=5, clipped=clipped))
    shift = (0.0,) if len(runs) == 1 else np.linspace(-0.17, 0.17, len(runs))
    size = 8 if runs[0].result.n_layers <= 16 else 6
    for run, dy in zip(runs, shift):
        r, s = run.result, scope(run)
        kl, low, high = (np.maximum(v[kind, :, s], floor) for v in (r.kl, r.kl_low, r.kl_high))
        custom = np.stack([r.blocks, r.kl[kind, :, s], r.kl_low[kind, :, s], r.kl_high[kind, :, s], r.perplexity[kind, :, s],
                           np.full(len(kl), r.base_perplexity[s]), r.agreement[kind, :, s]], 1)
        plots.dots(fig, theme, run.label, kl, r.blocks + dy, low=low, high=high, axes=("x2", "y"), size=size, custom=custom,
                   hover=f"{run.label} without {NAMES[kind]} %{{customdata[0]}}<br>KL %{{customdata[1]:.4g}} nats/token (%{{customdata[2]:.4g}}–%{{customdata[3]:.4g}})"
                         "<br>perplexity %{customdata[4]:.4g}, with it %{customdata[5]:.4g}<br>same top-1 token %{customdata[6]:.1%}")


def _marks(fig: go.Figure, theme: Theme, runs, kind: int) -> None:
    """Median of A, the cheapest block, and the one with the lowest score where that is another."""
    a, s = runs[0], scope(runs[0])
    kl, score = a.result.kl[kind, :, s], a.result.score[kind, :, s]
    if not np.isfinite(kl).any():
        return
    median = float(np.nanmedian(kl))
    plots.dashed(fig, theme, median, ("x2", "y domain"))
    plots.note(fig, theme, f"median of A {number(median)}" if len(runs) > 1 else f"median {number(median)}", np.log10(max(median, 1e-9)), 1.0,
               ref=("x2", "paper"), yanchor="bottom", yshift=4)
    best, lowest = int(np.nanargmin(kl)), int(np.nanargmin(score))
    right = np.log10(max(kl[best], 1e-4)) < np.mean(fig.layout.xaxis2.range)
    plots.note(fig, theme, "cheapest", np.log10(max(kl[best], 1e-4)), a.result.blocks[best], ref=("x2", "y"), color=theme.text,
               xanchor="left" if right else "right", xshift=14 if right else -14, yshift=7 if len(runs) > 1 else 0)
    if lowest != best:
        longest = max(np.nanmax(run.result.score[kind, run.result.blocks == a.result.blocks[lowest], scope(run)], initial=0) for run in runs)
        plots.note(fig, theme, "lowest score", longest, a.result.blocks[lowest], ref=("x", "y"), color=theme.text, xanchor="left", xshift=8)


def _absent(fig: go.Figure, theme: Theme, runs, kind: int) -> None:
    """The words “removed in B” where a bar is missing."""
    for run in runs:
        for block in gone(run):
            others = [r.result.score[kind, r.result.blocks == block, scope(r)] for r in runs if block not in gone(r)]
            x = float(max((np.nanmax(o, initial=0) for o in others), default=0.0))
            plots.note(fig, theme, f"removed in {run.label}", x, block, ref=("x", "y"), xanchor="left", xshift=8)


# ---- does the score predict the damage


def _worth_card(runs) -> Figure:
    views = {name: kind for name, kind in {**_kinds(runs), "attention and MLP": None}.items()}
    if ATTENTION not in views.values():
        views.pop("attention and MLP")
    return Figure(
        "score_against_damage", "Does the score predict the damage?", _worth_reading(runs),
        {name if len(views) > 1 else "": partial(worth, runs, kind) for name, kind in views.items()}, tables.worth(runs, views),
        "Left: measured KL of removing each block against its similarity score, both axes log; a grey line joins the same block in A and B. "
        "Right: Spearman’s rank correlation of the two with its 95 % interval (Bonett and Wright); grey: 95 % of 10,000 random pairings.",
        "; ".join(f"{run.label}: rank correlation {number(words.correlation(run, BLOCK).rho, 2)} over {words.correlation(run, BLOCK).n} blocks" for run in runs) + ".",
        height=_height(words.depth(runs)),
    )


def _worth_reading(runs) -> str:
    run = runs[0]
    found = words.correlation(run, BLOCK)
    if not np.isfinite(found.rho):
        return f"With {found.n} blocks there is nothing to correlate."
    outside = found.rho > found.null_high or found.rho < found.null_low
    lead = ("The score orders the blocks better than a shuffled one" if outside and found.rho > 0 else
            "The score orders the blocks the wrong way round" if outside else "The score orders the blocks no better than a shuffled one can")
    lead = f"In {run.label}: " + lead[0].lower() + lead[1:] if len(runs) > 1 else lead
    r, s = run.result, scope(run)
    by_score, by_kl = np.argsort(np.argsort(r.score[BLOCK, :, s])), np.argsort(np.argsort(r.kl[BLOCK, :, s]))
    i = int(np.argmax(np.abs(by_score - by_kl)))
    return (f"{lead} (ρ = {number(found.rho, 2)}, n = {found.n}, p = {number(found.p, 2)}). "
            + (f"Furthest apart: block {r.blocks[i]}, rank {by_score[i] + 1} by score and {by_kl[i] + 1} by damage." if by_score[i] != by_kl[i]
               else "Score and damage give the same order."))


def worth(runs, kind: int | None, theme: Theme) -> go.Figure:
    """Score against measured KL, and the rank correlation over its null."""
    fig = figure(theme, margin=dict(l=52, r=6, t=26, b=42), height=_height(words.depth(runs)))
    kinds = (kind,) if kind is not None else (ATTENTION, MLP)
    points = {run.label: _points(run, kinds, words.depth(runs)) for run in runs}
    every = np.concatenate(list(points.values()))
    (x_floor, x_clipped), (y_floor, y_clipped) = (plots.log_floor(every[:, c]) for c in (0, 1))
    name = SCORE[kind] if kind is not None else "attention or MLP score, 1 − cos"
    fig.update_layout(
        xaxis=dict(domain=[0, 0.7], title=f"{name} (log)", **plots.log_axis(x_floor, max(np.nanmax(every[:, 0]), 2 * x_floor), 0.1, 5, x_clipped)),
        yaxis=dict(title="mean KL when removed, nats/token (log)", **plots.log_axis(y_floor, max(np.nanmax(every[:, 1]), 2 * y_floor), 0.08, 8, y_clipped)),
        xaxis2=dict(domain=[0.84, 1.0], anchor="y2", range=[-0.5, len(runs) - 0.5], tickvals=list(range(len(runs))), ticktext=[r.label for r in runs],
                    title="n = " + words.listed([words.correlation(run, kind).n for run in runs])),
        yaxis2=dict(anchor="x2", range=[-1.04, 1.04], tickvals=[-1, -0.5, 0, 0.5, 1], ticktext=["−1", "−0.5", "0", "0.5", "1"], title="rank correlation ρ",
                    tickfont=dict(color=theme.axis)))
    at = {label: np.maximum(p[:, :2], (x_floor, y_floor)) for label, p in points.items()}
    if len(runs) == 2:
        plots.joins(fig, theme, at[runs[0].label], at[runs[1].label])
    for run in reversed(runs):
        p, xy = points[run.label], at[run.label]
        hollow = p[:, 3] == MLP if kind is None else np.zeros(len(p), bool)
        color = theme.run(run.label)
        plots.dots(fig, theme, run.label, xy[:, 0], xy[:, 1], custom=np.stack([p[:, 2], p[:, 0], p[:, 1]], 1),
                   text=[f"{NAMES[int(k)]} {int(b)}" for b, k in p[:, 2:4]], hover=f"{run.label} · %{{text}}<br>1 − cos %{{customdata[1]:.4f}}<br>KL %{{customdata[2]:.4g}} nats/token")
        fig.data[-1].marker.update(color=["rgba(0,0,0,0)" if h else color for h in hollow], line=dict(width=1.5, color=color))
    _block_labels(fig, theme, runs, points, at)
    if kind is None:
        plots.note(fig, theme, "filled attention, hollow MLP", 0.70, 1.0, xanchor="right", yanchor="bottom", yshift=4)
    _null_panel(fig, theme, runs, kind)
    plots.key(fig, theme, [run.label for run in runs])
    return fig


def _points(run, kinds, n_layers: int) -> np.ndarray:
    """[unit, (score, KL, block, kind)], over n_layers blocks, NaN where one is gone."""
    r, s = run.result, scope(run)
    out = np.full((len(kinds) * n_layers, 4), np.nan)
    for row, kind in enumerate(kinds):
        at = row * n_layers + r.blocks
        out[row * n_layers : (row + 1) * n_layers, 2] = np.arange(n_layers)
        out[row * n_layers : (row + 1) * n_layers, 3] = kind
        out[at, 0], out[at, 1] = r.score[kind, :, s], r.kl[kind, :, s]
    return out


def _block_labels(fig: go.Figure, theme: Theme, runs, points, at) -> None:
    """Block numbers once, at A's points."""
    a = runs[0].label
    here = np.isfinite(at[a]).all(1)
    to_unit = lambda xy: np.stack([(np.log10(xy[:, c]) - axis.range[0]) / (axis.range[1] - axis.range[0])
                                   for c, axis in enumerate((fig.layout.xaxis, fig.layout.yaxis))], 1)
    others = np.concatenate([at[run.label][np.isfinite(at[run.label]).all(1)] for run in runs[1:]] or [np.empty((0, 2))])
    xy = to_unit(at[a][here])
    sides = plots.label_sides(xy[:, 0], xy[:, 1], to_unit(others), 340, 270)
    plots.add(fig, [plots.text_at(theme, str(int(block)), np.log10(x), np.log10(y), ref=("x", "y"), color=theme.text, xanchor=anchor, xshift=dx, yshift=dy)
                    for (anchor, dx, dy), (x, y), block in zip(sides, at[a][here], points[a][here, 2])])


def _null_panel(fig: go.Figure, theme: Theme, runs, kind) -> None:
    for x, run in enumerate(runs):
        found = words.correlation(run, kind)
        if not np.isfinite(found.rho):
            continue
        plots.band(fig, theme, x - 0.5, x + 0.5, found.null_low, found.null_high, ("x2", "y2"))
        plots.dots(fig, theme, run.label, [x], [found.rho], low=[found.low], high=[found.high], along="y", axes=("x2", "y2"),
                   custom=[[found.low, found.high, found.null_low, found.null_high, found.p]],
                   hover=f"{run.label}: ρ %{{y:.2f}} (%{{customdata[0]:.2f}} to %{{customdata[1]:.2f}})<br>shuffled %{{customdata[2]:.2f}} to %{{customdata[3]:.2f}}, p %{{customdata[4]:.3f}}")
        plots.note(fig, theme, number(found.rho, 2), x, found.high, ref=("x2", "y2"), color=theme.text, yanchor="bottom", yshift=2)
        if x == 0:
            plots.note(fig, theme, "shuffled, 95 %" if len(runs) > 1 else "shuffled,<br>95 %", (len(runs) - 1) / 2, found.null_low, ref=("x2", "y2"), yanchor="bottom", yshift=1)
