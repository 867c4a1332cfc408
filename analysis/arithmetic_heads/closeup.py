"""The cards of one prompt: what the strongest heads attend to in it, and what the stream would say after each block."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.arithmetic_heads import reading, tables, words
from analysis.contract import Figure
from analysis.theme import Theme, figure

SHOWN = 8
MOST = 48  # tokens drawn; all are in the data


def label_of(token: str) -> str:
    """A token as a label: never markup, never empty."""
    clean = token.replace("\n", "⏎").strip() or "␣"
    return clean.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def pattern_card(runs) -> Figure:
    r, order = runs[0].result, reading.closest(runs[0], SHOWN)
    best = order[0]
    at = int(r.pattern[best].argmax())
    height = 96 + 26 * len(order)
    return Figure(
        "pattern", "One prompt: what the strongest heads look at",
        f"From the last token of “{r.prompt}”, {reading.name(r, best)} looks most at “{label_of(str(r.token[at]))}” "
        f"({words.percent(r.pattern[best][at])}). Another prompt is set under More.",
        {run.label if len(runs) > 1 else "": partial(pattern, run) for run in runs}, tables.pattern(runs),
        f"Attention of the last token over “{r.prompt}”, the {len(order)} heads with the strongest path effect; rows sum to 1.",
        f"Heat map of heads by tokens; {reading.name(r, best)} puts {words.percent(r.pattern[best][at])} on “{label_of(str(r.token[at]))}”.",
        height=height, wide=True,
    )


def pattern(run, theme: Theme) -> go.Figure:
    r, order = run.result, reading.closest(run, SHOWN)
    n = min(len(r.token), MOST)
    z = np.array([r.pattern[x][-n:] for x in order])
    token = [label_of(str(t)) for t in r.token[-n:]]
    fig = figure(theme, margin=dict(l=58, r=76, t=8, b=66), height=96 + 26 * len(order))
    fig.update_layout(xaxis=dict(tickvals=list(range(n)), ticktext=[t[:14] for t in token], tickangle=-40 if n > 14 else 0, range=[-0.5, n - 0.5],
                                 tickfont=dict(color=theme.text)),
                      yaxis=dict(tickvals=list(range(len(order))), ticktext=[reading.name(r, x) for x in order], range=[len(order) - 0.5, -0.5],
                                 tickfont=dict(color=theme.text)))
    custom = np.array([[[reading.name(r, x), f"{token[t]}, position {len(r.token) - n + t}"] for t in range(n)] for x in order], object)
    plots.heat(fig, theme, z, low=0, high=1, custom=custom, gap=2, hover="%{customdata[0]} on “%{customdata[1]}”<br>%{z:.1%}",
               bar=dict(title=dict(text="attention", side="right"), tickvals=[0, 0.5, 1]))
    if n <= 24:
        plots.add(fig, [plots.text_at(theme, f"{100 * z[i, t]:.0f}", t, i, ref=("x", "y"), color=plots.ink(z[i, t], 0, 1))
                        for i in range(len(order)) for t in range(n) if z[i, t] >= 0.005])
    return fig


def lens_card(runs) -> Figure:
    r = runs[0].result
    final = str(r.guess[-1, 0])
    first = next((i for i in range(len(r.guess)) if (r.guess[i:, 0] == final).all()), len(r.guess) - 1)
    where = "at the embedding" if first == 0 else f"after block {r.blocks[first - 1]}"
    return Figure(
        "lens", "One prompt: when does the answer come up?",
        f"The stream at END of “{r.prompt}”, read out early: “{label_of(final)}” is the likeliest from {where} on. An early reading shows what the head "
        "of the model would make of it, not what later blocks use.",
        {f"{run.label} {name}".strip() if len(runs) > 1 else name: partial(draw, run) for run in runs for name,
         draw in (("guesses", guesses), ("numbers", tracked))}, tables.lens(runs),
        f"Logit lens at the last token of “{r.prompt}”: final norm and unembedding applied to the stream after each block. Guesses: the five likeliest "
        "tokens, colour is probability. Numbers: probability of the numbers in the prompt and of the final answer.",
        f"“{label_of(final)}” is the likeliest from {where} on, at the end with {words.percent(r.guess_p[-1, 0])}.", height=344,
    )


def _states(r) -> list[str]:
    return ["emb", *map(str, r.blocks.tolist())]


def guesses(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=52, r=76, t=8, b=42), height=344)
    states = plots.ticks(_states(r), 24)
    fig.update_layout(xaxis=dict(title="rank", tickvals=list(range(r.guess.shape[1])), ticktext=[str(k + 1) for k in range(r.guess.shape[1])]),
                      yaxis=dict(title="state after block", **{**states, "range": states["range"][::-1]}))
    plots.heat(fig, theme, r.guess_p, low=0, high=1, gap=2, custom=np.array([[label_of(str(t)) for t in row] for row in r.guess], object),
               hover="after %{y}: “%{customdata}” %{z:.1%}", bar=dict(title=dict(text="probability", side="right"), tickvals=[0, 0.5, 1]))
    if len(r.guess) <= 28:
        plots.add(fig, [plots.text_at(theme, label_of(str(r.guess[i, k]))[:12], k, i, ref=("x", "y"),
                                      color=plots.ink(r.guess_p[i, k], 0, 1)) for i in range(len(r.guess)) for k in range(r.guess.shape[1])])
    return fig


def tracked(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=52, r=60, t=8, b=42), height=344)
    fig.update_layout(xaxis=dict(title="state after block", **plots.ticks(_states(r), 13)), yaxis=dict(title="probability", range=[-0.03, 1.03], showgrid=True))
    last = len(r.tracked) - 1
    for k, token in enumerate(r.tracked):
        color = theme.run(run.label) if k == last else theme.more[k % len(theme.more)]
        plots.dots(fig, theme, run.label, np.arange(len(r.tracked_p)), r.tracked_p[:, k], mode="lines+markers", size=6,
                   line=dict(color=color, width=1.5), hover=f"“{label_of(str(token))}” after %{{x}}: %{{y:.1%}}")
        fig.data[-1].marker.color = color
    ends = r.tracked_p[-1]
    order = np.argsort(ends)
    y = dict(zip(order.tolist(), np.maximum.accumulate(np.array([max(ends[k], 0.07 * i) for i, k in enumerate(order)])).tolist()))
    for k, token in enumerate(r.tracked):
        color = theme.run(run.label) if k == last else theme.more[k % len(theme.more)]
        plots.note(fig, theme, f'<span style="color:{color}">{label_of(str(token))[:8]}</span>' + (" answer" if k == last else ""),
                   len(r.tracked_p) - 1, y[k], ref=("x", "y"), xanchor="left", xshift=8, color=theme.text)
    return fig
