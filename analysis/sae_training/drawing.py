"""The sentence, the numbers and the cards: curves of the training, and how often features fire."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from analysis import plots
from analysis.contract import Figure, Headline
from analysis.plots import number
from analysis.theme import Theme, figure

HEIGHT = 300
CURVES = (("loss", "Loss", "training loss (sae-lens’s, scaled activations)"), ("l0", "Features active per token", "L0 of the batch"), ("explained", "Explained variance", "of the batch"), ("dead", "Dead features", "share that has not fired for a while"))


def percent(x: float) -> str:
    return f"{number(100 * x)} %" if np.isfinite(x) else "–"


def answer(runs) -> str:
    return " ".join((f"{run.label}: " if len(runs) > 1 else "") + _one(run.result) for run in runs)


def _one(r) -> str:
    l0, explained, again, dead = r.measured
    return (f"With {number(l0)} active features a token the dictionary explains **{percent(explained)}** of the variance at {r.site} (untrained: {percent(r.untrained[1])}) and recovers "
            f"**{percent(again)}** of the cross-entropy; {percent(dead)} of its features never fire on these {r.n_tokens:,} tokens. It is on the shelf as `{r.sae}`.")


def headlines(runs) -> tuple[Headline, ...]:
    r = runs[0].result
    ends = tuple(100 * float(x) for x in r.explained_interval) if np.isfinite(r.explained_interval).all() else (None, None)
    return (
        Headline("Explained variance", 100 * float(r.measured[1]), "%", *ends, null=f"{percent(r.untrained[1])} (untrained)", better="high"),
        Headline("Cross-entropy recovered", 100 * float(r.measured[2]), "%", null=f"{percent(r.untrained[2])} (untrained)", better="high"),
        Headline("Active features per token", float(r.measured[0])),
        Headline("Features that never fire", 100 * float(r.measured[3]), "%", better="low", note=f"on {r.n_tokens:,} tokens"),
    )


def figures(runs) -> list[Figure]:
    r = runs[0].result
    cards = []
    for name, title, axis in CURVES:
        last = getattr(r, name)[-1]
        cards.append(Figure(name, title, f"After {r.steps:,} steps: {number(last)}. A batch of training text; the numbers on top are of text apart.", {"": partial(curve, runs, name, axis)}, _curves(runs),
                            f"{title}, {axis}, every tenth step.", f"Line that ends at {number(last)}.", height=HEIGHT))
    return cards


def _curves(runs) -> pa.Table:
    return pa.Table.from_pylist([{"run": run.label, "step": int(s), **{name: float(getattr(run.result, name)[i]) for name, *_ in CURVES}} for run in runs for i, s in enumerate(run.result.step)])


def curve(runs, name: str, axis: str, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=62, r=14, t=26, b=42), height=HEIGHT)
    for run in runs:
        r = run.result
        fig.add_trace(go.Scatter(x=r.step, y=getattr(r, name), mode="lines+markers" if len(r.step) < 3 else "lines", line=dict(color=theme.run(run.label), width=2), name=run.label,
                                 hovertemplate=f"{run.label}, step %{{x:,}}: %{{y:.4g}}<extra></extra>"))
    fig.update_layout(xaxis=dict(title="step"), yaxis=dict(title=axis, showgrid=True, rangemode="tozero" if name != "explained" else "normal"))
    plots.key(fig, theme, [run.label for run in runs])
    return fig
