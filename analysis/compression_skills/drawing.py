"""The figure cards: accuracy by skill and book, what changed, confidence, the questions that changed, size and speed."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.compression_skills import tables, words
from analysis.compression_skills.speed import ratio
from analysis.compression_skills.words import CLOSED, OPEN, WRONG
from analysis.contract import Figure
from analysis.plots import number
from analysis.theme import Theme, figure

SHOWN = 12


def figures(runs) -> list[Figure]:
    r = runs[0].result
    return [_books_card(r), _change_card(r), _sure_card(r), _speed_card(r)]


def _skills(r) -> list[int]:
    return [s for s in range(len(r.skills)) if words.asked(r, s)]


# ---- closed against open


def _books_card(r) -> Figure:
    return Figure(
        "books", "By heart, and from the page",
        "Upper panel without, lower with the passage in context. Grey: with a passage of the same kind that does not hold the answer.", {"": partial(books, r)}, tables.skills(r),
        "Share of questions answered word for word, 95 % bootstrap intervals over questions. A circle, B diamond; grey squares: B with a wrong passage.",
        "; ".join(f"{r.skills[s]}: closed {words.percent(r.accuracy_a[s, CLOSED, 0])} to {words.percent(r.accuracy_b[s, CLOSED, 0])}, open {words.percent(r.accuracy_a[s, OPEN, 0])} to "
                  f"{words.percent(r.accuracy_b[s, OPEN, 0])}" for s in _skills(r)) + ".",
    )


def books(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=190, r=14, t=26, b=42))
    own = _skills(r)
    rows = np.arange(len(own), dtype=float)
    names = [f"{r.skills[s]} ({words.asked(r, s)})" for s in own]
    axis = dict(range=[len(own) - 0.5, -0.5], tickvals=rows.tolist(), ticktext=names)
    fig.update_layout(xaxis=dict(domain=[0, 1], anchor="y2", range=[-3, 103], showgrid=True, title="right, % of questions"), yaxis=dict(domain=[0.56, 1], **axis), yaxis2=dict(domain=[0, 0.44], **axis))
    for book, y in ((CLOSED, "y"), (OPEN, "y2")):
        if book == OPEN:
            fig.add_trace(go.Scatter(x=100 * r.accuracy_b[own, WRONG, 0], y=rows, mode="markers", marker=dict(symbol="square", size=7, color=theme.null_line), yaxis=y,
                                     hovertemplate="B with a wrong book: %{x:.3g} %<extra></extra>"))
        plots.joins(fig, theme, np.stack([100 * r.accuracy_a[own, book, 0], rows - 0.13], 1), np.stack([100 * r.accuracy_b[own, book, 0], rows + 0.13], 1), axes=("x", y))
        for label, values, shift in (("A", r.accuracy_a, -0.13), ("B", r.accuracy_b, 0.13)):
            v = 100 * values[own, book]
            plots.dots(fig, theme, label, v[:, 0], rows + shift, low=v[:, 1], high=v[:, 2], axes=("x", y), custom=v, text=[r.skills[s] for s in own],
                       hover=f"{label}, {words.BOOK[book]} · %{{text}}<br>%{{customdata[0]:.3g}} % (%{{customdata[1]:.3g}}–%{{customdata[2]:.3g}})")
    plots.note(fig, theme, "closed book", 1.0, 1.0, color=theme.axis, xanchor="right", yanchor="bottom", yshift=4)
    plots.note(fig, theme, "open book", 1.0, 0.44, color=theme.axis, xanchor="right", yanchor="bottom", yshift=4)
    plots.key(fig, theme, ["A", "B"])
    return fig


# ---- what changed


def _change_card(r) -> Figure:
    real = sum(bool(r.p[s, k] < 0.05) for s in _skills(r) for k in (CLOSED, OPEN))
    return Figure(
        "change", "What was lost", f"Left of the dashed line B answers fewer. {real} of {2 * len(_skills(r))} changes are more than a coin would give (McNemar p < 0.05, not corrected for their number).",
        {"": partial(change, r)}, tables.skills(r), "B − A in points of accuracy on the same questions, 95 % bootstrap intervals over questions. Filled: closed book; open: open book.",
        "; ".join(f"{r.skills[s]}: {int(r.lost[s, CLOSED])} answers lost and {int(r.won[s, CLOSED])} won closed book" for s in _skills(r)) + ".",
    )


def change(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=160, r=64, t=26, b=42))
    own = _skills(r)
    rows = np.arange(len(own), dtype=float)
    fig.update_layout(xaxis=dict(title="B − A, points of accuracy", showgrid=True, nticks=6), yaxis=dict(range=[len(own) - 0.5, -0.5], tickvals=rows.tolist(), ticktext=[r.skills[s] for s in own]))
    plots.dashed(fig, theme, 0.0)
    for book, shift, look in ((CLOSED, -0.13, {}), (OPEN, 0.13, {"marker": dict(symbol="diamond-open", size=9, color=theme.b, line=dict(width=1.5))})):
        v = 100 * r.change[own, book]
        counts = np.column_stack([v, r.lost[own, book], r.won[own, book], r.p[own, book]])
        plots.dots(fig, theme, "B", v[:, 0], rows + shift, low=v[:, 1], high=v[:, 2], custom=counts, text=[r.skills[s] for s in own],
                   hover=f"%{{text}}, {words.BOOK[book]}<br>%{{customdata[0]:.3g}} points (%{{customdata[1]:.3g}}–%{{customdata[2]:.3g}})<br>%{{customdata[3]}} lost, %{{customdata[4]}} won, "
                         "McNemar p = %{customdata[5]:.2g}", **look)
    for i, s in enumerate(own):
        plots.note(fig, theme, f"−{r.lost[s, CLOSED]} +{r.won[s, CLOSED]}", 1.0, rows[i] - 0.13, ref=("paper", "y"), xanchor="left", xshift=6)
        plots.note(fig, theme, f"−{r.lost[s, OPEN]} +{r.won[s, OPEN]}", 1.0, rows[i] + 0.13, ref=("paper", "y"), xanchor="left", xshift=6)
    plots.note(fig, theme, f'<span style="color:{theme.b}">◆</span> closed  <span style="color:{theme.b}">◇</span> open book', 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    plots.note(fig, theme, "lost, won", 1.0, 1.0, color=theme.axis, xanchor="right", xshift=64, yanchor="bottom", yshift=4)
    return fig


# ---- confidence


def _sure_card(r) -> Figure:
    views = {words.BOOK[k]: partial(sure, r, k) for k in (CLOSED, OPEN, WRONG)}
    return Figure(
        "confidence", "How sure of the right answer", "Each dot is a question; below the dashed line B gives its answer less probability than A. It moves before answers flip.", views, tables.questions(r),
        "Probability of the right answer in A (across) and B (up), geometric mean over its tokens. Open marks: only one of the two answers it.",
        "Scatter of answer probabilities; mean change of ln p per token closed book: " + "; ".join(f"{r.skills[s]} {number(r.sure_change[s, CLOSED, 0])}" for s in _skills(r)) + ".",
    )


def sure(r, book: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=56, r=14, t=44, b=42), showlegend=True,
                 legend=dict(orientation="h", x=0, y=1.0, xanchor="left", yanchor="bottom", font=dict(size=theme.size, color=theme.text), itemclick=False))
    fig.update_layout(xaxis=dict(title="probability in A", range=[-0.03, 1.03], showgrid=True), yaxis=dict(title="probability in B", range=[-0.03, 1.03], showgrid=True))
    fig.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line=dict(color=theme.null_line, width=1.5, dash="dash"), hoverinfo="skip", showlegend=False))
    hues, shapes = (*theme.more[:3], theme.text), ("circle", "square", "triangle-up", "cross")
    for k, s in enumerate(_skills(r)):
        at = np.flatnonzero(r.skill == s)
        flips = r.right_a[book, at] != r.right_b[book, at]
        custom = [[words_of(r.text[i]), str(r.answer[i])] for i in at]
        fig.add_trace(go.Scatter(x=np.exp(r.log_p_a[book, at]), y=np.exp(r.log_p_b[book, at]), mode="markers", name=r.skills[s], customdata=custom,
                                 marker=dict(size=7, color=hues[k % 4], symbol=[shapes[k % 4] + ("-open" if f else "") for f in flips]),
                                 hovertemplate="%{customdata[0]} → %{customdata[1]}<br>A %{x:.3f}, B %{y:.3f}<extra></extra>"))
    return fig


def words_of(text: str) -> str:
    """The end of a question, never markup."""
    return ("…" if len(text) > 60 else "") + text[-60:].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# ---- size and speed


def _speed_card(r) -> Figure:
    reading = words.speed(r) + " Operations count what dense kernels multiply; bits are what must be stored."
    return Figure("speed", "Smaller, and faster?", reading, {"": partial(speed, r)}, tables.speed(r),
                  f"B over A: stored bits, operations per token, and measured time of one pass of {r.length} tokens where B can really run smaller ({r.how}).",
                  f"Bars of B over A: bits {number(100 * r.bits_b / r.bits_a)} %, operations {number(100 * r.flops_b / r.flops_a)} %.")


def speed(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=142, r=40, t=26, b=42), bargap=0.5)
    names, values = ["stored bits", "operations per token"], [r.bits_b / r.bits_a, r.flops_b / r.flops_a]
    error = [0.0, 0.0], [0.0, 0.0]
    if len(r.seconds_a):
        middle, low, high = ratio(r.seconds_a, r.seconds_b)
        names.append("measured time")
        values.append(middle)
        error = [0.0, 0.0, high - middle], [0.0, 0.0, middle - low]
    fig.add_trace(go.Bar(x=[100 * v for v in values], y=list(range(len(names))), orientation="h", marker_color=theme.b, hovertemplate="%{x:.4g} % of A<extra></extra>",
                         error_x=dict(type="data", symmetric=False, array=[100 * e for e in error[0]], arrayminus=[100 * e for e in error[1]], color=theme.axis, thickness=1.5, width=0)))
    fig.update_layout(xaxis=dict(title="B, % of A", range=[0, 108 * max(1.0, *values)], showgrid=True), yaxis=dict(range=[2.5, -0.5], tickvals=[0, 1, 2], ticktext=[*names, "measured time"][:3]))
    plots.dashed(fig, theme, 100.0)
    if not len(r.seconds_a):
        plots.note(fig, theme, "not faster here" if not r.faster else "not timed", 3.0, 2.0, ref=("x", "y"), xanchor="left")
    plots.note(fig, theme, "A", 100.0, 1.0, ref=("x", "paper"), color=theme.axis, xanchor="center", yanchor="bottom", yshift=2)
    return fig
