"""How each order is marked in every figure: one colour, one symbol, and the key in two lines."""

from __future__ import annotations

import plotly.graph_objects as go

from analysis import plots
from analysis.theme import Theme
from metrics.permutation.methods import ACTIVATIONS, LEARNED, NONE, RANDOM, WEIGHTS

SYMBOLS = {NONE: "circle-open", WEIGHTS: "square", ACTIVATIONS: "triangle-up", LEARNED: "cross", RANDOM: "x"}
SIGNS = {"circle-open": "○", "square": "■", "triangle-up": "▲", "cross": "✚", "x": "✕"}


def color(theme: Theme, method: str) -> str:
    return {NONE: theme.text, WEIGHTS: theme.more[0], ACTIVATIONS: theme.more[1], LEARNED: theme.more[2], RANDOM: theme.null_line}[method]


def key(fig: go.Figure, theme: Theme, methods: list[str]) -> None:
    """Names of the orders above the plot, three in a line, so that they fit a column."""
    word = lambda m: f'<span style="color:{color(theme, m)}">{SIGNS[SYMBOLS[m]]}</span> {m}'
    lines = ["  ".join(map(word, methods[i : i + 3])) for i in range(0, len(methods), 3)]
    plots.note(fig, theme, "<br>".join(lines), 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4, align="left")
