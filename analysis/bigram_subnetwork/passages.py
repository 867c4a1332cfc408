"""The card that shows text: how the whole model, the subnetwork alone and the models without it write on."""

from __future__ import annotations

import textwrap
from functools import partial

import plotly.graph_objects as go

from analysis import plots
from analysis.bigram_subnetwork import tables, words
from analysis.contract import Figure
from analysis.theme import Theme, figure

ACROSS, LINES = 118, 4  # characters in a line, lines of a text
NAMES = {"full": "whole model", "alone": "subnetwork alone", "ablated": "without it", "random ablated": "without as many random"}


def rows(runs) -> list[tuple[str, str, str]]:
    """(run, name, text) of the chosen mask."""
    return [(run.label, NAMES[role], text) for run in runs for m, role, text in zip(run.result.text_mask, run.result.text_role, run.result.texts) if m in (-1, words.chosen(run))]


def texts_card(runs) -> Figure:
    r = runs[0].result
    return Figure(
        "texts", "How do they write on?", f"After “{shown(r.prompt)}”. One sample each at temperature {runs[0].params.heat:g}: an illustration, not a measurement.",
        {"": partial(texts, runs)}, tables.texts(runs), f"Continuations of “{shown(r.prompt)}” at temperature {runs[0].params.heat:g}, seed {runs[0].params.seed}.",
        "Generated text of " + ", ".join(dict.fromkeys(name for _, name, _ in rows(runs))) + ".", height=_height(rows(runs)), wide=True,
    )


def _height(every: list) -> int:
    return 24 + len(every) * (16 * max(min(len(textwrap.wrap(shown(text), ACROSS)), LINES) for *_, text in every) + 18)


def shown(text: str) -> str:
    """Without line breaks and marks that a browser would read."""
    return " ".join(text.split()).replace("<", "‹").replace(">", "›")


def texts(runs, theme: Theme) -> go.Figure:
    every = rows(runs)
    fig = figure(theme, margin=dict(l=170, r=14, t=8, b=8), height=_height(every))
    fig.update_layout(xaxis=dict(visible=False, range=[0, 1]), yaxis=dict(visible=False, range=[len(every) - 0.5, -0.5]))
    notes = []
    for y, (label, name, text) in enumerate(every):
        color = theme.null_line if "random" in name else theme.run(label)
        lines = textwrap.wrap(shown(text), ACROSS)
        body = "<br>".join(lines[:LINES]) + (" …" if len(lines) > LINES else "")
        notes.append(plots.text_at(theme, f"{label + ' · ' if len(runs) > 1 else ''}{name}", 0, y, ref=("x", "y"), color=color, xanchor="right", xshift=-14, align="right"))
        notes.append(plots.text_at(theme, body or "(nothing)", 0, y, ref=("x", "y"), color=theme.text, xanchor="left", align="left"))
    fig.add_trace(go.Scatter(x=[0] * len(every), y=list(range(len(every))), mode="markers", marker=dict(opacity=0), hoverinfo="skip"))
    plots.add(fig, notes)
    return fig
