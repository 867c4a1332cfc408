"""Cards with curves and rows: knock-outs, transfer and control, what MLPs read and add, precise tuning."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.arithmetic_heads import reading, tables, words
from analysis.arithmetic_heads.knockout import RANKED
from analysis.arithmetic_heads.tuning import SETS
from analysis.contract import Figure
from analysis.plots import number
from analysis.theme import Theme, figure
from metrics.patching.roles import CURVES
from metrics.prompts.wordings import OPERATORS, SIGN

HEIGHT = 344
TESTS = ("trained", "never trained", "control")  # of tuning.SETS, short

# ---- knock-out


def knockout_card(runs) -> Figure:
    a = runs[0]
    r, (change, _, _) = a.result, reading.chosen(a.params)
    found = reading.operators(r)
    kinds = {"all": None} | ({SIGN[OPERATORS[o]]: o for o in found} if len(found) > 1 else {})
    left, random = r.accuracy[0, 1 + change], r.accuracy[0, 1 + RANKED :]
    return Figure(
        "knockout", "How many heads does the skill hang on?",
        f"Accuracy in wordings on which no head was sought; grey: {random.size} random draws, lowest to highest, mean dashed. Without the first "
        f"{r.heads}: {words.percent(left)}, without random ones {words.percent(random.mean())}.",
        {name if len(kinds) > 1 else "": partial(knockout, runs, o) for name, o in kinds.items()}, tables.knockout(runs),
        f"Share of {int(r.validation.sum())} validation prompts still answered rightly when the first heads of the ranking ({a.params.change}, relative "
        "logit, MLPs recomputed, discovery wordings) "
        f"give their {a.params.baseline} at END. All are right at 0 heads, because only such prompts are kept. Grey: {random.size} draws of as many heads "
        "from those in neither ranking.",
        f"Falling curve: {words.percent(left)} right without the first {r.heads} heads; random heads {words.spread(random)}.", height=HEIGHT,
    )


def knockout(runs, operator: int | None, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=HEIGHT)
    counts = sorted({int(k) for run in runs for k in run.result.counts} | {0})
    fig.update_layout(xaxis=dict(title="heads knocked out", tickvals=[k for k in counts if k in (0, 1, 2, 4, 8) or k % 8 == 0],
                                 range=[-0.03 * counts[-1], 1.03 * counts[-1]]),
                      yaxis=dict(title="answers right, %", range=[-3, 103], showgrid=True))
    for run in runs:
        r, (change, _, _) = run.result, reading.chosen(run.params)
        validation = r.operator[r.validation]
        here = np.ones(len(validation), bool) if operator is None else validation == operator
        if not here.any():
            continue
        right = 100 * tables.accuracy(r, here)
        x = np.concatenate([[0], r.counts])
        line = lambda values: np.concatenate([[100.0], values])
        low, mean, high = (line(f(right[:, RANKED:], axis=1)) for f in (np.min, np.mean, np.max))
        fig.add_trace(go.Scatter(x=np.concatenate([x, x[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself", fillcolor=theme.null_fill,
                                 line_width=0, hoverinfo="skip", mode="lines"))
        hover = f"{run.label}, %{{x}} random heads<br>%{{y:.1f}} % (%{{customdata[0]:.1f}} to %{{customdata[1]:.1f}})<extra></extra>"
        fig.add_trace(go.Scatter(x=x, y=mean, mode="lines", line=dict(color=theme.null_line, width=1.5, dash="dash"), hovertemplate=hover,
                                 customdata=np.column_stack([low, high])))
        plots.dots(fig, theme, run.label, x, line(right[:, change]), mode="lines+markers", size=6, line=dict(color=theme.run(run.label), width=1.5),
                   hover=f"{run.label}, first %{{x}} heads<br>%{{y:.1f}} % right")
    plots.key(fig, theme, [run.label for run in runs])
    plots.note(fig, theme, "random heads", 1.0, 1.0, xanchor="right", yanchor="bottom", yshift=4)
    return fig


# ---- other questions and the control text


def transfer_card(runs) -> Figure:
    a = runs[0]
    r, (change, _, _) = a.result, reading.chosen(a.params)
    chosen = {run.label if len(runs) > 1 else "": partial(transfer, run) for run in runs}
    helpless = [name for name, accuracy in zip(r.sets, r.accuracy[:, 0]) if accuracy < 0.05]
    note = f" The whole model answers under 5 % of {', '.join(helpless)}: there only ln p of the answer says anything." if helpless else ""
    return Figure(
        "transfer", "Does it carry over, and what else breaks?",
        f"Filled: whole model; hollow: without the first {r.heads}; grey: without {r.heads} random heads, lowest to highest.{note}", chosen,
        tables.transfer(runs),
        f"Left: accuracy with the whole model and with the first {r.heads} heads of the ranking ({a.params.change}) at their {a.params.baseline}, 95 % "
        "bootstrap intervals over questions or sequences; answers of several tokens "
        "are right if greedy decoding gives them whole; word problems are answered at once, without written steps. Right: change of ln p of the answer. "
        "In the control text the heads stand at their mean everywhere. "
        f"n: {', '.join(f'{name} {n:,} {unit}' for name, n, unit in zip(r.sets, r.n, r.unit))}.",
        "; ".join(f"{name}: {words.percent(x[0])} to {words.percent(x[1 + change])}" for name, x in zip(r.sets, r.accuracy)) + ".", height=HEIGHT,
    )


def transfer(run, theme: Theme) -> go.Figure:
    r, (change, _, _) = run.result, reading.chosen(run.params)
    fig = figure(theme, margin=dict(l=184, r=14, t=26, b=42), height=HEIGHT)
    n, rows = len(r.sets), np.arange(len(r.sets))
    scored = np.isfinite(r.score[:, 0])
    fig.update_layout(
        xaxis=dict(domain=[0, 0.62], title="right, %", range=[-3, 103], showgrid=True),
        xaxis2=dict(domain=[0.7, 1], anchor="y", title="change of ln p, nats", showgrid=True, nticks=4),
        yaxis=dict(range=[n - 0.5, -0.5], tickvals=rows.tolist(), ticktext=[f"{name[:22]} ({n:,})" for name, n in zip(r.sets, r.n)], tickfont=dict(color=theme.text)))
    accuracy, span = 100 * r.accuracy, 100 * r.span
    _bands(fig, theme, accuracy[:, 1 + RANKED :], rows, "x")
    delta = r.score[:, 1:] - r.score[:, :1]
    _bands(fig, theme, delta[scored][:, RANKED:], rows[scored], "x2")
    plots.dashed(fig, theme, 0.0, ("x2", "y domain"))
    color = theme.run(run.label)
    for x, name, hollow in ((0, "whole model", False), (1 + change, f"without the first {r.heads}", True)):
        plots.dots(fig, theme, run.label, accuracy[:, x], rows, low=span[:, x, 1], high=span[:, x, 2], custom=np.column_stack([span[:, x, 1:], r.n]),
                   text=[f"{s}, {name}" for s in r.sets], size=8,
                   hover="%{text}<br>%{x:.1f} % right (%{customdata[0]:.1f} to %{customdata[1]:.1f}), n = %{customdata[2]}")
        if hollow:
            fig.data[-1].marker.update(color=theme.page, line=dict(width=1.5, color=color))
    plots.dots(fig, theme, run.label, delta[scored, change], rows[scored], axes=("x2", "y"), text=[s for s, ok in zip(r.sets, scored) if ok],
               hover="%{text}<br>ln p %{x:+.3g} nats")
    fig.data[-1].marker.update(color=theme.page, line=dict(width=1.5, color=color))
    return fig


def _bands(fig: go.Figure, theme: Theme, values: np.ndarray, rows: np.ndarray, axis: str) -> None:
    """Range of the random draws [row, draw] as grey bars, and their mean as a grey tick."""
    shapes = [dict(type="rect", x0=v.min(), x1=v.max(), y0=y - 0.3, y1=y + 0.3, xref=axis, yref="y", fillcolor=theme.null_fill, line_width=0,
                   layer="below") for v, y in zip(values, rows)]
    shapes += [dict(type="line", x0=v.mean(), x1=v.mean(), y0=y - 0.3, y1=y + 0.3, xref=axis, yref="y", line=dict(color=theme.null_line, width=1.5),
                    layer="below") for v, y in zip(values, rows)]
    plots.add(fig, shapes=shapes)


# ---- what the MLPs do


def cosine_card(runs) -> Figure:
    r = runs[0].result
    best = int(np.nanargmax(r.cosine[3, :, 0] - r.cosine[4, :, 0])) if np.isfinite(r.cosine[3, :, 0]).any() else 0
    return Figure(
        "mlp_roles", "What the MLPs read and what they add",
        "Left: is the operand in the stream that an MLP reads; right: does the MLP add the answer. Grey: a number that the prompt has nothing to do "
        f"with. The answer stands out most in block {r.blocks[best]}.",
        {run.label if len(runs) > 1 else "": partial(cosines, run) for run in runs}, tables.cosines(runs),
        "Cosine at END between the stream into each MLP (before its norm) and the unembedding of operand A and B, and between what the MLP adds and the "
        f"unembedding of the answer, over {r.n_discovery} prompts, 95 % bootstrap intervals. "
        "Grey: the same with another answer of the prompt set. The final norm is not folded in.",
        f"Curves by block; what the MLP of block {r.blocks[best]} adds has cosine {number(r.cosine[3, best, 0])} with the answer and "
        f"{number(r.cosine[4, best, 0])} with another number.", height=HEIGHT,
    )


def cosines(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=52, r=14, t=42, b=42), height=HEIGHT)
    colors = {0: theme.more[0], 1: theme.more[1], 2: theme.null_line, 3: theme.run(run.label), 4: theme.null_line}
    blocks = plots.ticks(r.blocks.tolist(), 13)
    low, high = float(np.nanmin([r.cosine[..., 1].min(), 0.0])), float(np.nanmax(r.cosine[..., 2]))
    pad = 0.06 * (high - low)
    fig.update_layout(xaxis=dict(domain=[0, 0.47], title="block", **blocks), xaxis2=dict(domain=[0.55, 1], anchor="y2", title="block", **blocks),
                      yaxis=dict(title="cosine", showgrid=True, range=[low - pad, high + pad]),
                      yaxis2=dict(anchor="x2", showgrid=True, showticklabels=False, range=[low - pad, high + pad]))
    for curve, name in enumerate(CURVES):
        axes = ("x", "y") if curve < 3 else ("x2", "y2")
        null = colors[curve] == theme.null_line
        line = dict(color=colors[curve], width=1.5, dash="dash" if null else "solid")
        plots.dots(fig, theme, run.label, np.arange(len(r.blocks)), r.cosine[curve, :, 0], low=r.cosine[curve, :, 1], high=r.cosine[curve, :, 2],
                   along="y", axes=axes, mode="lines+markers", size=6,
                   line=line, custom=np.column_stack([r.blocks, r.cosine[curve, :, 1:]]),
                   hover=f"{name}, block %{{customdata[0]}}<br>cosine %{{y:.3f}} (%{{customdata[1]:.3f}} to %{{customdata[2]:.3f}})")
        fig.data[-1].marker.color = fig.data[-1].error_y.color = colors[curve]
        fig.data[-1].marker.symbol = ("circle", "square", "x", "circle", "x")[curve]
    mark = lambda curve, sign, text: f'<span style="color:{colors[curve]}">{sign}</span> {text}'
    another, where = mark(2, "✕", "another number"), dict(xanchor="left", yanchor="bottom", yshift=6, align="left", color=theme.text)
    plots.note(fig, theme, f"reads {mark(0, '●', 'operand A')} {mark(1, '■', 'operand B')}<br>{another}", 0.0, 1.0, **where)
    plots.note(fig, theme, f"adds {mark(3, '●', 'the answer')}<br>{another}", 0.55, 1.0, **where)
    return fig


# ---- precise tuning


def tuning_card(runs) -> Figure:
    run = next(run for run in runs if len(run.result.arms))
    r = run.result
    gain = lambda a: 100 * (r.tuned_accuracy[a, 0, 0] - r.tuned_accuracy[0, 0, 0])
    random = [gain(a) for a, name in enumerate(r.arms) if "random" in name]
    loss = lambda a: 100 * (r.tuned_accuracy[a, 2, 0] - r.tuned_accuracy[0, 2, 0])
    chosen = {run.label if len(runs) > 1 else "": partial(tuning, run) for run in runs if len(run.result.arms)}
    against = f"; random heads {number(min(random))} to {number(max(random))}" if random else ""
    return Figure(
        "tuning", "Precise tuning against random heads and full tuning",
        f"After {r.steps} steps the ranked heads gain {number(gain(1))} points in new wordings{against}; every matrix {number(gain(len(r.arms) - 1))}. "
        f"Control: {number(loss(1))} and {number(loss(len(r.arms) - 1))} points.",
        chosen, tables.tuning(runs),
        f"Accuracy before and after {r.steps} steps of Adam on arithmetic in the discovery wordings: Q, K, V and O slices of the first heads of the "
        f"ranking ({int(r.arm_weights[1]):,} weights), of random heads, and all attention and MLP matrices "
        f"({int(r.arm_weights[-1]):,} weights; embeddings and norms stay). Every weight outside is bit-identical. One problem in five was never trained. "
        "95 % bootstrap intervals. As a model: ~tune_heads.",
        "; ".join(f"{name}: {words.percent(r.tuned_accuracy[a, 0, 0])}" for a, name in enumerate(r.arms)) + ".", height=320, wide=True,
    )


def tuning(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=172, r=14, t=26, b=42), height=320)
    rows = np.arange(len(r.arms))
    for s in range(len(SETS)):
        n = "" if s == 0 else str(s + 1)
        left = s * 0.345
        values = 100 * r.tuned_accuracy[:, s]
        fig.update_layout({f"xaxis{n}": dict(domain=[left, left + 0.31], anchor="y", title="right, %", showgrid=True, nticks=5)})
        plots.dashed(fig, theme, values[0, 0], (f"x{n}", "y domain"))
        plots.note(fig, theme, f"{TESTS[s]}, n = {int(r.tuned_n[s]):,}", left, 1.0, xanchor="left", yanchor="bottom", yshift=4, color=theme.text)
        for grey in (False, True):
            at = np.array([a for a, arm in enumerate(r.arms) if (arm == "before" or "random" in arm) == grey])
            plots.dots(fig, theme, run.label, values[at, 0], rows[at], low=values[at, 1], high=values[at, 2], axes=(f"x{n}", "y"),
                       custom=np.column_stack([values[at, 1:], r.arm_weights[at]]), text=[f"{r.arms[a]}<br>{r.arm_heads[a][:60]}" for a in at],
                       hover="%{text}<br>%{x:.1f} % (%{customdata[0]:.1f} to %{customdata[1]:.1f}), %{customdata[2]:,} weights trained")
            if grey:
                fig.data[-1].marker.color = fig.data[-1].error_x.color = theme.null_line
    return fig.update_layout(yaxis=dict(range=[len(r.arms) - 0.5, -0.5], tickvals=rows.tolist(), ticktext=list(r.arms), tickfont=dict(color=theme.text)))
