"""The figure cards: the map of levels, fitness by generation, predicted against measured KL, held-out controls."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from analysis import plots
from analysis.contract import Figure
from analysis.evopress import words
from analysis.evopress.words import ADDITIVE, FOUND, UNIFORM
from analysis.plots import number
from analysis.theme import Theme, figure

HEIGHT = 344
LEAST = 1e-6


def figures(runs) -> list[Figure]:
    return [_map_card(runs), _held_card(runs), _fitness_card(runs), _additive_card(runs)]


def opens(run) -> str:
    """The link that opens the found assignment as B, token by token."""
    return f"compression_cost?a={run.subject}&b=~{run.result.step}"


# ---- which level where


def _map_card(runs) -> Figure:
    r = runs[0].result
    return Figure(
        "levels", "The level of every matrix", "Bright cells kept more bits than the budget’s level, dark ones gave some away; the number is the level. Click a cell to open the assignment as B.",
        {run.label if len(runs) > 1 else "": partial(level_map, run) for run in runs}, _levels_table(runs),
        f"Level ({runs[0].params.dial} of {runs[0].params.operator}) that the search gave each {runs[0].params.unit}, at exactly the bits of {r.levels[r.target]} everywhere; seed {runs[0].params.seed}.",
        f"Map of levels. {words._most(r)}", height=_map_height(r), wide=True, links={str(b): opens(runs[0]) for b in r.blocks} | {words.label(r, u): opens(runs[0]) for u in range(len(r.found))},
    )


def _map_height(r) -> int:
    return 150 + 26 * (len(r.names) if r.name[0] else 1)


def level_map(run, theme: Theme) -> go.Figure:
    r = run.result
    rows = list(r.names) if r.name[0] else [""]
    fig = figure(theme, margin=dict(l=140 if r.name[0] else 30, r=20, t=14, b=42), height=_map_height(r))
    share, text, custom = np.full((len(rows), len(r.blocks)), np.nan), [], np.full((len(rows), len(r.blocks)), "", dtype=object)
    for u, k in enumerate(r.found):
        at = (rows.index(str(r.name[u])), r.blocks.index(int(r.layer[u])))
        share[at] = np.log2(r.bits[u, k] / r.bits[u, r.target])
        custom[at] = words.label(r, u)
        text.append((at, r.levels[k]))
    top = max(float(np.nanmax(np.abs(share))), 0.1)
    bar = dict(thickness=8, title=dict(text="bits over budget’s", side="right"), len=0.95, tickvals=[-top, 0, top], ticktext=[f"× {number(2**x, 2)}" for x in (-top, 0, top)])
    plots.heat(fig, theme, share, low=-top, high=top, bar=bar, custom=custom, hover="%{customdata}<br>2<sup>%{z:.3g}</sup> times the bits of the budget’s level")
    fig.update_layout(xaxis=dict(title="block", **plots.ticks(list(r.blocks), 32)), yaxis=dict(tickvals=list(range(len(rows))), ticktext=rows, range=[len(rows) - 0.5, -0.5]))
    if len(r.blocks) <= 32:
        plots.add(fig, [plots.text_at(theme, level, x, y, ref=("x", "y"), color=plots.ink(share[y, x], -top, top)) for (y, x), level in text])
    return fig


def _levels_table(runs) -> pa.Table:
    return pa.Table.from_pylist([{"model": run.label, "block": int(r.layer[u]), "matrix": str(r.name[u]), "level": r.levels[k], "bits": int(r.bits[u, k]), "additive_choice": r.levels[r.additive[u]],
                                  **{f"kl_alone_at_{level}": float(r.single[u, i]) for i, level in enumerate(r.levels)}} for run in runs for r in [run.result] for u, k in enumerate(r.found)])


# ---- was it worth it


def _held_card(runs) -> Figure:
    r = runs[0].result
    return Figure(
        "held_out", "Found against controls of the same bits", f"On {r.n_held} sequences that the search did not read. Left is closer; inside the grey squares the search was no better than luck.",
        {"": partial(held, runs)}, pa.Table.from_pylist([{"model": run.label, "which": name, "kl_nats": float(three[0]), "low": float(three[1]), "high": float(three[2])} for run in runs for name, three in
                                                         (("found", run.result.held[FOUND]), ("uniform", run.result.held[UNIFORM]), ("additive choice", run.result.held[ADDITIVE]))]
                                                        + [{"model": run.label, "which": "random", "kl_nats": float(x), "low": None, "high": None} for run in runs for x in run.result.control]),
        f"KL(original ‖ mixture), nats per token, held out, all at {r.budget:,} bits of block matrices; bars are 95 % bootstrap intervals over sequences.",
        f"Found {number(r.held[FOUND, 0])}, uniform {number(r.held[UNIFORM, 0])}, additive {number(r.held[ADDITIVE, 0])}, random median {number(float(np.median(r.control)))} nats.", height=HEIGHT,
    )


def held(runs, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=130, r=20, t=26, b=42), height=HEIGHT)
    names, values, row = [], [], 0
    for run in runs:
        r, of = run.result, f" ({run.label})" if len(runs) > 1 else ""
        shake = np.random.default_rng(0).uniform(-0.22, 0.22, len(r.control))
        fig.add_trace(go.Scatter(x=np.maximum(r.control, LEAST), y=row + shake, mode="markers", marker=dict(symbol="square", size=5, color=theme.null_line), hovertemplate="random: %{x:.4g} nats/token<extra></extra>", cliponaxis=False))
        for k, (which, label, color, mark) in enumerate(((UNIFORM, "uniform", theme.null_line, "square"), (ADDITIVE, "additive choice", theme.null_line, "diamond-open"), (FOUND, "found", theme.run(run.label), plots.symbol(run.label)))):
            v = np.maximum(r.held[which], LEAST)
            bar = dict(type="data", symmetric=False, array=[v[2] - v[0]], arrayminus=[v[0] - v[1]], color=color, thickness=1.5, width=0)
            fig.add_trace(go.Scatter(x=[v[0]], y=[row + 1 + k], mode="markers", marker=dict(symbol=mark, size=9, color=color), error_x=bar, cliponaxis=False, hovertemplate=label + ": %{x:.4g} nats/token<extra></extra>"))
        names += [f"{n}{of}" for n in ("random", "uniform", "additive choice", "found")]
        values += [r.control, r.held.ravel()]
        row += 4
    every = np.maximum(np.concatenate(values), LEAST)
    fig.update_layout(xaxis=dict(title="KL to the original, nats/token (log)", **plots.log_axis(float(every.min()), float(every.max()), 0.06, 6)), yaxis=dict(range=[-0.6, row - 0.4], tickvals=list(range(row)), ticktext=names))
    return fig


# ---- the evolution


def _fitness_card(runs) -> Figure:
    r = runs[0].result
    return Figure(
        "fitness", "Fitness by generation", "KL of the best assignment on the searched text; it starts at the uniform level (dashed) and cannot rise. Grey band: random assignments.",
        {"": partial(fitness, runs)}, pa.Table.from_pylist([{"model": run.label, "generation": i, "best_kl_nats": float(x)} for run in runs for i, x in enumerate(run.result.fitness)]),
        f"KL on the searched half, nats per token, of the best of {runs[0].params.offspring} offspring and their parent, by generation; band: range of {len(r.control)} random assignments of the same bits.",
        f"Falls from {number(r.fitness[0])} to {number(r.fitness[-1])} nats in {len(r.fitness) - 1} generations.", height=HEIGHT,
    )


def fitness(runs, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=66, r=14, t=26, b=42), height=HEIGHT)
    every = np.maximum(np.concatenate([np.concatenate([run.result.fitness, run.result.control_measured]) for run in runs]), LEAST)
    fig.update_layout(xaxis=dict(title="generation"), yaxis=dict(title="KL, nats/token (log)", **plots.log_axis(float(every.min()), float(every.max()), 0.06, 6)))
    first = runs[0].result
    if len(first.control_measured):
        fig.add_shape(type="rect", x0=0, x1=1, xref="x domain", y0=max(first.control_measured.min(), LEAST), y1=first.control_measured.max(), fillcolor=theme.null_fill, line_width=0, layer="below")
    fig.add_shape(type="line", x0=0, x1=1, xref="x domain", y0=max(first.fitness[0], LEAST), y1=max(first.fitness[0], LEAST), line=dict(color=theme.null_line, width=1.5, dash="dash"), layer="below")
    for run in runs:
        y = np.maximum(run.result.fitness, LEAST)
        fig.add_trace(go.Scatter(x=np.arange(len(y)), y=y, mode="lines+markers", line=dict(color=theme.run(run.label), width=1.5, shape="hv"), marker=dict(symbol=plots.symbol(run.label), size=5, color=theme.run(run.label)),
                                 hovertemplate=f"{run.label}, generation %{{x}}: %{{y:.4g}} nats<extra></extra>"))
    plots.key(fig, theme, [run.label for run in runs])
    return fig


# ---- do damages add up


def _additive_card(runs) -> Figure:
    r = runs[0].result
    return Figure(
        "additivity", "Predicted against measured KL", f"On the diagonal damages add up; above it they are worse together. Rank correlation {number(words.additivity(r), 2)}: only where it is near 1 could single measurements replace the search.",
        {"": partial(additivity, runs)}, pa.Table.from_pylist([{"model": run.label, "kind": kind, "predicted_nats": float(x), "measured_nats": float(y)} for run in runs for kind, xs, ys in
                                                               (("search", run.result.predicted, run.result.measured), ("random", run.result.control_predicted, run.result.control_measured)) for x, y in zip(xs, ys)]),
        "Sum of the KLs of every unit alone at its level, against the KL of all together, on the searched text; grey: random assignments, all of the same bits.",
        f"Scatter of {len(r.predicted)} assignments and {len(r.control)} random ones around the diagonal.", height=HEIGHT,
    )


def additivity(runs, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=66, r=20, t=26, b=42), height=HEIGHT)
    both = [np.maximum(np.concatenate([getattr(run.result, f) for run in runs for f in fields]), LEAST) for fields in (("predicted", "control_predicted"), ("measured", "control_measured"))]
    axes = [plots.log_axis(float(v.min()), float(v.max()), 0.08, 6) for v in both]
    fig.update_layout(xaxis=dict(title="predicted KL, nats/token (log)", **axes[0]), yaxis=dict(title="measured KL, nats/token (log)", **axes[1]))
    low, high = max(axes[0]["range"][0], axes[1]["range"][0]), min(axes[0]["range"][1], axes[1]["range"][1])
    if high > low:
        fig.add_trace(go.Scatter(x=[10**low, 10**high], y=[10**low, 10**high], mode="lines", line=dict(color=theme.null_line, width=1.5, dash="dash"), hoverinfo="skip"))
    for run in runs:
        r = run.result
        for x, y, mark, name in ((r.control_predicted, r.control_measured, dict(symbol="square", size=5, color=theme.null_line), "random"),
                                 (r.predicted, r.measured, dict(symbol=plots.symbol(run.label), size=6, color=theme.run(run.label), opacity=0.7), f"{run.label}, search")):
            fig.add_trace(go.Scatter(x=np.maximum(x, LEAST), y=np.maximum(y, LEAST), mode="markers", marker=mark, hovertemplate=name + "<br>predicted %{x:.4g}, measured %{y:.4g} nats<extra></extra>", cliponaxis=False))
    return fig
