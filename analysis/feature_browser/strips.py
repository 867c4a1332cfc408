"""The cards that show text: the features of each token of one's own text, examples of a feature, continuations side by side."""

from __future__ import annotations

import textwrap
from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.feature_browser import tables, words
from analysis.feature_browser.measure import WRITERS
from analysis.plots import number
from analysis.theme import Theme, figure

ACROSS = 12  # tokens in a row of the text
ROW = 27  # px
LINE = 118  # characters of a continuation's line


def prompt_card(runs, links: dict[str, str]) -> Figure:
    r, text = runs[0].result, words.text_of(runs[0].result)
    rows = -(-len(r.prompt) // ACROSS)
    i, k = np.unravel_index(int(np.argmax(r.prompt_values)), r.prompt_values.shape)
    strongest = f"Strongest: {words.label(r, int(r.prompt_features[i, k]))} at “{text[int(r.prompt[i])]}”. " if r.prompt_features[i, k] >= 0 else ""
    return Figure(
        "prompt", "The features of your text", strongest + f"Under each token the {r.prompt_features.shape[1]} features that fire most; click one to open its card. The first token is not read.",
        {run.label if len(runs) > 1 else "": partial(prompt, run) for run in runs}, tables.of_runs(runs, tables.prompt),
        "Features by token; the colour is the activation as a share of that feature’s largest on the corpus.", "Table of features under each token of the text.",
        height=30 + rows * ROW * (r.prompt_features.shape[1] + 2), wide=True, links=links)


def prompt(run, theme: Theme) -> go.Figure:
    r, text = run.result, words.text_of(run.result)
    most = r.prompt_features.shape[1]
    block = most + 2  # the token, its features, an empty row
    rows = -(-len(r.prompt) // ACROSS)
    z, custom, notes = np.full((rows * block, ACROSS), np.nan), np.full((rows * block, ACROSS, 2), "", object), []
    for i, t in enumerate(r.prompt):
        row, column = i // ACROSS * block, i % ACROSS
        notes.append(plots.text_at(theme, f"<b>{text[int(t)][:11]}</b>", column, row, ref=("x", "y"), color=theme.text))
        for k in range(most):
            f = int(r.prompt_features[i, k])
            if f < 0:
                continue
            share = min(float(r.prompt_values[i, k] / max(r.largest[f], 1e-9)), 1.0) if r.fired[f] else 1.0
            z[row + 1 + k, column] = share
            custom[row + 1 + k, column] = [str(f), f"{words.label(r, f)}<br>activation {number(r.prompt_values[i, k])}, {100 * share:.0f} % of its largest"]
            notes.append(plots.text_at(theme, str(f), column, row + 1 + k, ref=("x", "y"), color=plots.ink(share, 0, 1), font=dict(size=11, color=plots.ink(share, 0, 1))))
    fig = figure(theme, margin=dict(l=8, r=84, t=8, b=8), height=30 + rows * ROW * block)
    fig.update_layout(xaxis=dict(visible=False, range=[-0.5, ACROSS - 0.5]), yaxis=dict(visible=False, range=[rows * block - 0.5, -0.5]))
    plots.heat(fig, theme, z, low=0, high=1, custom=custom, hover="%{customdata[1]}", gap=2, bar=dict(title=dict(text="share of largest", side="right"), tickformat=".0%", nticks=5))
    plots.add(fig, notes)
    return fig


def examples_card(runs) -> Figure:
    r = runs[0].result
    n = max(len(run.result.band) for run in runs)
    return Figure(
        "examples", f"Where feature {r.feature} fires", f"Top: its largest activations, one a sequence. Below: bands of a quarter of its largest, {number(r.largest[r.feature])}, where it means less surely the same.",
        {run.label if len(runs) > 1 else "": partial(examples, run) for run in runs}, tables.of_runs(runs, tables.examples),
        f"Windows of text around tokens where feature {r.feature} fires; the colour is its activation at each token.", "Heat strips of text in bands of activation.", height=40 + ROW * (n + 4), wide=True)


def examples(run, theme: Theme) -> go.Figure:
    r, text = run.result, words.text_of(run.result)
    n, width = r.window.shape
    place = np.arange(n) + np.concatenate([[0], np.cumsum(np.diff(r.band) > 0)]) if n else np.zeros(0, int)  # an empty row between bands
    rows = int(place.max(initial=0)) + 1
    z, custom, notes = np.full((rows, width), np.nan), np.full((rows, width), "", object), []
    top = max(float(r.largest[r.feature]), 1e-9)
    for i in range(n):
        for j, k in enumerate(r.window[i]):
            if k >= 0:
                z[place[i], j], custom[place[i], j] = r.seen[i, j], text[int(r.token[k])]
                notes.append(plots.text_at(theme, custom[place[i], j][:10], j, place[i], ref=("x", "y"), color=plots.ink(r.seen[i, j], 0, top), font=dict(size=11, color=plots.ink(r.seen[i, j], 0, top))))
    fig = figure(theme, margin=dict(l=72, r=76, t=8, b=8), height=40 + ROW * rows)
    names = {0: "top", **{b: f"{100 - 25 * (b - 1)}–{75 - 25 * (b - 1)} %" for b in range(1, 5)}}
    bands = [b for b in names if (r.band == b).any()]
    fig.update_layout(xaxis=dict(visible=False, range=[-0.5, width - 0.5]), yaxis=dict(range=[rows - 0.5, -0.5], tickvals=[float(place[r.band == b].mean()) for b in bands], ticktext=[names[b] for b in bands]))
    plots.heat(fig, theme, z, low=0, high=top, custom=custom, hover="“%{customdata}” %{z:.3g}", gap=2, bar=dict(title=dict(text="activation", side="right"), nticks=5))
    plots.add(fig, notes)
    return fig


def steering_card(runs) -> Figure:
    r, p = runs[0].result, runs[0].params
    return Figure(
        "steering", f"The text written on, with feature {r.feature}", f"Strength {number(p.strength)} × its largest activation: a vector of length {number(r.added)} at {r.site}. The random direction has the same length.",
        {run.label if len(runs) > 1 else "": partial(steering, run) for run in runs}, tables.of_runs(runs, tables.steering),
        f"{p.new_tokens} tokens after the text, temperature {number(p.heat)}, seed {p.seed}: plain, with the feature’s direction added at every token but the first, and with a random direction of the same length.",
        " ".join(f"{w}: {r.continuation[i][:80]}." for i, w in enumerate(WRITERS)), height=max(_lines(run.result) for run in runs), wide=True)


def _wrapped(r) -> list[list[str]]:
    return [textwrap.wrap(words.shown(str(t)), LINE)[:6] or ["(nothing)"] for t in r.continuation]


def _lines(r) -> int:
    return 24 + 19 * (sum(map(len, _wrapped(r))) + 3)


def steering(run, theme: Theme) -> go.Figure:
    r = run.result
    height = _lines(r)
    fig = figure(theme, margin=dict(l=8, r=8, t=8, b=8), height=height)
    fig.update_layout(xaxis=dict(visible=False, range=[0, 1]), yaxis=dict(visible=False, range=[height - 16, 0]))
    notes, y = [], 4
    for i, lines in enumerate(_wrapped(r)):
        color = (theme.axis, theme.run(run.label), theme.null_line)[i]
        notes.append(plots.text_at(theme, f"<b>{('plain', 'steered', 'random direction')[i]}</b>", 0, y, ref=("x", "y"), color=color, xanchor="left", yanchor="top"))
        for k, line in enumerate(lines):
            notes.append(plots.text_at(theme, line, 0.12, y + 19 * k, ref=("x", "y"), color=theme.text, xanchor="left", yanchor="top"))
        y += 19 * (len(lines) + 1)
    plots.add(fig, notes)
    return fig
