"""The cards along the depth: rotations and lenses; and what was asked for besides: compression, embedding controls."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.bigram_subnetwork import tables, words
from analysis.bigram_subnetwork.words import ALONE, EMPTY, FULL, RANDOM
from analysis.contract import Figure
from analysis.plots import number
from analysis.theme import Theme, figure, symbol


def _lines(run, theme: Theme) -> list[tuple[int, str, dict]]:
    """(view, name, line) of the whole model, the chosen mask alone and its random match."""
    r, i = run.result, words.chosen(run)
    color = theme.run(run.label)
    out = [(0, "whole", dict(color=color, dash="dash", width=1.5))]
    for v, (m, role) in enumerate(zip(r.view_mask, r.view_role)):
        if m == i:
            out.append((v, "subnetwork", dict(color=color, width=2)) if role == "alone" else (v, "random", dict(color=theme.null_line, dash="dot", width=1.5)))
    return out


def _names(r) -> list:
    return ["emb", *range(r.rotation.shape[1] - 1)]


def _draw(fig: go.Figure, theme: Theme, runs, values, axes: tuple[str, str], unit: str, label: bool) -> None:
    for run in reversed(runs):
        for v, name, line in _lines(run, theme):
            y = values(run.result, v)
            fig.add_trace(go.Scatter(x=np.arange(len(y)), y=y, mode="lines+markers", line=line, xaxis=axes[0], yaxis=axes[1], cliponaxis=False, name=name,
                                     marker=dict(symbol=symbol(run.label), size=6 if name == "subnetwork" else 4, color=line["color"]),
                                     hovertemplate=f"{run.label} · {name}<br>after block %{{text}}<br>%{{y:.3g}}{unit}<extra></extra>", text=[str(n) for n in _names(run.result)]))


_KEY = "Solid: subnetwork, dashed: whole, dotted grey: random."


def rotation_card(runs) -> Figure:
    r, i = runs[0].result, words.chosen(runs[0])
    v = _lines(runs[0], _ANY)[1][0] if len(r.view_mask) > 1 else 0
    return Figure(
        "rotation", "From the token towards the output: how far is the stream turned?",
        f"The first block turns the subnetwork’s stream {number(r.rotation[v, 1, 0], 2)}° away from the token and from {number(r.rotation[v, 0, 1], 2)}° to {number(r.rotation[v, 1, 1], 2)}° off the output "
        f"(whole model {number(r.rotation[0, 1, 0], 2)}°, {number(r.rotation[0, 0, 1], 2)}° to {number(r.rotation[0, 1, 1], 2)}°). {_KEY}",
        {"": partial(rotation, runs)}, tables.rotations(runs),
        f"Median angle of the eigenvalues of ridge maps (penalty 1, intercept) from the residual stream after each block to the raw token embedding (left) and to the last state before the final norm (right), "
        f"{r.n_geometry:,} tokens. Subnetwork of {words.name(r, i)}; random: same count in every matrix.",
        "Rotation angle to input and to output over depth, whole model, subnetwork and random subnetwork.",
    )


def rotation(runs, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=344)
    names = _names(max((run.result for run in runs), key=lambda r: r.rotation.shape[1]))
    for n, title in enumerate(("to the token embedding", "to the output")):
        tag = "" if n == 0 else "2"
        fig.update_layout({f"xaxis{tag}": dict(domain=[0.54 * n, 0.54 * n + 0.46], anchor=f"y{tag}", title="state after block", **plots.ticks(names)),
                           f"yaxis{tag}": dict(anchor=f"x{tag}", title="median rotation, degrees" if n == 0 else None, showgrid=True, rangemode="tozero", matches="y" if n else None)})
        _draw(fig, theme, runs, lambda r, v, n=n: r.rotation[v, :, n], (f"x{tag}", f"y{tag}"), "°", n == 0)
        plots.note(fig, theme, title, 0.5, 1.0, ref=(f"x{tag} domain", "paper"), color=theme.text, xanchor="center", yanchor="bottom", yshift=4)
    return fig


LENS = {"r with the output": (0, "r with the output’s surprisals", ""), "cross-entropy": (1, "cross-entropy to the output, bits", " bits"), "input token": (2, "input token recalled first, %", " %")}


def lens_card(runs) -> Figure:
    r = runs[0].result
    v = _lines(runs[0], _ANY)[1][0] if len(r.view_mask) > 1 else 0
    return Figure(
        "lens", "How early is the output there, and the input still?",
        f"After the first block a linear map of the subnetwork’s stream follows its output with r = {number(r.lens[v, 1, 0])} (whole model {number(r.lens[0, 1, 0])}); the input token is read back from the last state "
        f"in {words.percent(r.lens[v, -1, 2])} (whole {words.percent(r.lens[0, -1, 2])}). {_KEY}",
        {name: partial(lens, runs, *what) for name, what in LENS.items()}, tables.rotations(runs),
        f"Each state, mapped linearly to the output state, then final norm and unembedding: Pearson r of its surprisals with the output’s, and cross-entropy to the output’s distribution. Input token: the state mapped to the "
        f"token embedding, the true token has the largest dot product. Maps are fitted on the same {r.n_geometry:,} tokens.",
        "Lens curves over depth for the whole model, the subnetwork and a random subnetwork.",
    )


def lens(runs, column: int, title: str, unit: str, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=344)
    scale = 100 if column == 2 else 1
    names = _names(max((run.result for run in runs), key=lambda r: r.rotation.shape[1]))
    fig.update_layout(xaxis=dict(title="state after block", **plots.ticks(names)), yaxis=dict(title=title, showgrid=True))
    _draw(fig, theme, runs, lambda r, v: scale * r.lens[v, :, column], ("x", "y"), unit, True)
    plots.key(fig, theme, [run.label for run in runs])
    return fig


class _ANY:
    """Stands for a theme where only the order of the lines matters."""

    null_line = ""
    run = staticmethod(lambda label: "")


# ---- what compression did to it


def compression_card(runs) -> Figure:
    run = next(run for run in runs if words.before(run) is not None)
    r, j, k = run.result, words.before(run), words.rule(run)
    gone, everywhere, z = r.pruned[j]
    lost = (f"{words.percent(gone)} of the weights of the subnetwork trained before were removed, of all weights {words.percent(everywhere)} (z = {number(z, 2)})" if everywhere > 0 else
            f"the subnetwork’s weights moved by {words.percent(r.moved[j, 0])} of their size, all weights by {words.percent(r.moved[j, 1])}")
    shared = words.pair(r, words.chosen(run), j)
    again = f" A mask trained anew shares {number(shared[0] / max(shared[4], 1e-9))} times chance with it." if shared is not None else ""
    return Figure(
        "compression", "Does compression keep the subnetwork?", f"{lost[0].upper() + lost[1:]}; what is left of it has r = {number(r.r[k, j, ALONE, 0])}.{again}",
        {"r": partial(survival, runs), "removed and moved": partial(losses, runs)}, tables.compression(runs),
        "Masks trained on the model before its compression, laid over the compressed weights. Left view: r with the table before, after, and of masks trained anew; grey: random masks with the same count. Right view: share of the "
        "masks’ weights that are zero now (dots) beside the share of all weights (grey), and how far the rest moved (root mean square change over root mean square weight).",
        f"r of the subnetwork after compression {number(r.r[k, j, ALONE, 0])}.",
    )


def survival(runs, theme: Theme) -> go.Figure:
    run = next(run for run in runs if words.before(run) is not None)
    r, k = run.result, words.rule(run)
    at = r.of_kind("before")
    fig = figure(theme, margin=dict(l=76, r=14, t=26, b=42), height=344)
    rows = [f"λ {r.penalty[j]:g}" for j in at]
    fig.update_layout(xaxis=dict(title="r with the bigram table", showgrid=True), yaxis=dict(tickvals=list(range(len(rows))), ticktext=rows, range=[len(rows) - 0.5, -0.5], title="mask trained before"))
    y = np.arange(len(at))
    v = r.r[k, at, RANDOM]
    fig.add_trace(go.Scatter(x=v[:, 0], y=y, mode="markers", marker=dict(symbol=symbol(run.label), size=7, color=theme.null_line), hovertemplate="random, same counts<br>r %{x:.3f}<extra></extra>",
                             error_x=dict(type="data", symmetric=False, array=v[:, 2] - v[:, 0], arrayminus=v[:, 0] - v[:, 1], color=theme.null_line, thickness=1, width=0)))
    v = r.r[k, at, ALONE]
    plots.dots(fig, theme, run.label, v[:, 0], y, low=v[:, 1], high=v[:, 2], hover=f"{run.label}: what is left of it<br>r %{{x:.3f}}")
    anew = {float(r.penalty[i]): i for i in r.of_kind("bigram")}
    new = np.array([r.r[k, anew[float(r.penalty[j])], ALONE, 0] if float(r.penalty[j]) in anew else np.nan for j in at])
    plots.dots(fig, theme, run.label, new, y - 0.22, hover=f"{run.label}: trained anew<br>r %{{x:.3f}}")
    fig.data[-1].marker.update(color=theme.page, line=dict(width=1.5, color=theme.run(run.label)))
    others = [other for other in runs if other is not run and len(other.result.of_kind("bigram"))]
    for other in others[:1]:
        found = {float(other.result.penalty[i]): i for i in other.result.of_kind("bigram")}
        old = np.array([other.result.r[k, found[float(r.penalty[j])], ALONE, 0] if float(r.penalty[j]) in found else np.nan for j in at])
        plots.dots(fig, theme, other.label, old, y + 0.22, hover=f"{other.label}: before compression<br>r %{{x:.3f}}")
    plots.dashed(fig, theme, r.base_r[k, EMPTY, 0], ("x", "y domain"))
    plots.note(fig, theme, "filled: A’s masks · hollow: trained anew · grey: random, dashed: empty", 1.0, 1.0, xanchor="right", yanchor="bottom", yshift=4)
    return fig


def losses(runs, theme: Theme) -> go.Figure:
    run = next(run for run in runs if words.before(run) is not None)
    r = run.result
    at = r.of_kind("before")
    fig = figure(theme, margin=dict(l=76, r=14, t=26, b=42), height=344)
    rows, y = [f"λ {r.penalty[j]:g}" for j in at], np.arange(len(at))
    for n, (values, title) in enumerate(((100 * r.pruned[at][:, :2], "removed, %"), (100 * r.moved[at], "moved, % of their size"))):
        tag = "" if n == 0 else "2"
        fig.update_layout({f"xaxis{tag}": dict(domain=[0.54 * n, 0.54 * n + 0.46], anchor=f"y{tag}", title=title, rangemode="tozero", showgrid=True),
                           f"yaxis{tag}": dict(anchor=f"x{tag}", tickvals=list(range(len(rows))), ticktext=rows, range=[len(rows) - 0.5, -0.5], showticklabels=n == 0)})
        axes = (f"x{tag}", f"y{tag}")
        fig.add_trace(go.Scatter(x=values[:, 1], y=y, mode="markers", xaxis=axes[0], yaxis=axes[1], marker=dict(symbol=symbol(run.label), size=8, color=theme.null_line), hovertemplate="all weights<br>%{x:.3g} %<extra></extra>"))
        plots.dots(fig, theme, run.label, values[:, 0], y, axes=axes, hover=f"{run.label}: weights of the subnetwork<br>%{{x:.3g}} %")
    plots.note(fig, theme, "colour: the subnetwork’s weights · grey: all weights", 1.0, 1.0, xanchor="right", yanchor="bottom", yshift=4)
    return fig


# ---- how much the embeddings do


def controls_card(runs) -> Figure:
    run = next(run for run in runs if run.result.controls)
    r, k = run.result, words.rule(run)
    trained = r.control_r[k, 1, 0]
    return Figure(
        "controls", "How much do the embeddings do alone?",
        f"A body that was never trained reaches r = {number(trained)} with the trained embeddings, {number(r.control_r[k, 0, 0])} with random ones: r does not say that the body stores bigrams, the number of weights it takes does.",
        {"": partial(controls, runs)}, tables.controls(runs),
        "r with the bigram table of λ = 0 masks on the trained model, on a freshly initialised body with the trained embeddings, and on a fresh model; beside them the whole and the empty model, and the linear map from the "
        "chosen subnetwork’s first state to its output.",
        f"r of embedding controls: {', '.join(f'{name} {number(r.control_r[k, i, 0])}' for i, name in enumerate(r.controls))}.",
    )


def controls(runs, theme: Theme) -> go.Figure:
    names = ["subnetwork, smallest λ", "random body, trained embeddings", "random body and embeddings", "linear map only", "whole model", "empty"]
    fig = figure(theme, margin=dict(l=196, r=14, t=26, b=42), height=344)
    fig.update_layout(xaxis=dict(title="r with the bigram table", showgrid=True), yaxis=dict(tickvals=list(range(6)), ticktext=names, range=[5.5, -0.5]))
    for run in runs:
        r, k = run.result, words.rule(run)
        sweep = r.of_kind("bigram")
        first = r.r[k, sweep[0], ALONE] if len(sweep) else np.full(3, np.nan)
        own = [v for v in range(len(r.view_mask)) if r.view_mask[v] == words.chosen(run) and r.view_role[v] == "alone"]
        line = np.array([r.linear[own[0]]] * 3) if own else np.full(3, np.nan)
        none = np.full(3, np.nan)
        control = (r.control_r[k, 1], r.control_r[k, 0]) if r.controls else (none, none)
        values = np.array([first, *control, line, r.base_r[k, FULL], r.base_r[k, EMPTY]])
        plots.dots(fig, theme, run.label, values[:, 0], np.arange(6), low=values[:, 1], high=values[:, 2], hover=f"{run.label}<br>r %{{x:.3f}}")
        fig.data[-1].marker.update(color=[theme.run(run.label), theme.null_line, theme.null_line, theme.run(run.label), theme.run(run.label), theme.null_line])
    plots.key(fig, theme, [run.label for run in runs])
    return fig
