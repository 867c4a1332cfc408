"""The curves of what runs now: loss, share of active weights, whatever the analysis reports with its steps."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from analysis.plots import apart, note, number
from analysis.theme import THEMES, Theme, figure
from pages.shared import style

MOST = 4  # panels beside each other
HEIGHT = 128  # px
SHARED = " · "


def draw(standings: list, key: str) -> None:
    """One small panel per curve of the first job that has any; `standings` in the order A, B. Nothing while none is known."""
    for label, standing in zip("AB", standings):
        if standing is not None and standing.active and any(steps for steps, _ in standing.job.live.values()):
            st.plotly_chart(plot(standing.job.live, label, THEMES[style.theme()]), theme=None, key=key, config={"displayModeBar": False, "staticPlot": True},
                            alt="Curves of the run so far: " + ", ".join(standing.job.live))
            return


def plot(curves: dict[str, list], label: str, theme: Theme) -> go.Figure:
    """`curves` name -> [[step, …], [value, …]]; each panel has its own scale, its last value stands in its title. Curves named
    “loss · λ 10”, “loss · λ 100”, … share the panel “loss”, later ones paler; what tells them apart stands at their ends."""
    panels: dict[str, list] = {}
    for name, (steps, values) in curves.items():
        if steps:
            panels.setdefault(name.partition(SHARED)[0], []).append((name.partition(SHARED)[2], steps, values))
    shown = list(panels.items())[:MOST]
    fig = figure(theme, height=HEIGHT, margin=dict(l=40, r=14, t=24, b=28))
    width = 1.0 / len(shown)
    for i, (name, lines) in enumerate(shown):
        n = "" if i == 0 else str(i + 1)
        ends = max(len(end) for end, *_ in lines) * 0.006
        left, right = i * width, (i + 1) * width - (0.05 if i + 1 < len(shown) else 0.0) - ends
        for k, (end, steps, values) in enumerate(lines):
            fig.add_trace(go.Scatter(x=steps, y=values, mode="lines" if len(steps) > 1 else "markers", line=dict(color=theme.run(label), width=1.5), opacity=1 - 0.6 * k / len(lines),
                                     name=end, xaxis=f"x{n}", yaxis=f"y{n}"))
        fig.update_layout({f"xaxis{n}": dict(domain=[left, right], anchor=f"y{n}", nticks=3, tickformat=",d"), f"yaxis{n}": dict(anchor=f"x{n}", nticks=3)})
        title = f"{name} <b>{number(lines[0][2][-1])}</b>" if len(lines) == 1 else name
        note(fig, theme, title, left, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=3)
        if len(lines) > 1:
            _ends(fig, theme, lines, (f"x{n}", f"y{n}"))
    return fig


def _ends(fig: go.Figure, theme: Theme, lines: list, axes: tuple[str, str]) -> None:
    """What tells the lines of a panel apart, where each ends."""
    every = [v for _, _, values in lines for v in values]
    right = max(steps[-1] for _, steps, _ in lines)
    for (end, _, _), y in zip(lines, apart([values[-1] for *_, values in lines], 0.2 * max(max(every) - min(every), 1e-9))):
        note(fig, theme, end, right, y, ref=axes, xanchor="left", xshift=4)
