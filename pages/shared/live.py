"""The curves of what runs now: loss, share of active weights, whatever the analysis reports with its steps."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from analysis.plots import note, number
from analysis.theme import THEMES, Theme, figure
from pages.shared import style

MOST = 4  # curves beside each other
HEIGHT = 128  # px


def draw(standings: list, key: str) -> None:
    """One small panel per curve of the first job that has any; `standings` in the order A, B. Nothing while none is known."""
    for label, standing in zip("AB", standings):
        if standing is not None and standing.active and any(steps for steps, _ in standing.job.live.values()):
            st.plotly_chart(plot(standing.job.live, label, THEMES[style.theme()]), theme=None, key=key, config={"displayModeBar": False, "staticPlot": True},
                            alt="Curves of the run so far: " + ", ".join(standing.job.live))
            return


def plot(curves: dict[str, list], label: str, theme: Theme) -> go.Figure:
    """`curves` name -> [[step, …], [value, …]]; each panel has its own scale, its last value stands in its title."""
    shown = [(name, steps, values) for name, (steps, values) in curves.items() if steps][:MOST]
    fig = figure(theme, height=HEIGHT, margin=dict(l=40, r=14, t=24, b=28))
    width = 1.0 / len(shown)
    for i, (name, steps, values) in enumerate(shown):
        n = "" if i == 0 else str(i + 1)
        left, right = i * width, (i + 1) * width - (0.05 if i + 1 < len(shown) else 0.0)
        fig.add_trace(go.Scatter(x=steps, y=values, mode="lines" if len(steps) > 1 else "markers", line=dict(color=theme.run(label), width=1.5), xaxis=f"x{n}", yaxis=f"y{n}"))
        fig.update_layout({f"xaxis{n}": dict(domain=[left, right], anchor=f"y{n}", nticks=3, tickformat=",d"), f"yaxis{n}": dict(anchor=f"x{n}", nticks=3)})
        note(fig, theme, f"{name} <b>{number(values[-1])}</b>", left, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=3)
    return fig
