"""The figure cards, in the order of the page: enough, broken without, where, heads, overlap, training, depth, texts, and what was asked for besides."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.bigram_subnetwork import maps, passages, states, tables, words
from analysis.bigram_subnetwork.words import ABLATED, ALONE, EMPTY, FULL, RANDOM, RANDOM_ABLATED
from analysis.contract import Figure
from analysis.plots import number
from analysis.theme import Theme, figure, symbol


def figures(runs) -> list[Figure]:
    cards = [sweep_card(runs), broken_card(runs), maps.places_card(runs), maps.heads_card(runs)]
    if any(words.optimal(run) is not None for run in runs):
        cards.append(overlap_card(runs))
    if any(run.result.curves.shape[2] for run in runs):
        cards.append(training_card(runs))
    cards += [states.rotation_card(runs), states.lens_card(runs)]
    if any(words.before(run) is not None for run in runs):
        cards.append(states.compression_card(runs))
    if any(run.result.controls for run in runs):
        cards.append(states.controls_card(runs))
    if len(cards) % 2:
        cards[-1] = replace(cards[-1], wide=True)
    if any(run.result.along for run in runs):
        cards.append(maps.along_card(runs))
    return [*cards, maps.covariance_card(runs), passages.texts_card(runs)]


# ---- how few are enough

SWEEP = {"r": "r", "scaled": "scaled", "bits": "excess"}


def sweep_card(runs) -> Figure:
    a, r, i, k = runs[0], runs[0].result, words.chosen(runs[0]), words.rule(runs[0])
    dropped = f"{r.n_dropped:,} of {r.n_scored:,} tokens have a pair that the table has never seen and are {a.params.unseen}"
    return Figure(
        "weights_and_r", "How few weights are enough?", _sweep_reading(a),
        {name: partial(sweep, runs, what) for name, what in SWEEP.items()}, tables.sweep(runs),
        f"Pearson r between the surprisals of the model and of a bigram table ({r.table}, {r.n_pairs:,} pairs), {r.n_scored:,} tokens, against the number of active attention and MLP "
        f"weights (log). Filled: trained on the table, bars 95 % over sequences; hollow: trained on the model’s own predictions; grey: random masks with the same count "
        f"in every matrix, mean and range of {r.draws}. Dashed: the whole and the empty model. {dropped}.",
        f"r against active weights. The mask of {words.name(r, i)} has {r.active[i]:,} weights and r {number(r.r[k, i, ALONE, 0])}.",
    )


def _sweep_reading(run) -> str:
    r, i, k = run.result, words.chosen(run), words.rule(run)
    dropped = f"{r.n_dropped:,} of {r.n_scored:,} tokens {run.params.unseen} as unseen pairs" if r.n_dropped else "no pair of the text is new to the table"
    unsteady = [words.name(r, j) for j in range(len(r.kind)) if not r.stable[j]]
    return (f"Ringed: {words.name(r, i)}, looked at in the other figures; a weight costs λ/n = {number(r.penalty[i] / r.n_weights, 2)}; {dropped}."
            + (f" Unstable training, read with care: {', '.join(unsteady)}." if unsteady else ""))


def sweep(runs, what: str, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=344)
    active = np.concatenate([run.result.active for run in runs]).astype(float)
    low, high = max(active[active > 0].min(initial=1e9), 1), max(run.result.n_weights for run in runs)
    title = {"r": "r with the bigram table", "scaled": "r over the best subnetwork’s", "excess": "bits per token above the table"}[what]
    fig.update_layout(xaxis=dict(title="active weights (log)", **_counts(low, high)), yaxis=dict(title=title, showgrid=True))
    for run in reversed(runs):
        _sweep_run(fig, theme, run, what, first=run is runs[0])
    if what == "excess":
        fig.update_layout(yaxis=dict(rangemode="tozero"))
    plots.key(fig, theme, [run.label for run in runs])
    return fig


def _counts(low: float, high: float) -> dict:
    """Log axis of numbers of weights: 5K, 10K, 1M."""
    axis = plots.log_axis(low, high, most=7)
    return {**axis, "ticktext": [short(t) for t in axis["tickvals"]], "showgrid": False}


def _drawn(r, masks=slice(None)) -> np.ndarray:
    """Numbers of weights where a log axis can have them: an empty mask stands at 1."""
    return np.maximum(r.active[masks], 1).astype(float)


def short(n: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n >= size:
            return f"{n / size:.3g}{letter}"
    return f"{n:.3g}"


def _values(run, what: str) -> tuple[np.ndarray, np.ndarray]:
    """([mask, role, 3], [full and empty, 3]) of what is shown."""
    r, k = run.result, words.rule(run)
    if what == "excess":
        return r.excess, r.base_excess
    best = np.nanmax(r.r[k, :, ALONE, 0]) if what == "scaled" else 1.0
    return r.r[k] / best, r.base_r[k] / best


def _sweep_run(fig: go.Figure, theme: Theme, run, what: str, first: bool) -> None:
    r = run.result
    values, base = _values(run, what)
    color, x = theme.run(run.label), _drawn(r)
    custom = np.stack([r.penalty, r.penalty / r.n_weights, 100 * r.active / r.n_weights], 1)
    hover = "<br>%{x:,} weights (%{customdata[2]:.3g} %)<br>λ %{customdata[0]:g}, λ/n %{customdata[1]:.2g}<br>%{y:.3f}"
    main = r.of_kind("bigram", "imported")
    line = main[np.argsort(x[main])]
    v = values[line, RANDOM]
    fig.add_trace(go.Scatter(
        x=x[line], y=v[:, 0], mode="lines+markers", line=dict(color=theme.null_line, width=1.5, dash="dot"), customdata=custom[line], name="random", cliponaxis=False,
        marker=dict(symbol=symbol(run.label), size=6, color=theme.null_line), error_y=dict(type="data", symmetric=False, array=v[:, 2] - v[:, 0], arrayminus=v[:, 0] - v[:, 1],
        color=theme.null_line, thickness=1, width=0), hovertemplate=f"{run.label} · random, same counts{hover}<extra></extra>"))
    fig.add_trace(go.Scatter(x=x[line], y=values[line, ALONE, 0], mode="lines", line=dict(color=color, width=1.5), hoverinfo="skip"))
    v = values[line, ALONE]
    plots.dots(fig, theme, run.label, x[line], v[:, 0], low=v[:, 1], high=v[:, 2], along="y", custom=custom[line], hover=f"{run.label} · subnetwork{hover}")
    other = r.of_kind("optimal")
    plots.dots(fig, theme, run.label, x[other], values[other, ALONE, 0], custom=custom[other], hover=f"{run.label} · optimal{hover}")
    fig.data[-1].marker.update(color=theme.page, line=dict(width=1.5, color=color))
    i = words.chosen(run)
    fig.add_trace(go.Scatter(x=[x[i]], y=[values[i, ALONE, 0]], mode="markers", hoverinfo="skip", cliponaxis=False,
                             marker=dict(symbol=f"{symbol(run.label)}-open", size=15, color=color, line=dict(width=1.5, color=color))))
    for b, (label, dashed_in) in enumerate((("whole model", color), ("empty", theme.null_line))):
        y = base[b, 0]
        fig.add_shape(type="line", x0=0, x1=1, y0=y, y1=y, xref="x domain", yref="y", line=dict(color=dashed_in, width=1.5, dash="dash"), layer="below")
        if first:
            plots.note(fig, theme, f"{label} {number(y)}", 1.0, y, ref=("x domain", "y"), xanchor="right", yanchor="bottom", yshift=1)
    if first:
        _names(fig, theme, r, main[np.argsort(x[main])], values)


def _names(fig: go.Figure, theme: Theme, r, masks: np.ndarray, values: np.ndarray) -> None:
    """λ below each point, above it where the neighbour to the left is close."""
    at = np.log10(_drawn(r, masks))
    span = np.subtract(*fig.layout.xaxis.range[::-1])
    above = False
    for n, j in enumerate(masks):
        above = bool(n and at[n] - at[n - 1] < 0.09 * span and not above)
        plots.note(fig, theme, words.name(r, j), at[n], values[j, ALONE, 0], ref=("x", "y"), yanchor="bottom" if above else "top", yshift=9 if above else -9)


# ---- what breaks without them

ROWS = (("whole model", None), ("subnetwork alone", ALONE), ("random alone", RANDOM), ("without it", ABLATED), ("without random", RANDOM_ABLATED), ("without the optimal", "optimal"))


def broken_card(runs) -> Figure:
    a, r, i = runs[0], runs[0].result, words.chosen(runs[0])
    return Figure(
        "bits_without", "What does the model lose without them?",
        f"Alone it follows the bigram table with r = {number(r.r[words.rule(a), i, ALONE, 0])}; without it the text costs {number(r.loss[i, ABLATED, 0])} bits a token, without as many random weights "
        f"{number(r.loss[i, RANDOM_ABLATED, 0])}. It does not say that no other subset would do.",
        {"this subnetwork": partial(broken, runs), "every size": partial(broken_by_size, runs)}, tables.sweep(runs),
        f"Mean surprisal of the true next token in bits, {r.n_scored:,} tokens, bars 95 % over sequences; grey: random masks with the same count in every matrix, mean and "
        f"range of {r.draws}. The subnetwork is that of {words.name(r, i)}.",
        f"Bits per token: whole {number(r.base_loss[FULL, 0])}, subnetwork alone {number(r.loss[i, ALONE, 0])}, without it {number(r.loss[i, ABLATED, 0])}, without random weights "
        f"{number(r.loss[i, RANDOM_ABLATED, 0])}.",
    )


def _bits(run, role) -> np.ndarray:
    r, i = run.result, words.chosen(run)
    if role is None:
        return r.base_loss[FULL]
    if role == "optimal":
        j = words.optimal(run)
        return np.full(3, np.nan) if j is None else r.loss[j, ABLATED]
    return r.loss[i, role]


def broken(runs, theme: Theme) -> go.Figure:
    shown = [row for row in ROWS if row[1] != "optimal" or any(words.optimal(run) is not None for run in runs)]
    fig = figure(theme, margin=dict(l=152, r=14, t=26, b=42), height=344)
    fig.update_layout(xaxis=dict(title="bits per token", rangemode="tozero", showgrid=True),
                      yaxis=dict(tickvals=list(range(len(shown))), ticktext=[name for name, _ in shown], range=[len(shown) - 0.5, -0.5]))
    shift = (0.0,) if len(runs) == 1 else np.linspace(-0.16, 0.16, len(runs))
    for run, dy in zip(runs, shift):
        values = np.array([_bits(run, role) for _, role in shown])
        plots.dots(fig, theme, run.label, values[:, 0], np.arange(len(shown)) + dy, low=values[:, 1], high=values[:, 2], custom=values[:, 1:],
                   hover=f"{run.label} · %{{text}}<br>%{{x:.3f}} bits (%{{customdata[0]:.3f}}–%{{customdata[1]:.3f}})", text=[name for name, _ in shown])
        grey = [theme.null_line if role in (RANDOM, RANDOM_ABLATED) else theme.run(run.label) for _, role in shown]
        fig.data[-1].marker.update(color=grey)
        fig.data[-1].error_x.update(color=theme.null_line)
    plots.dashed(fig, theme, runs[0].result.base_loss[FULL, 0], ("x", "y domain"))
    plots.key(fig, theme, [run.label for run in runs])
    return fig


def broken_by_size(runs, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=344)
    active = np.concatenate([run.result.active for run in runs]).astype(float)
    fig.update_layout(xaxis=dict(title="weights taken out (log)", **_counts(max(active.min(), 1), max(active.max(), 2))), yaxis=dict(title="bits per token", rangemode="tozero", showgrid=True))
    for run in runs:
        r = run.result
        for kinds, role, color, dash, name in ((("bigram", "imported"), ABLATED, theme.run(run.label), "solid", "subnetwork"), (("optimal",), ABLATED, theme.run(run.label), "dash", "optimal"),
                                               (("bigram", "imported"), RANDOM_ABLATED, theme.null_line, "dot", "random")):
            at = r.of_kind(*kinds)
            at = at[np.argsort(r.active[at])]
            if not len(at):
                continue
            v = r.loss[at, role]
            fig.add_trace(go.Scatter(
                x=_drawn(r, at), y=v[:, 0], mode="lines+markers", line=dict(color=color, width=1.5, dash=dash), marker=dict(symbol=symbol(run.label), size=7, color=color), name=name,
                error_y=dict(type="data", symmetric=False, array=v[:, 2] - v[:, 0], arrayminus=v[:, 0] - v[:, 1], color=color, thickness=1, width=0), cliponaxis=False,
                hovertemplate=f"{run.label} · without {name}<br>%{{x:,}} weights<br>%{{y:.3f}} bits<extra></extra>"))
            if run is runs[0]:
                plots.note(fig, theme, name, np.log10(_drawn(r, at[-1])), v[-1, 0], ref=("x", "y"), xanchor="right", yanchor="bottom", yshift=5)
    y = runs[0].result.base_loss[FULL, 0]
    fig.add_shape(type="line", x0=0, x1=1, y0=y, y1=y, xref="x domain", yref="y", line=dict(color=theme.null_line, width=1.5, dash="dash"), layer="below")
    plots.key(fig, theme, [run.label for run in runs])
    return fig


# ---- what it shares with the optimal one


def overlap_card(runs) -> Figure:
    run = next(run for run in runs if words.optimal(run) is not None)
    r, i, j = run.result, words.chosen(run), words.optimal(run)
    shared = words.pair(r, i, j)
    z = (shared[0] - shared[4]) / shared[5] if shared[5] else 0.0
    return Figure(
        "overlap", "Is it part of what the model uses?",
        f"{number(100 * shared[0] / max(shared[1], 1))} % of the subnetwork lie in the optimal one of {words.name(r, j).removesuffix(', optimal')}, {number(shared[0] / max(shared[4], 1e-9))} times chance "
        f"(z = {number(z, 2)}); the paper’s row-shuffling null expects {number(shared[0] / max(shared[6], 1e-9))} times.",
        {"overlap": partial(overlap, runs), "the optimal ones": partial(optimal, runs)}, tables.overlaps(runs),
        f"Share of the bigram subnetwork ({words.name(r, i)}) that lies in subnetworks trained on the model’s own predictions, by their λ. Grey: expected when both masks lie at random "
        "within each matrix (hypergeometric, ± 1.96 standard deviations); small grey diamond: expected when only whole rows are shuffled.",
        f"Overlap with the optimal subnetwork: {int(shared[0]):,} weights, expected {number(shared[4])}.",
    )


def overlap(runs, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=120, r=14, t=26, b=42), height=344)
    rows = []
    for run in runs:
        i = words.chosen(run)
        rows += [(run, j, words.pair(run.result, i, j)) for j in run.result.of_kind("optimal")]
    names = [f"{run.label + ' · ' if len(runs) > 1 else ''}optimal λ {run.result.penalty[j]:g}" for run, j, _ in rows]
    fig.update_layout(xaxis=dict(title="share of the bigram subnetwork, %", rangemode="tozero", showgrid=True), yaxis=dict(tickvals=list(range(len(rows))), ticktext=names, range=[len(rows) - 0.5, -0.5]))
    for y, (run, j, (shared, a, b, n, expected, spread, by_rows)) in enumerate(rows):
        scale = 100 / max(a, 1)
        fig.add_shape(type="rect", x0=(expected - 1.96 * spread) * scale, x1=(expected + 1.96 * spread) * scale, y0=y - 0.28, y1=y + 0.28, fillcolor=theme.null_line, line_width=0, layer="below")
        fig.add_trace(go.Scatter(x=[by_rows * scale], y=[y], mode="markers", marker=dict(symbol="diamond-open", size=7, color=theme.null_line),
                                 hovertemplate="rows shuffled, as in the paper’s code<br>%{x:.3f} %<extra></extra>"))
        plots.dots(fig, theme, run.label, [shared * scale], [y], custom=[[shared, expected, spread, shared / max(expected, 1e-9)]],
                   hover=f"{run.label} · {names[y]}<br>%{{x:.2f}} %: %{{customdata[0]:,.0f}} weights<br>expected %{{customdata[1]:,.1f}} ± %{{customdata[2]:.1f}}, ratio %{{customdata[3]:.2f}}")
        plots.note(fig, theme, f"{number(shared / max(expected, 1e-9))} × chance", shared * scale, y, ref=("x", "y"), color=theme.text, yanchor="bottom", yshift=7)
    return fig


def optimal(runs, theme: Theme) -> go.Figure:
    """r of the optimal subnetworks, with the whole model and with the table, against their size."""
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=344)
    active = np.concatenate([run.result.active[run.result.of_kind("optimal")] for run in runs]).astype(float)
    fig.update_layout(xaxis=dict(title="active weights (log)", **_counts(max(active.min(), 1), max(active.max(), 2))), yaxis=dict(title="r", showgrid=True))
    for run in runs:
        r, k = run.result, words.rule(run)
        at = r.of_kind("optimal")
        at = at[np.argsort(r.active[at])]
        for values, dash, name in ((r.to_model[at], "solid", "with the whole model"), (r.r[k, at, ALONE], "dash", "with the bigram table")):
            if len(at):
                fig.add_trace(go.Scatter(x=_drawn(r, at), y=values[:, 0], mode="lines", line=dict(color=theme.run(run.label), width=1.5, dash=dash), hoverinfo="skip"))
                plots.dots(fig, theme, run.label, _drawn(r, at), values[:, 0], low=values[:, 1], high=values[:, 2], along="y", hover=f"{run.label} · {name}<br>%{{x:,}} weights<br>r %{{y:.3f}}")
                if run is runs[0]:
                    plots.note(fig, theme, name, np.log10(_drawn(r, at[-1])), values[-1, 0], ref=("x", "y"), xanchor="right", yanchor="bottom", yshift=7)
    plots.key(fig, theme, [run.label for run in runs])
    return fig


# ---- training

CURVE = {"loss": (0, "cross-entropy, nats per position", 1), "active": (1, "weights with m > 0, % (log)", 100), "r": (2, "r on the batch, masks soft", 1), "undecided": (3, "masks between 0.1 and 0.9, %", 100)}


def training_card(runs) -> Figure:
    run = next(run for run in runs if run.result.curves.shape[2])
    r, s = run.result, run.result.schedule
    there = np.isfinite(r.curves[0, :, 0])
    ended = np.isfinite(r.curves[0]).sum(1)[there]
    gap = float(np.nanmax(np.abs(r.gap[there])))
    settled = "all settled by the stop rule" if r.settled[there].all() else f"{int((~r.settled[there]).sum())} of {int(there.sum())} had not settled"
    return Figure(
        "training", "How the masks were trained",
        f"{run.params.preset.capitalize()} preset: {s['rows']} sequences a step, rate {s['rate']:g}, T × {s['growth']:g} a step; {ended.min()}–{ended.max()} steps of at most {s['steps']:,}, {settled}; "
        f"hard masks cost at most {number(gap, 2)} nats more or less than soft ones on the last batch.",
        {name: partial(training, runs, *curve) for name, curve in CURVE.items()}, tables.curves(runs),
        f"Training of the masks by continuous sparsification, AdamW on the mask logits alone: rate {s['rate']:g}, weight decay {s['decay']:g}, {s['rows']} sequences a step, start {s['start']:g}, "
        f"T multiplied by {s['growth']:g} each step, stopped when masks between 0.1 and 0.9 are fewer than {100 * s['settled']:g} % of those above 0.9; at most {s['attempts']} attempts; "
        f"{r.n_train:,} sequences; seed {s['seed']}. Dashed: trained on the model’s own predictions. Losses are soft-mask values on the batch; results elsewhere are of hard masks.",
        f"Training curves of {int(there.sum())} masks over {ended.max()} steps.",
    )


def training(runs, curve: int, title: str, scale: float, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=58, t=26, b=42), height=344)
    fig.update_layout(xaxis=dict(title="step"), yaxis=dict(title=title, showgrid=True))
    if curve == 1:
        values = np.concatenate([run.result.curves[1].ravel() for run in runs]) * scale
        values = values[np.isfinite(values) & (values > 0)]
        fig.update_layout(yaxis=plots.log_axis(values.min(), values.max()))
    ends = []
    for run in runs:
        r = run.result
        masks = [i for i in range(len(r.kind)) if r.curves.shape[2] and np.isfinite(r.curves[0, i, 0])]
        for n, i in enumerate(masks):
            y = scale * r.curves[curve, i]
            here = np.isfinite(y)
            fig.add_trace(go.Scatter(x=np.flatnonzero(here) + 1, y=y[here], mode="lines", opacity=1 - 0.6 * n / max(len(masks), 1), name=words.name(r, i),
                                     line=dict(color=theme.run(run.label), width=1.5, dash="dash" if r.kind[i] == "optimal" else "solid"),
                                     hovertemplate=f"{run.label} · {words.name(r, i)}<br>step %{{x}}<br>%{{y:.4g}}<extra></extra>"))
            if run is runs[0] and here.any():
                ends.append((int(here.sum()), float(y[here][-1]), f"{r.penalty[i]:g}"))
    _label_ends(fig, theme, ends, log=curve == 1)
    plots.note(fig, theme, "λ, dashed: optimal", 1.0, 1.0, xanchor="right", yanchor="bottom", yshift=4, xshift=54)
    plots.key(fig, theme, [run.label for run in runs])
    return fig


def _label_ends(fig: go.Figure, theme: Theme, ends: list, log: bool) -> None:
    """λ at the end of each line; labels that would collide are moved apart."""
    if not ends:
        return
    at = np.array([np.log10(max(y, 1e-9)) if log else y for _, y, _ in ends])
    every = np.concatenate([np.log10(np.maximum(t.y, 1e-9)) if log else np.asarray(t.y) for t in fig.data])
    gap = max(float(np.nanmax(every) - np.nanmin(every)), 1e-9) * 0.055
    placed = plots.apart(at.tolist(), gap)
    right = max(x for x, _, _ in ends)
    plots.add(fig, [plots.text_at(theme, text, right, y, ref=("x", "y"), xanchor="left", xshift=5) for (_, _, text), y in zip(ends, placed)])
