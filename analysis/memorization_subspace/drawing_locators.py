"""The cards that compare locators: at equal density, on passages written into known neurons, on single passages deleted."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from analysis import plots
from analysis.contract import Figure
from analysis.memorization_subspace import words
from analysis.theme import Theme, figure

HEIGHT = 344


def cards(runs) -> list[Figure]:
    runs = [run for run in runs if len(run.result.compared)]
    return [_equal_card(runs), _known_card(runs)] if runs else []


def _views(runs, named: dict) -> dict:
    return {f"{run.label + ' ' if len(runs) > 1 else ''}{name}": partial(draw, run) for run in runs for name, draw in named.items()}


def _names(r) -> list[str]:
    return [words.LOCATORS[name] for name in r.compared]


def _equal_card(runs) -> Figure:
    rows = [{"run": run.label, "subject": run.subject, "locator": name, "density": q.compared_density[o], "located passages extracted": q.compared_extracted[o, 0], "held-out half extracted": q.compared_extracted[o, 1],
             "perplexity ratio": q.compared_ratio[o]} for run in runs for q in [run.result] for o, name in enumerate(_names(q))]
    r = runs[0].result
    best = min(range(len(r.compared) - 1), key=lambda o: (r.compared_extracted[o, 1], r.compared_ratio[o]))
    said = (f"At {100 * r.compared_density[0]:.1f} % density, of the locators {_names(r)[best]} leaves least of the held-out half, {words.percent(r.compared_extracted[best, 1])}, at perplexity × {plots.number(r.compared_ratio[best])}; "
            f"random neurons leave {words.percent(r.compared_extracted[-1, 1])}.")
    return Figure(
        "locators", "Which locator makes the model forget at the least cost?", said, _views(runs, {"": equal}) if len(runs) == 1 else {run.label: partial(equal, run) for run in runs}, pa.Table.from_pylist(rows),
        f"Every locator read the same {r.n_read} passages of one half and cut as many feed-forward output weights of every block as the Wanda contrast located there. Down and left is better: less of the held-out "
        "half left, less perplexity lost. Square: single weights; circles: whole neurons; grey: random neurons. One split; differences of a few passages are luck.", said, height=HEIGHT)


def equal(run, theme: Theme) -> go.Figure:
    r, names = run.result, _names(run.result)
    fig = figure(theme, margin=dict(l=52, r=14, t=12, b=42))
    color = theme.run(run.label)
    x, y = r.compared_ratio, r.compared_extracted[:, 1]
    marks = ["square" if n == "weights" else "x" if n == "random" else "circle" for n in r.compared]
    colors = [theme.null_line if n == "random" else color for n in r.compared]
    fig.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=dict(symbol=marks, color=colors, size=9), customdata=names, hovertemplate="%{customdata}: %{y:.0%} left, perplexity × %{x:.3f}<extra></extra>", cliponaxis=False))
    order = np.argsort(y)
    at = np.empty(len(y))
    at[order] = plots.apart([float(v) for v in y[order]], 0.075)
    low, high = float(min(x.min(), 1.0)), float(x.max())
    span = max(high - low, 0.02)
    shift = max(0.0, at.max() - 1.04)
    texts = [plots.text_at(theme, name, high + 0.08 * span, v - shift, ref=("x", "y"), xanchor="left", color=theme.axis if kind == "random" else theme.text) for name, kind, v in zip(names, r.compared, at)]
    plots.add(fig, texts)
    for a, b, v in zip(x, y, at - shift):
        fig.add_trace(go.Scatter(x=[a, high + 0.07 * span], y=[b, v], mode="lines", line=dict(color=theme.null_line, width=0.75), hoverinfo="skip"))
    fig.data = fig.data[1:] + fig.data[:1]
    fig.update_layout(xaxis=dict(title="perplexity on natural text, after / before", range=[low - 0.05 * span, high + 0.95 * span], nticks=5),
                      yaxis=dict(title="held-out half still extracted", range=[-0.06, 1.08], tickformat=".0%", showgrid=True, tickvals=[0, 0.25, 0.5, 0.75, 1]))
    return fig


def _known_card(runs) -> Figure:
    rows = [{"run": run.label, "subject": run.subject, "benchmark": "INJ", "locator": name, "passage": t + 1, "recall": q.injected_recall[o, t], "chance": q.injected_share, "nats before": q.injected_nats[t, 0], "nats after": q.injected_nats[t, 1]}
            for run in runs for q in [run.result] for o, name in enumerate(_names(q)[:-1]) for t in range(q.injected_recall.shape[1])]
    rows += [{"run": run.label, "subject": run.subject, "benchmark": "DEL", "locator": name, "passage": t + 1, "change on the passage": q.deleted[o, t, 0], "change on the others": q.deleted[o, t, 1], "perplexity ratio": q.deleted[o, t, 2]}
             for run in runs for q in [run.result] for o, name in enumerate(_names(q)) for t in range(q.deleted.shape[1])]
    r = runs[0].result
    mean = r.injected_recall.mean(1)
    best = int(mean.argmax())
    written = int((r.injected_nats[:, 1] <= 0.1).sum())
    own, others = r.deleted[:, :, 0].mean(1), r.deleted[:, :, 1].mean(1)
    worst = int(own[:-1].argmin())
    dropped = (f"Deleting {100 * r.deleted_share:g} % of the neurons takes most by {_names(r)[worst]}: {100 * own[worst]:+.0f} points of right tokens on the passage, {100 * others[worst]:+.0f} on the others"
               if own[worst] < 0 else f"Deleting {100 * r.deleted_share:g} % of the neurons takes no right token from a passage, whichever locator chose them")
    said = f"INJ: of the neurons that a passage was written into, {_names(r)[best]} finds {words.percent(mean[best])} among its top {100 * r.injected_share:g} % (chance {100 * r.injected_share:g} %); {written} of {len(r.injected_nats)} passages were learned. DEL: {dropped[0].lower()}{dropped[1:]}."
    return Figure(
        "benchmarks", "Do the locators find what is known to be there?", said, _views(runs, {"INJ": recall, "DEL": deleted}), _filled(rows),
        f"INJ: never-trained strings, each trained into a random {100 * r.injected_share:g} % of all feed-forward neurons of a copy; recall of those neurons among every block's top {100 * r.injected_share:g} %; grey: chance. "
        f"DEL: memorized passages, each located alone and its top {100 * r.deleted_share:g} % neurons of every block but the first zeroed; change of teacher-forced right tokens on it (filled) and on the held-out half (open). "
        "Means, bars the range. After Chang et al. 2024.", said, height=HEIGHT)


def _filled(rows: list[dict]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _rows(fig, theme: Theme, names: list[str], title: str, **axis) -> go.Figure:
    fig.update_layout(yaxis=dict(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5]), xaxis=dict(title=title, showgrid=True, **axis))
    return fig


def _marks(fig, at, values: np.ndarray, color: str, fill: str, hover: str) -> None:
    mean = values.mean(1)
    bar = dict(type="data", symmetric=False, array=values.max(1) - mean, arrayminus=mean - values.min(1), color=color, thickness=1.5, width=0)
    fig.add_trace(go.Scatter(x=mean, y=at, error_x=bar, mode="markers", marker=dict(size=9, color=fill, line=dict(color=color, width=2)), hovertemplate=hover + "<extra></extra>", cliponaxis=False))


def recall(run, theme: Theme) -> go.Figure:
    r, names = run.result, _names(run.result)[:-1]
    fig = figure(theme, margin=dict(l=178, r=18, t=12, b=42))
    color = theme.run(run.label)
    plots.dashed(fig, theme, r.injected_share)
    _marks(fig, np.arange(len(names)), r.injected_recall, color, color, "%{y}: %{x:.1%}")
    return _rows(fig, theme, names, "injected neurons found (dashed: chance)", range=[-0.03, 1.03], tickformat=".0%", tickvals=[0, 0.25, 0.5, 0.75, 1])


def deleted(run, theme: Theme) -> go.Figure:
    r, names = run.result, _names(run.result)
    fig = figure(theme, margin=dict(l=178, r=18, t=26, b=42))
    color, at = theme.run(run.label), np.arange(len(names))
    plots.dashed(fig, theme, 0.0)
    _marks(fig, at + 0.16, r.deleted[:, :, 1], color, theme.page, "the others: %{x:+.1%}")
    _marks(fig, at - 0.16, r.deleted[:, :, 0], color, color, "the passage: %{x:+.1%}")
    plots.note(fig, theme, "● the passage itself  ○ the held-out half", 0.0, 1.0, xanchor="left", yanchor="bottom", yshift=4)
    least = min(float(r.deleted[:, :, :2].min()), -0.2)
    return _rows(fig, theme, names, "change of right tokens", range=[1.08 * least, max(float(r.deleted[:, :, :2].max()), 0.02) - 0.05 * least], tickformat="+.0%")
