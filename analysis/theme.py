"""Colours, type and template of every figure. Hue belongs to data; nulls and controls are grey; A blue circle, B vermilion diamond.

Colours are from Okabe & Ito's set; on dark A and B get lighter twins (contrast ≥ 6). Importing streamlit replaces plotly's
default template, so every figure carries one of these explicitly.
"""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

FONT = "IBM Plex Sans, Helvetica Neue, Arial, sans-serif"


@dataclass(frozen=True)
class Theme:
    """One look: "light", "dark", or "print" (light on white, for export)."""

    name: str
    page: str
    text: str
    axis: str  # axis titles and tick labels
    quiet: str  # marks only
    grid: str
    line: str
    a: str
    b: str
    more: tuple[str, ...]  # further runs, fixed order
    null_fill: str
    null_line: str
    middle: str  # of diverging scales: no difference is the quietest cell
    size: int = 12  # px of every text in a figure

    def run(self, label: str) -> str:
        """Colour of run A, B, C, …"""
        order = (self.a, self.b, *self.more)
        return order[min("ABCDEFGH".find(label[:1]) % len(order), len(order) - 1)]

    @property
    def diverging(self) -> list[list]:
        """Blue for less, orange for more, centred on zero."""
        return [[0.0, self.a], [0.5, self.middle], [1.0, self.b]]

    @property
    def sequential(self) -> str:
        return "Cividis"


LIGHT = Theme(
    "light", "#FFFFFF", "#16202A", "#55626F", "#8A96A3", "#ECEFF2", "#B9C2CB", "#0072B2", "#D55E00",
    ("#009E73", "#CC79A7", "#E69F00", "#56B4E9"), "rgba(110,122,135,.16)", "#7E8B98", "#EEF0F1",
)
DARK = Theme(
    "dark", "#10151A", "#E3E8ED", "#A3AFBA", "#74818E", "#202932", "#46525E", "#3D9CDB", "#F07F3A",
    ("#2FBF95", "#E09BC0", "#F0B840", "#8CCBF0"), "rgba(150,162,175,.20)", "#8492A0", "#252E37",
)
PRINT = Theme(**{**LIGHT.__dict__, "name": "print"})
THEMES = {theme.name: theme for theme in (LIGHT, DARK, PRINT)}

SYMBOL = {"A": "circle", "B": "diamond", "C": "square", "D": "triangle-up", "E": "x", "F": "cross"}


def symbol(label: str) -> str:
    return SYMBOL.get(label[:1], "circle")


def template(theme: Theme) -> go.layout.Template:
    """Plotly template: no zero line, no axis line, no ticks; a grid only where a figure asks for one."""
    axis = dict(
        showgrid=False, gridcolor=theme.grid, gridwidth=1, zeroline=False, showline=False, ticks="", automargin=False, ticklabelstandoff=5,
        tickfont=dict(color=theme.axis, size=theme.size), title=dict(font=dict(color=theme.axis, size=theme.size), standoff=8),
    )
    bar = dict(thickness=8, outlinewidth=0, ticks="outside", ticklen=4, tickcolor="rgba(0,0,0,0)",
               tickfont=dict(color=theme.axis, size=theme.size), title=dict(font=dict(color=theme.axis, size=theme.size)))
    return go.layout.Template(
        layout=dict(
            font=dict(family=FONT, size=theme.size, color=theme.text), paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
            colorway=[theme.a, theme.b, *theme.more], xaxis=axis, yaxis=axis, margin=dict(l=52, r=14, t=26, b=42), dragmode=False,
            showlegend=False, bargap=0.25, bargroupgap=0.0, separators=". ", annotationdefaults=dict(showarrow=False, font=dict(size=theme.size)),
            hoverlabel=dict(bgcolor=theme.page, bordercolor=theme.line, font=dict(family=FONT, size=theme.size, color=theme.text)),
            coloraxis=dict(colorbar=bar), title=dict(text=""),
        ),
        data=dict(heatmap=[dict(xgap=1, ygap=1, colorbar=bar, colorscale=theme.sequential)], bar=[dict(marker=dict(line=dict(width=0)))]),
    )


def figure(theme: Theme, **layout) -> go.Figure:
    """An empty figure in this look."""
    return go.Figure(layout=dict(template=template(theme), **layout))
