"""The figure cards, in order; the map of effects and the strongest heads are drawn here."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.arithmetic_heads import closeup, curves, reading, tables, views, words
from analysis.contract import Figure
from analysis.plots import number
from analysis.theme import Theme, figure
from metrics.prompts.wordings import OPERATORS, SIGN
from models.variant import write_value

STRONGEST = 12


def figures(runs) -> list[Figure]:
    runs = words.alive(runs)
    pair = len(runs) > 1 and reading.same_checkpoint(*runs)
    cards = [_map_card(runs, pair), _lost_card(runs) if pair else _strongest_card(runs), curves.knockout_card(runs), curves.transfer_card(runs),
             views.attention_card(runs), curves.cosine_card(runs), closeup.pattern_card(runs), closeup.lens_card(runs)]
    if any(len(reading.operators(run.result)) > 1 for run in runs):
        cards.append(views.overlap_card(runs))
    if any(run.params.faster != "none" for run in runs):
        cards.append(views.agreement_card(runs))
    if any(len(run.result.arms) for run in runs):
        cards.append(curves.tuning_card(runs))
    return [*cards, views.asked_card(runs)]


def map_height(runs) -> int:
    rows = max(len(run.result.blocks) for run in runs)
    return 344 if rows <= 14 else min(344 + 13 * (rows - 14), 680)


def setting(run) -> str:
    """What is patched and measured, in words."""
    p = run.params
    return f"{p.change}, MLPs {p.mlps}, {p.measure}"


# ---- the map


def _map_card(runs, pair: bool) -> Figure:
    if len(runs) == 1:
        r = runs[0].result
        found = reading.operators(r)
        chosen = {"all": partial(effect_map, runs[0], None)} | ({SIGN[OPERATORS[o]]: partial(effect_map, runs[0], o) for o in found} if len(found) > 1 else {})
    else:
        chosen = {run.label: partial(effect_map, run, None) for run in runs} | ({"B − A": partial(difference_map, *runs)} if pair else {})
    a = runs[0]
    c, v, m = reading.chosen(a.params)
    best = reading.ranked(a.result, c, v, m)[0]
    three = reading.heads(a.result, c, v, m)[best]
    apart = " In B − A orange means that B’s answer hangs less on it; outlined there, the heads that were lost." if pair else ""
    grouped = f" Queries are grouped: {a.result.n_heads // a.result.n_kv} heads share one key and value." if a.result.n_kv < a.result.n_heads else ""
    return Figure(
        "effects", "What each head and MLP carries to the answer",
        f"Blue: the answer loses when this output at END comes from the run {words.WHEN[a.params.change]}; outlined, the key heads.{apart}{grouped}",
        chosen, tables.maps(runs),
        f"Path patching of every head (left) and MLP (right) at the last token: {setting(a)}; mean over {a.result.n_discovery} correctly answered "
        "prompts, operators weighing the same. "
        f"Outlined: heads that take at least {a.params.threshold:g} % of the answer’s logit away.",
        f"Heat map of blocks by heads with bars of MLPs. Strongest head: {reading.name(a.result, best)}, {words.shown(three[0], m)}.", height=map_height(runs),
    )


def _frame(theme: Theme, run, height: int) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=44, r=14, t=26, b=72), height=height, bargap=0.35)
    blocks = plots.ticks(r.blocks.tolist(), 24)
    return fig.update_layout(
        xaxis=dict(domain=[0, 0.66], title="head", **plots.ticks(list(range(r.n_heads)), 16)),
        yaxis=dict(title="block", **{**blocks, "range": blocks["range"][::-1]}),
        xaxis2=dict(domain=[0.74, 1.0], anchor="y", showgrid=True, nticks=4))


def effect_map(run, operator: int | None, theme: Theme) -> go.Figure:
    r, (c, v, m) = run.result, reading.chosen(run.params)
    z, mlp = reading.heads(r, c, v, m, operator=operator) * reading.scale(m), reading.mlps(r, c, v, m, operator) * reading.scale(m)
    fig = _frame(theme, run, map_height([run]))
    keys = reading.key_heads(r, c, run.params.threshold, v, operator)
    _cells(fig, theme, run, z, f"effect, {_unit(m)}", keys)
    _mlp_bars(fig, theme, run, mlp, m)
    return fig


def difference_map(a, b, theme: Theme) -> go.Figure:
    c, v, m = reading.chosen(a.params)
    found = reading.both(a.result, b.result, c, v, m)
    z = (found.difference if found.common else found.b - found.a) * reading.scale(m)
    fig = _frame(theme, a, map_height([a, b]))
    _cells(fig, theme, a, z, f"B − A, {_unit(m)}", reading.killed(a.result, b.result, c, a.params.threshold, v))
    at = [list(b.result.blocks).index(x) if x in b.result.blocks else None for x in a.result.blocks]
    one, two = reading.mlps(a.result, c, v, m), reading.mlps(b.result, c, v, m)
    delta = np.array([np.full(3, np.nan) if j is None else [two[j, 0] - one[i, 0], np.nan, np.nan] for i, j in enumerate(at)]) * reading.scale(m)
    _mlp_bars(fig, theme, a, delta, m, "MLP, B − A")
    return fig


def _unit(measure: int) -> str:
    return "% of the logit" if measure == reading.RELATIVE else "nats"


def _cells(fig: go.Figure, theme: Theme, run, z: np.ndarray, title: str, outlined: list) -> None:
    r = run.result
    most = float(np.nanmax(np.abs(z[..., 0]))) if np.isfinite(z[..., 0]).any() else 1.0
    most = most or 1e-6
    custom = np.array([[[reading.name(r, (i, h)), h * r.n_kv // r.n_heads, *z[i, h, 1:]] for h in range(r.n_heads)] for i in range(len(r.blocks))], object)
    group = "<br>key/value group %{customdata[1]}" if r.n_kv < r.n_heads else ""
    plots.heat(fig, theme, z[..., 0], scale=theme.diverging, low=-most, high=most, custom=custom,
               hover="%{customdata[0]}<br>%{z:.3g} (%{customdata[2]:.3g} to %{customdata[3]:.3g})" + group,
               bar=plots.horizontal_bar(theme, title, 0.33, [-most, 0, most], ["−" + number(most, 2), "0", "+" + number(most, 2)]))
    plots.add(fig, shapes=[s for i, h in outlined for s in plots.outline(h, i)] if len(r.blocks) <= 40 else [])
    gone = [i for i, x in enumerate(r.no_attention) if x]
    plots.add(fig, [plots.text_at(theme, "removed", (r.n_heads - 1) / 2, i, ref=("x", "y")) for i in gone])
    for lost in sorted(set(range(r.n_layers)) - set(r.blocks.tolist()))[:1]:
        missing = ", ".join(map(str, sorted(set(range(r.n_layers)) - set(r.blocks.tolist()))))
        plots.note(fig, theme, f"{run.label} has no block {missing}", 0, 1.0, xanchor="left", yanchor="bottom", yshift=4)


def _mlp_bars(fig: go.Figure, theme: Theme, run, values: np.ndarray, measure: int, title: str = "MLP") -> None:
    r = run.result
    colors = [theme.a if x < 0 else theme.b for x in np.nan_to_num(values[:, 0])]
    arm = lambda ends: np.nan_to_num(np.abs(ends - values[:, 0]))
    fig.add_trace(go.Bar(x=values[:, 0], y=np.arange(len(r.blocks)), orientation="h", xaxis="x2", yaxis="y", marker_color=colors, name="MLP",
                         customdata=np.column_stack([r.blocks, values[:, 1:]]),
                         error_x=dict(type="data", symmetric=False, array=arm(values[:, 2]), arrayminus=arm(values[:, 1]), color=theme.quiet,
                                      thickness=1.2, width=0),
                         hovertemplate="MLP of block %{customdata[0]}<br>%{x:.3g} (%{customdata[1]:.3g} to %{customdata[2]:.3g})<extra></extra>"))
    fig.update_layout(xaxis2=dict(title=f"{title}, {reading.unit(measure)}", zeroline=True, zerolinecolor=theme.line, zerolinewidth=1))


# ---- the strongest heads

SHIFT = 0.13  # of the two dots of a row


def _links(runs, order: list[tuple[int, int]]) -> dict[str, str]:
    """A clicked dot shows its head first in the cards below, everything else of the view staying as it is."""
    a, default = runs[0], vars(type(runs[0].params)())
    kept = {"a": a.subject, **({"b": runs[1].subject} if len(runs) > 1 else {}), "corpus": a.record.get("corpus")}
    kept |= {k: write_value(v) for k, v in vars(a.params).items() if v != default[k]}
    view = "&".join(f"{k}={v}" for k, v in kept.items() if v and k != "head" and "&" not in v)
    return {str(float(row + side)): f"arithmetic_heads?{view}&head={reading.name(a.result, x)}" for row, x in enumerate(order) for side in (-SHIFT, SHIFT)}


def _strongest_card(runs) -> Figure:
    a = runs[0]
    c, v, m = reading.chosen(a.params)
    r = a.result
    top = reading.ranked(r, c, v, m)[:STRONGEST]
    one, two = reading.heads(r, c, v, m), reading.heads(r, c, v, m, True)
    holds = sum(two[x][2] < 0 for x in top[:5])
    reading_text = ("Filled: wordings on which heads were sought; hollow: other wordings. "
                    f"Of the first {min(5, len(top))}, {holds} hold there (interval below 0). "
                    f"Grey: 95 % of all other heads.{' A alone: heads of another checkpoint do not correspond.' if len(runs) > 1 else ''}")
    return Figure(
        "strongest", "The strongest heads, and whether they hold in other wordings", reading_text, {"": partial(strongest, a)}, tables.heads(runs),
        f"The {len(top)} heads with the most harmful patch: {setting(a)}. Filled: {r.n_discovery} discovery prompts; hollow: {int(r.validation.sum())} "
        "validation prompts in other wordings; 95 % bootstrap "
        "intervals over prompts. Grey band: central 95 % of the other heads’ means." + (" Dashed: the key-head rule, second-hand." if m == 0 else ""),
        "; ".join(f"{reading.name(r, x)} {words.shown(one[x][0], m)}, other wordings {words.shown(two[x][0], m)}" for x in top[:3]) + ".",
        height=map_height(runs), links=_links(runs, top),
    )


def strongest(run, theme: Theme) -> go.Figure:
    r, (c, v, m) = run.result, reading.chosen(run.params)
    order = reading.ranked(r, c, v, m)
    top, rest = order[:STRONGEST], order[STRONGEST:]
    k = reading.scale(m)
    one, two = (np.array([reading.heads(r, c, v, m, half)[x] for x in top]) * k for half in (False, True))
    fig = figure(theme, margin=dict(l=58, r=14, t=26, b=42), height=map_height([run]))
    fig.update_layout(xaxis=dict(title=f"effect, {_unit(m)}", showgrid=True, nticks=7),
                      yaxis=dict(range=[len(top) - 0.5, -0.5], tickvals=list(range(len(top))), ticktext=[reading.name(r, x) for x in top],
                                 tickfont=dict(color=theme.text)))
    if rest:
        low, high = np.quantile([reading.heads(r, c, v, m)[x][0] * k for x in rest], [0.025, 0.975])
        fig.add_shape(type="rect", x0=low, x1=high, y0=-0.5, y1=len(top) - 0.5, fillcolor=theme.null_fill, line_width=0, layer="below")
    plots.dashed(fig, theme, 0.0)
    if m == reading.RELATIVE:
        plots.dashed(fig, theme, -run.params.threshold)
        plots.note(fig, theme, f"−{run.params.threshold:g} %", -run.params.threshold, 1.0, ref=("x", "paper"), yanchor="bottom", yshift=4)
    rows = np.arange(len(top))
    hover = "%{text}<br>%{x:.3g} (%{customdata[0]:.3g} to %{customdata[1]:.3g})"
    for values, shift, name in ((one, -SHIFT, "discovery"), (two, SHIFT, "other wordings")):
        plots.dots(fig, theme, "A" if run.label not in "AB" else run.label, values[:, 0], rows + shift, low=values[:, 1], high=values[:, 2],
                   custom=values[:, 1:], size=7,
                   text=[f"{reading.name(r, x)}, {name}" for x in top], hover=hover)
        if name != "discovery":
            fig.data[-1].marker.update(color=theme.page, line=dict(width=1.5, color=theme.run(run.label)))
    plots.note(fig, theme, "● discovery  ○ other wordings", 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig


# ---- A against B: which heads were lost


def _lost_card(runs) -> Figure:
    a, b = runs
    c, v, m = reading.chosen(a.params)
    found = reading.both(a.result, b.result, c, v, m)
    lost = reading.killed(a.result, b.result, c, a.params.threshold, v)
    over = f"{found.n} prompts that both answer rightly" if found.common else f"the prompts of each, since both answer only {found.n} of the same"
    names = ", ".join(reading.name(a.result, x) for x in lost[:6])
    also = set(lost) & set(reading.killed(a.result, b.result, c, a.params.threshold, v, validation=True))
    told = f"Lost: {names}; {len(also)} of {len(lost)} in the other wordings too." if lost else "No key head of A is lost."
    return Figure(
        "lost", "Which arithmetic heads did the change kill?",
        f"Each line is one head in A and in B, over {over}. {told} A head that loses can have been "
        "replaced by another. Click a dot to look closer.",
        {"": partial(lost_heads, a, b)}, tables.pairs(a, b),
        f"Path effects of the strongest heads of A and of B ({setting(a)}) in A (circle) and B (diamond), discovery wordings, {over}; 95 % bootstrap "
        "intervals. "
        f"Lost: at least {a.params.threshold:g} % of the logit in A, less in B, with the interval of the paired difference above 0.",
        f"Paired dots. Lost heads: {names or 'none'}.", height=map_height(runs), links=_links(runs, _compared(found)),
    )


def _compared(found: reading.Both) -> list[tuple[int, int]]:
    """The heads that are strongest in A or in B, in the order of A."""
    least = np.fmin(found.a[..., 0], found.b[..., 0])
    order = np.argsort(np.where(np.isfinite(least), least, np.inf).ravel(), kind="stable")[:STRONGEST]
    return sorted((divmod(int(i), least.shape[1]) for i in order), key=lambda x: found.a[x][0])


def lost_heads(a, b, theme: Theme) -> go.Figure:
    c, v, m = reading.chosen(a.params)
    found, k = reading.both(a.result, b.result, c, v, m), reading.scale(m)
    order = _compared(found)
    lost = set(reading.killed(a.result, b.result, c, a.params.threshold, v))
    fig = figure(theme, margin=dict(l=84, r=14, t=26, b=42), height=map_height([a, b]))
    names = [f"{reading.name(a.result, x)}{' lost' if x in lost else ''}" for x in order]
    fig.update_layout(xaxis=dict(title=f"effect, {_unit(m)}", showgrid=True, nticks=7),
                      yaxis=dict(range=[len(order) - 0.5, -0.5], tickvals=list(range(len(order))), ticktext=names, tickfont=dict(color=theme.text)))
    rows = np.arange(len(order))
    one, two = (np.array([x[o] for o in order]) * k for x in (found.a, found.b))
    plots.dashed(fig, theme, 0.0)
    if m == reading.RELATIVE:
        plots.dashed(fig, theme, -a.params.threshold)
        plots.note(fig, theme, f"−{a.params.threshold:g} %", -a.params.threshold, 1.0, ref=("x", "paper"), yanchor="bottom", yshift=4)
    plots.joins(fig, theme, np.stack([one[:, 0], rows - SHIFT], 1), np.stack([two[:, 0], rows + SHIFT], 1))
    for run, values, shift in ((a, one, -SHIFT), (b, two, SHIFT)):
        plots.dots(fig, theme, run.label, values[:, 0], rows + shift, low=values[:, 1], high=values[:, 2], custom=values[:, 1:], size=7,
                   text=[f"{run.label}, {reading.name(a.result, x)}" for x in order],
                   hover="%{text}<br>%{x:.3g} (%{customdata[0]:.3g} to %{customdata[1]:.3g})")
    for row, x in enumerate(order):
        if not np.isfinite(found.b[x][0]):
            plots.note(fig, theme, "removed in B", one[row, 0], row, ref=("x", "y"), xanchor="left", xshift=10)
    plots.key(fig, theme, ["A", "B"])
    return fig


