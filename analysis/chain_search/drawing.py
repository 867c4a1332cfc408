"""The figure cards: chains by length and loss, the found one against random ones, the search, the chain itself, what edits did."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from analysis import plots
from analysis.chain_search import words
from analysis.chain_search.measure import read
from analysis.contract import Figure
from analysis.plots import number
from analysis.theme import Theme, figure
from metrics.chain_tree import EDITS

LEAST = 1e-5  # nats; a log axis ends there
HEIGHT = 344


def figures(runs) -> list[Figure]:
    return [_plane_card(runs), _controls_card(runs), _search_card(runs), _chain_card(runs), _edits_card(runs)]


def _views(runs, draw) -> dict:
    return {run.label if len(runs) > 1 else "": partial(draw, run) for run in runs}


def _links(runs) -> dict[str, str]:
    """A clicked chain opens what it costs, token by token."""
    return {str(c): f"compression_cost?a={run.subject}&b=~skip_loop:chain={c}" for run in runs[:1] for c in (*run.result.chain, *run.result.random, *run.result.control)}


def _lengths(chains) -> np.ndarray:
    return np.array([len(read(str(c))) for c in chains], int)


def _loss_axis(title: str, values: np.ndarray, log: bool) -> dict:
    if not log:
        return dict(title=title, showgrid=True)
    low = max(float(values[values > LEAST].min(initial=1e9)), LEAST) if (values > LEAST).any() else LEAST
    low = LEAST if (values <= LEAST).any() else low
    return dict(title=f"{title} (log)", **plots.log_axis(low, max(float(values.max()), low * 10), 0.06, 6, bool((values <= LEAST).any())))


# ---- all chains


def _plane_card(runs) -> Figure:
    r = runs[0].result
    return Figure(
        "chains", "Every chain that was measured", "Each mark is a chain; lower is closer, further left runs fewer blocks. The line joins the closest of each length; grey squares come from "
        "the random search. Click one to see what it costs, token by token.", _views(runs, plane), _table(runs),
        f"Length and loss ({words.what(runs[0])}, nats per token) of {len(r.chain)} chains measured by the tree search and {len(r.random)} by a random search, on the sequences it searched. "
        f"Price {number(r.price)} nats for the whole model; seed {runs[0].params.seed}.",
        f"Scatter of {len(r.chain)} chains. The cheapest is {r.found}.", height=HEIGHT, links=_links(runs),
    )


def plane(run, theme: Theme) -> go.Figure:
    r, log = run.result, run.params.loss == "kl"
    fig = figure(theme, margin=dict(l=62, r=14, t=26, b=42), height=HEIGHT)
    every = np.concatenate([r.loss, r.random_loss])
    lengths, blind = _lengths(r.chain), _lengths(r.random)
    span = sorted({*lengths.tolist(), *blind.tolist()})
    fig.update_layout(xaxis=dict(title="blocks that run", tickvals=span if len(span) < 15 else None, range=[span[0] - 0.5, span[-1] + 0.5]), yaxis=_loss_axis("loss, nats/token", every, log))
    up = lambda x: np.maximum(x, LEAST) if log else x
    for x, loss, chains, name, shift, mark in ((blind, r.random_loss, r.random, "random search", 0.12, dict(symbol="square", size=5, color=theme.null_line)),
                                               (lengths, r.loss, r.chain, "tree search", -0.12, dict(symbol=plots.symbol(run.label), size=6, color=theme.run(run.label), opacity=0.55))):
        fig.add_trace(go.Scatter(x=x + shift, y=up(loss), mode="markers", marker=mark, name=name, customdata=[[str(c)] for c in chains], cliponaxis=False,
                                 hovertemplate=name + " · %{customdata[0]}<br>%{y:.4g} nats/token<extra></extra>"))
    best = [(n, float(up(r.loss[lengths == n]).min())) for n in sorted(set(lengths.tolist()))]
    fig.add_trace(go.Scatter(x=[n - 0.12 for n, _ in best], y=[y for _, y in best], mode="lines", line=dict(color=theme.text, width=1.2), hoverinfo="skip"))
    at = int(np.flatnonzero(r.chain == r.found)[0])
    fig.add_trace(go.Scatter(x=[lengths[at] - 0.12], y=up(r.loss[[at]]), mode="markers", hoverinfo="skip", marker=dict(symbol="circle-open", size=15, color=theme.text, line=dict(width=1.6))))
    plots.note(fig, theme, f'<span style="color:{theme.run(run.label)}">{plots.MARK[plots.symbol(run.label)]}</span> tree search  <span style="color:{theme.null_line}">■</span> random search  ○ cheapest',
               0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


def _table(runs) -> pa.Table:
    rows = [{"model": run.label, "search": name, "order": i, "chain": str(c), "blocks": len(read(str(c))), "loss_nats": float(x), "cost_nats": float(y)}
            for run in runs for name, chains, loss, cost in (("tree", run.result.chain, run.result.loss, run.result.cost), ("random", run.result.random, run.result.random_loss, run.result.random_cost))
            for i, (c, x, y) in enumerate(zip(chains, loss, cost))]
    return pa.Table.from_pylist(rows)


# ---- the found chain against random ones


def _controls_card(runs) -> Figure:
    r = runs[0].result
    where = "on the prompt itself" if r.prompt else f"on {r.n_held} sequences that the search did not read"
    return Figure(
        "controls", "The found chain against random ones of its length", f"All {where}. Further left is closer; what stands among the grey squares is no better than luck.",
        {"": partial(controls, runs)}, _controls_table(runs),
        f"Loss in nats per token of the cheapest chain, of the cheapest of a random search as long, and of {len(r.control_loss)} random chains of the same length, {where}; bars are 95 % bootstrap intervals over sequences.",
        f"The found chain {r.found} at {number(r.found_loss[0])} nats; random chains of its length from {number(r.control_loss.min(initial=np.inf))}.", height=HEIGHT,
    )


def controls(runs, theme: Theme) -> go.Figure:
    log = runs[0].params.loss == "kl"
    fig = figure(theme, margin=dict(l=150, r=20, t=26, b=42), height=HEIGHT)
    up = lambda x: np.maximum(x, LEAST) if log else x
    rows, names, values = 0, [], [np.array([1e-3])]
    for run in runs:
        r, of = run.result, f" ({run.label})" if len(runs) > 1 else ""
        shake = np.random.default_rng(0).uniform(-0.22, 0.22, len(r.control_loss))
        fig.add_trace(go.Scatter(x=up(r.control_loss), y=rows + shake, mode="markers", marker=dict(symbol="square", size=5, color=theme.null_line), customdata=[[str(c)] for c in r.control],
                                 hovertemplate="random chain %{customdata[0]}<br>%{x:.4g} nats/token<extra></extra>", cliponaxis=False))
        for k, (three, label, color, symbol) in enumerate(((r.best_random_loss, "random search", theme.null_line, "diamond-open"), (r.found_loss, "found", theme.run(run.label), plots.symbol(run.label)))):
            v = up(three)
            bar = dict(type="data", symmetric=False, array=np.nan_to_num([v[2] - v[0]]), arrayminus=np.nan_to_num([v[0] - v[1]]), color=color, thickness=1.5, width=0)
            fig.add_trace(go.Scatter(x=[v[0]], y=[rows + 1 + k], mode="markers", marker=dict(symbol=symbol, size=9, color=color), error_x=bar, name=label, cliponaxis=False,
                                     hovertemplate=label + "<br>%{x:.4g} nats/token<extra></extra>"))
        names += [f"random, same length{of}", f"random search{of}", f"found{of}"]
        values += [r.control_loss, r.best_random_loss[np.isfinite(r.best_random_loss)], r.found_loss[np.isfinite(r.found_loss)]]
        rows += 3
    if not log:
        plots.dashed(fig, theme, float(runs[0].result.whole_loss[0]))
    fig.update_layout(xaxis=_loss_axis("loss, nats/token", np.concatenate(values[1:]), log), yaxis=dict(range=[-0.6, rows - 0.4], tickvals=list(range(rows)), ticktext=names))
    return fig


def _controls_table(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        plain = lambda three: {k: float(x) if np.isfinite(x) else None for k, x in zip(("loss_nats", "low", "high"), three)}
        rows += [{"model": run.label, "which": name, "chain": chain, **plain(three)} for name, chain, three in (
            ("found", r.found, r.found_loss), ("whole model", ".".join(map(str, r.blocks)), r.whole_loss), ("random search", r.best_random, r.best_random_loss))]
        rows += [{"model": run.label, "which": "random of the same length", "chain": str(c), "loss_nats": float(x), "low": None, "high": None} for c, x in zip(r.control, r.control_loss)]
    return pa.Table.from_pylist(rows, schema=pa.schema([("model", pa.string()), ("which", pa.string()), ("chain", pa.string()), *((n, pa.float64()) for n in ("loss_nats", "low", "high"))]))


# ---- the search


def _search_card(runs) -> Figure:
    r = runs[0].result
    return Figure(
        "search", "The cheapest chain so far", "The tree should lie below the grey line of a random search that measures as many chains; where it does not, the tree was not needed.",
        {"": partial(search, runs)}, _table(runs), f"Cost (loss plus {number(r.price)} nats × share of blocks that run) of the cheapest chain after so many were measured; seed {runs[0].params.seed}.",
        f"Falling lines: the tree ends at {number(r.cost.min())}, the random search at {number(r.random_cost.min())} nats.", height=HEIGHT,
    )


def search(runs, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=62, r=14, t=26, b=42), height=HEIGHT)
    fig.update_layout(xaxis=dict(title="chains measured"), yaxis=dict(title="cost of the cheapest, nats/token", showgrid=True))
    for run in runs:
        r = run.result
        for cost, line, name in ((r.random_cost, dict(color=theme.null_line, width=1.5, dash="dash", shape="hv"), "random search"), (r.cost, dict(color=theme.run(run.label), width=2, shape="hv"), "tree search")):
            fig.add_trace(go.Scatter(x=np.arange(1, len(cost) + 1), y=np.minimum.accumulate(cost), mode="lines", line=line, name=name, hovertemplate=f"{run.label} · {name}<br>%{{x}} chains: %{{y:.4g}} nats<extra></extra>"))
    marks = "  ".join(f'<span style="color:{theme.run(run.label)}">▬</span> tree{f" ({run.label})" if len(runs) > 1 else ""}' for run in runs)
    plots.note(fig, theme, f'{marks}  <span style="color:{theme.null_line}">▬</span> random', 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


# ---- the chain


def _chain_card(runs) -> Figure:
    r = runs[0].result
    return Figure(
        "chain", "The cheapest chain, step by step", "On the grey line every block runs in its place; a step to the right without a step up is a loop, a jump up a skip.",
        {"": partial(chain, runs)}, pa.Table.from_pylist([{"model": run.label, "step": i, "block": b} for run in runs for i, b in enumerate(read(run.result.found))]),
        f"Block that runs at each step of the cheapest chain, {r.found}. Grey: the model as it is.", f"Steps: {r.found}; {words.described(r)}.", height=HEIGHT,
        links={r.found: _links(runs)[r.found]},
    )


def chain(runs, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=HEIGHT)
    blocks = runs[0].result.blocks
    fig.add_trace(go.Scatter(x=list(range(len(blocks))), y=list(blocks), mode="lines", line=dict(color=theme.null_line, width=1.5, dash="dash"), hoverinfo="skip"))
    for run in runs:
        steps = read(run.result.found)
        fig.add_trace(go.Scatter(x=list(range(len(steps))), y=list(steps), mode="lines+markers", line=dict(color=theme.run(run.label), width=1), cliponaxis=False,
                                 marker=dict(symbol=plots.symbol(run.label), size=11, color=theme.run(run.label)), customdata=[[run.result.found]] * len(steps),
                                 hovertemplate="step %{x}: block %{y}<extra></extra>"))
    most = max(max(len(read(run.result.found)) for run in runs), len(blocks))
    fig.update_layout(xaxis=dict(title="step", range=[-0.5, most - 0.5], dtick=max(1, most // 12)), yaxis=dict(title="block", range=[blocks[0] - 0.5, blocks[-1] + 0.5], dtick=max(1, len(blocks) // 12), showgrid=True))
    plots.key(fig, theme, [run.label for run in runs])
    return fig


# ---- what edits did


def _edits_card(runs) -> Figure:
    r = runs[0].result
    known = np.isfinite(r.edit_change)
    least = np.unravel_index(np.nanargmin(np.where(known, r.edit_change, np.inf)), r.edit_change.shape) if known.any() else (0, 0)
    return Figure(
        "edits", "What an edit did to the cost", f"Below zero the edit paid, on the average of the chains in which it was tried; most here: {EDITS[least[0]]} at block {r.blocks[least[1]]}. Empty cells were not tried.",
        _views(runs, edits), pa.Table.from_pylist([{"model": run.label, "edit": kind, "block": int(b), "mean_change_nats": float(run.result.edit_change[k, i]) if run.result.edit_count[k, i] else None,
                                                    "times": int(run.result.edit_count[k, i])} for run in runs for k, kind in enumerate(EDITS) for i, b in enumerate(run.result.blocks)]),
        "Mean change of cost, nats per token, when an edit was opened in the tree, by kind and block: one block skipped, run again, or exchanged with the next.",
        f"Map of edits by block; the edit that paid most is {EDITS[least[0]]} at block {r.blocks[least[1]]}.", height=260, wide=True,
    )


def edits(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=66, r=20, t=14, b=42), height=260)
    squeezed = np.sign(r.edit_change) * np.sqrt(np.abs(r.edit_change))  # or one bad edit would hide all others
    top = float(np.nanmax(np.abs(squeezed))) if np.isfinite(squeezed).any() else 1.0
    bar = dict(thickness=8, title=dict(text="nats/token (√)", side="right"), len=0.9, tickvals=[-top, 0, top], ticktext=[f"{number(x, 2)}" for x in (-(top**2), 0, top**2)])
    plots.heat(fig, theme, squeezed, scale=theme.diverging, low=-top, high=top, bar=bar, custom=np.dstack([r.edit_count, r.edit_change]),
               hover="%{y} at block %{x}<br>%{customdata[1]:.4g} nats/token, tried %{customdata[0]} times")
    fig.update_layout(xaxis=dict(title="block", **plots.ticks(list(r.blocks), 32)), yaxis=dict(tickvals=[0, 1, 2], ticktext=list(EDITS), range=[2.5, -0.5]))
    if len(r.blocks) <= 14:
        plots.add(fig, [plots.text_at(theme, number(r.edit_change[k, i], 2), i, k, ref=("x", "y"), color=theme.text) for k in range(3) for i in range(len(r.blocks)) if r.edit_count[k, i]])
    return fig
