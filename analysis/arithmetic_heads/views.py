"""Cards that look at the same heads another way: where END looks, which operators share heads, how far faster guesses are to be trusted;
and which prompts all of it rests on."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.arithmetic_heads import reading, tables, words
from analysis.contract import Figure
from analysis.plots import number
from analysis.theme import Theme, figure
from metrics.bootstrap import rank_correlation
from metrics.patching.end_attention import PLACES
from metrics.prompts.wordings import BY_NAME, OPERATORS, SIGN, STYLES

SHOWN = 8  # heads in a map of heads
HEIGHT = 344

# ---- where END looks


def attention_card(runs) -> Figure:
    r, order = runs[0].result, reading.closest(runs[0], SHOWN)
    best = order[0]
    place = int(np.nanargmax(r.attention[best][:3, 0]))
    mean = np.nanmean(r.attention[:, :, place, 0])
    return Figure(
        "attention", "What the heads look at from the last token",
        f"{reading.name(r, best)} puts {words.percent(r.attention[best][place, 0])} of END’s attention on the {PLACES[place]}; the mean head "
        f"{words.percent(mean)}. Attention says where a head looks, not what it takes.",
        {run.label if len(runs) > 1 else "": partial(attention, run) for run in runs}, tables.attention(runs),
        f"Share of END’s attention on the tokens of operand A, operator, operand B, on the first token and elsewhere, mean over {r.n_discovery} discovery "
        f"prompts; the {len(order)} strongest heads, then the mean of all heads (grey). Rows sum to 100 %.",
        "; ".join(f"{reading.name(r, x)}: " + ", ".join(f"{PLACES[p]} {words.percent(r.attention[x][p, 0])}" for p in range(3)) for x in order[:3]) + ".",
        height=HEIGHT,
    )


def attention(run, theme: Theme) -> go.Figure:
    r, order = run.result, reading.closest(run, SHOWN)
    z = 100 * np.array([*(r.attention[x][:, 0] for x in order), np.full(len(PLACES), np.nan)])
    mean = 100 * np.nanmean(r.attention[..., 0].reshape(-1, len(PLACES)), 0)
    ends = 100 * np.array([*(r.attention[x][:, 1:] for x in order), np.full((len(PLACES), 2), np.nan)])
    names = [reading.name(r, x) for x in order]
    fig = figure(theme, margin=dict(l=76, r=70, t=10, b=42), height=HEIGHT)
    fig.update_layout(xaxis=dict(tickvals=list(range(len(PLACES))), ticktext=list(PLACES), range=[-0.5, len(PLACES) - 0.5]),
                      yaxis=dict(tickvals=[*range(len(order)), len(order) + 0.3], ticktext=[*names, "all heads"], range=[len(order) + 0.85, -0.5],
                                 tickfont=dict(color=theme.text)))
    plots.heat(fig, theme, z[:-1], low=0, high=100, custom=np.concatenate([ends[:-1], np.broadcast_to(np.array(names, object)[:, None, None],
                                                                                                      (len(order), len(PLACES), 1))], 2),
               hover="%{customdata[2]} on %{x}<br>%{z:.1f} % (%{customdata[0]:.1f} to %{customdata[1]:.1f})", gap=2,
               bar=dict(title=dict(text="share, %", side="right"), tickvals=[0, 50, 100]))
    texts = [plots.text_at(theme, f"{z[i, p]:.0f}", p, i, ref=("x", "y"), color=plots.ink(z[i, p], 0,
                                                                                          100)) for i in range(len(order)) for p in range(len(PLACES))]
    texts += [plots.text_at(theme, f"{mean[p]:.0f}", p, len(order) + 0.3, ref=("x", "y")) for p in range(len(PLACES))]
    band = dict(type="rect", x0=-0.5, x1=len(PLACES) - 0.5, y0=len(order) - 0.15, y1=len(order) + 0.75, xref="x", yref="y", fillcolor=theme.null_fill,
                line_width=0, layer="below")
    plots.add(fig, texts, [band])
    return fig


# ---- do the operators share heads


def overlap_card(runs) -> Figure:
    run = runs[0]
    r, (c, _, _) = run.result, reading.chosen(run.params)
    k = run.params.top
    top = tables.tops(r, c, k)
    pairs = [(x, y) for i, x in enumerate(top) for y in list(top)[i + 1 :]]
    chance = k * k / reading.n_heads(r)
    told = ", ".join(f"{SIGN[OPERATORS[x]]} and {SIGN[OPERATORS[y]]} {len(top[x] & top[y])}" for x, y in pairs)
    return Figure(
        "overlap", "Do the operators use the same heads?",
        f"Of the first {k} heads of each operator they share: {told or f'{run.label} has only one'}. Two random sets of {k} would share "
        f"{number(chance, 2)} of {reading.n_heads(r)}.",
        {x.label if len(runs) > 1 else "": partial(overlap, x) for x in runs}, tables.overlap(runs),
        f"Number of heads among the first {k} of both operators, by relative logit ({run.params.change}, MLPs recomputed, discovery wordings). Random "
        f"sets share k²/N = {number(chance, 2)} on average.",
        f"Matrix of shared heads. {told}.", height=HEIGHT,
    )


def overlap(run, theme: Theme) -> go.Figure:
    r, k = run.result, run.params.top
    top = tables.tops(r, reading.chosen(run.params)[0], k)
    signs = [SIGN[OPERATORS[o]] for o in top]
    z = np.array([[len(top[x] & top[y]) for y in top] for x in top], float)
    fig = figure(theme, margin=dict(l=44, r=190, t=10, b=42), height=HEIGHT)
    axis = dict(tickvals=list(range(len(top))), ticktext=signs, tickfont=dict(size=16, color=theme.text))
    fig.update_layout(xaxis=dict(**axis, range=[-0.5, len(top) - 0.5], constrain="domain"),
                      yaxis=dict(**axis, range=[len(top) - 0.5, -0.5], scaleanchor="x", constrain="domain"))
    plots.heat(fig, theme, z, low=0, high=k, gap=2, custom=np.array([[f"{a} and {b}" for b in signs] for a in signs], object),
               hover="%{customdata}<br>%{z} shared")
    texts = [plots.text_at(theme, f"{z[i, j]:.0f}", j, i, ref=("x", "y"), color=plots.ink(z[i, j], 0, k)) for i in range(len(top)) for j in range(len(top))]
    lines = [f"{sign}  " + ", ".join(reading.name(r, x) for x in sorted(heads, key=lambda x: reading.ranked(r, reading.chosen(run.params)[0],
                                                                                                            operator=o).index(x))[:4]) for sign,
             (o, heads) in zip(signs, top.items())]
    plots.add(fig, texts + [plots.text_at(theme, "<br>".join(lines), 1.03, 1.0, xanchor="left", yanchor="top", align="left", color=theme.text)])
    return fig


# ---- faster views against the exact scan


def agreement_card(runs) -> Figure:
    run = runs[0]
    r, (c, _, m) = run.result, reading.chosen(run.params)
    exact = reading.heads(r, c, 0, m)[..., 0]
    told = []
    for name, values in _views(r, c, m):
        if np.isfinite(values).any():
            x = reading.ranked(r, c, 0, m)[0]
            told.append(f"{name} gives {reading.name(r, x)} {words.shown(values[x], m)}")
    first = reading.ranked(r, c, 0, m)[0]
    return Figure(
        "agreement", "How far can the faster views be trusted?",
        f"Each dot is a head; on the diagonal a view agrees with the exact scan (ρ of {_null(r, c, m)}), in which {reading.name(r, first)} has "
        f"{words.shown(exact[first], m)}: {'; '.join(told)}. "
        f"The exact scan was checked on {r.n_hooked} senders against the whole model with hooks: largest difference {number(r.hooked_gap, 2)} in any measure.",
        {x.label if len(runs) > 1 else "": partial(agreement, x) for x in runs}, tables.agreement(runs),
        f"Mean effect of each head ({run.params.change}, {run.params.measure}) by four views against exact path patching with MLPs recomputed. ρ: "
        f"Spearman over {reading.n_heads(r)} heads ({_null(r, c, m)}); "
        f"then how many of the exact scan’s first {run.params.top} heads are among the view’s first {run.params.top}. Two conventions of one name need "
        "not agree.",
        "Four scatter plots. " + "; ".join(told) + ".", height=320, wide=True,
    )


def _null(r, change: int, measure: int) -> str:
    found = rank_correlation(reading.heads(r, change, 0, measure)[..., 0].ravel(), reading.heads(r, change, 1, measure)[..., 0].ravel())
    return f"10,000 random pairings: {number(found.null_low, 2)} to {number(found.null_high, 2)}, 95 %" if np.isfinite(found.rho) else "too few for a null"


SHORT = ("activation patching", "gradient", "integrated")  # of FASTER


def _views(r, change: int, measure: int) -> list[tuple[str, np.ndarray]]:
    """(name, mean effect [block, head]) of everything that is compared with the exact scan."""
    return [("MLPs frozen", reading.heads(r, change, 1, measure)[..., 0])] + [(name, r.faster_effect[change, f, measure]) for f, name in enumerate(SHORT)]


def agreement(run, theme: Theme) -> go.Figure:
    r, (c, _, m) = run.result, reading.chosen(run.params)
    k = reading.scale(m)
    exact = reading.heads(r, c, 0, m)[..., 0] * k
    fig = figure(theme, margin=dict(l=52, r=14, t=44, b=42), height=320)
    names = np.array([[reading.name(r, (i, h)) for h in range(r.n_heads)] for i in range(len(r.blocks))])
    for panel, (name, values) in enumerate(_views(r, c, m)):
        n, left = "" if panel == 0 else str(panel + 1), panel * 0.2566
        values = values * k
        here = np.isfinite(values) & np.isfinite(exact)
        fig.update_layout({f"xaxis{n}": dict(domain=[left, min(left + 0.23, 1.0)], anchor=f"y{n}", title=f"exact, {reading.unit(m)}", showgrid=True, nticks=5),
                           f"yaxis{n}": dict(anchor=f"x{n}", showgrid=True, nticks=6,
                                             **({"title": f"view, {reading.unit(m)}"} if panel == 0 else {"tickfont": dict(color=theme.axis)}))})
        if not here.any():
            plots.note(fig, theme, f"{name}<br>not asked for", left, 1.0, xanchor="left", yanchor="bottom", yshift=4)
            continue
        ends = [min(exact[here].min(), values[here].min()), max(exact[here].max(), values[here].max())]
        fig.add_shape(type="line", x0=ends[0], x1=ends[1], y0=ends[0], y1=ends[1], xref=f"x{n}", yref=f"y{n}",
                      line=dict(color=theme.null_line, width=1.5, dash="dash"), layer="below")
        plots.dots(fig, theme, run.label, exact[here], values[here], axes=(f"x{n}", f"y{n}"), size=6, text=names[here],
                   hover="%{text}<br>exact %{x:.3g}, view %{y:.3g}")
        found = rank_correlation(exact[here], values[here])
        top = run.params.top
        first = lambda x: set(np.argsort(np.where(here, x, np.inf).ravel(), kind="stable")[:top].tolist())
        rho = f"ρ = {number(found.rho, 2)}" if np.isfinite(found.rho) else "ρ not defined"
        plots.note(fig, theme, f"<b>{name}</b><br>{rho}, {len(first(exact) & first(values))} of {top}", left, 1.0, xanchor="left", yanchor="bottom",
                   yshift=4, align="left", color=theme.text)
    return fig


# ---- the prompts


def asked_card(runs) -> Figure:
    r = runs[0].result
    counts = words.asked_and_right(r)
    left_out = [SIGN[o] for o, _, _ in counts if OPERATORS.index(o) not in reading.operators(r)]
    told = "; ".join((f"{run.label} " if len(runs) > 1 else "") + ", ".join(f"{SIGN[o]} {right:,} of {asked:,}" for o, right,
                                                                            asked in words.asked_and_right(run.result)) for run in runs)
    without = f" Left out: {', '.join(left_out)} (under 30 in a half, or under one in five)." if left_out else ""
    return Figure(
        "prompts", "Which prompts this rests on",
        f"Answered rightly of those asked: {told}.{without} Filled: wordings on which heads are sought; hollow: the others. Only right ones are kept, so "
        "this is the model at its best.",
        {"": partial(asked, runs)}, tables.asked(runs),
        "Share of asked prompts answered rightly, by style and operator, in the wordings on which heads are sought (filled) and in the others (hollow); "
        f"operands 1 to {runs[0].params.largest}. {r.n_inputs} prompts are kept. "
        "The data lists every wording.",
        f"Dots of accuracy by style and operator. {told}.", height=262, wide=True,
    )


def asked(runs, theme: Theme) -> go.Figure:
    operators = [o for o, _, _ in words.asked_and_right(runs[0].result)]
    fig = figure(theme, margin=dict(l=44, r=14, t=26, b=42), height=262)
    fig.update_layout(yaxis=dict(range=[len(operators) - 0.5, -0.5], tickvals=list(range(len(operators))), ticktext=[SIGN[o] for o in operators],
                                 tickfont=dict(size=16, color=theme.text)))
    for panel, style in enumerate(STYLES):
        n, left = "" if panel == 0 else str(panel + 1), panel * 0.35
        fig.update_layout({f"xaxis{n}": dict(domain=[left, left + 0.3], anchor="y", title="answered rightly, %", range=[-3, 103], showgrid=True)})
        plots.dashed(fig, theme, 20.0, (f"x{n}", "y domain"))
        plots.note(fig, theme, f"{style}s", left, 1.0, xanchor="left", yanchor="bottom", yshift=4, color=theme.text)
        for k, run in enumerate(runs):
            for validation in (False, True):
                _share_right(fig, theme, run, style, operators, validation, 0.0 if len(runs) == 1 else 0.06 * (2 * k - 1), n)
    plots.key(fig, theme, [run.label for run in runs], 0.15)
    return fig


def _share_right(fig: go.Figure, theme: Theme, run, style: str, operators: list[str], validation: bool, shift: float, n: str) -> None:
    rows = [row for row in run.result.asked.to_pylist() if BY_NAME[row["wording"]].style == style and row["validation"] == validation]
    right, asked = (np.array([sum(row[name] for row in rows if row["operator"] == o) for o in operators], float) for name in ("right", "asked"))
    with np.errstate(invalid="ignore"):
        share = 100 * right / asked
    plots.dots(fig, theme, run.label, share, np.arange(len(operators)) + (0.12 if validation else -0.12) + shift, axes=(f"x{n}", "y"),
               custom=np.column_stack([right, asked]), size=7,
               hover=f"{run.label}, {style}s, {'other wordings' if validation else 'discovery'}<br>%{{customdata[0]:.0f}} of %{{customdata[1]:.0f}} right")
    if validation:
        fig.data[-1].marker.update(color=theme.page, line=dict(width=1.5, color=theme.run(run.label)))
