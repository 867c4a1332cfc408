"""The figure cards: units by how often they are on, redundancy over bits, what codes know, sparsity, attention."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.hash_codes import tables, text, words
from analysis.hash_codes.attention import BITS, METHODS
from analysis.hash_codes.probing import ALL
from analysis.hash_codes.sparsity import CONDITIONS, CUTS, MAIN, TAUS
from analysis.hash_codes.words import percent
from analysis.plots import number
from analysis.theme import Theme, figure, symbol


def figures(runs) -> list[Figure]:
    cards = [text.neighbours_card(runs), _units_card(runs), _redundancy_card(runs)]
    cards += [_probes_card(runs)] if runs[0].result.label else []
    cards += [_predictor_card(runs), _damage_card(runs), _magnitude_card(runs)]
    cards += [_attention_card(runs)] if runs[0].result.recall.size else []
    if len(runs) > 1 and not (f := tables.flips(runs[0].result, runs[1].result)).why_not:
        cards[1:1] = text.flip_cards(runs, f)
    return cards


def legend(fig: go.Figure, theme: Theme, entries: list[tuple[str, str, str]], x: float = 0.0) -> None:
    """(mark, color, text) in one line above the plot."""
    plots.note(fig, theme, "&nbsp;&nbsp;".join(f'<span style="color:{c}">{m}</span> {t}' for m, c, t in entries), x, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=6)


def line(fig: go.Figure, theme: Theme, x, y, color: str, *, dash=None, marker=None, low=None, high=None, axes=("x", "y"), hover="", custom=None) -> None:
    error = None if low is None else dict(type="data", symmetric=False, array=np.asarray(high) - y, arrayminus=y - np.asarray(low), color=color, thickness=1.2, width=0)
    fig.add_trace(go.Scatter(x=x, y=y, mode="lines+markers" if marker else "lines", line=dict(color=color, width=1.6, dash=dash), marker=dict(symbol=marker, size=7, color=color), error_y=error,
                             xaxis=axes[0], yaxis=axes[1], customdata=custom, hovertemplate=hover + "<extra></extra>", cliponaxis=False))


# ---- how often each unit is on


def _units_card(runs) -> Figure:
    r = runs[0].result
    never, always = words.silent(r)
    views = {(f"{run.label}, {p}" if len(runs) > 1 and len(r.planes) > 1 else run.label if len(runs) > 1 else p if len(r.planes) > 1 else ""): partial(units, run, k)
             for run in runs for k, p in enumerate(run.result.planes)}
    return Figure(
        "units", "How often units are on", f"{percent(never)} of the units are never on and {percent(always)} always, on {r.n_counted:,} tokens; a unit that never moves carries no information. "
        f"{percent(float(r.near.mean()))} of the pre-activations lie within 0.001 of the threshold and may flip by rounding.",
        views, tables.units(runs),
        f"Units of each block by the share of tokens on which {words.what(r)} exceeds {runs[0].params.threshold:g}; {r.n_counted:,} tokens, position 0 left out. Numbers: units.",
        f"Heat map, block by class of on-fraction; {percent(never)} never on.", height=_height(r),
    )


def _height(r) -> int:
    return max(344, 150 + 20 * len(r.layers))


def units(run, plane: int, theme: Theme) -> go.Figure:
    r = run.result
    counts = tables.classes_of(r.on_fraction[plane])
    z = counts / r.d_mlp
    fig = figure(theme, margin=dict(l=44, r=14, t=12, b=92), height=_height(r))
    plots.heat(fig, theme, z, low=0, high=1, hover="block %{customdata[0]}, %{customdata[1]}<br>%{customdata[2]:,} of %{customdata[3]:,} units",
               custom=[[[int(i), name, int(c), r.d_mlp] for name, c in zip(tables.CLASSES, row)] for i, row in zip(r.layers, counts)], bar=plots.horizontal_bar(theme, "share of the block’s units", 0.5, [0, 0.5, 1]))
    if len(r.layers) <= 32:
        plots.add(fig, [plots.text_at(theme, f"{c:,}", x, y, ref=("x", "y"), color=plots.ink(z[y, x], 0, 1)) for y, row in enumerate(counts) for x, c in enumerate(row)])
    short = ("never", "< 10 %", "10–50 %", "50–90 %", "≥ 90 %", "always")
    fig.update_layout(xaxis=dict(title="on at this share of tokens", **plots.ticks(list(short))), yaxis=dict(title="block", **{**plots.ticks(r.layers.tolist(), 24), "range": [len(r.layers) - 0.5, -0.5]}))
    return fig


# ---- redundancy over bits


def _redundancy_card(runs) -> Figure:
    r = runs[0].result
    both = words.redundant(r, texts="all"), words.redundant(r)
    few = [row for row in tables.where(r.redundancy, source="sign codes", texts="without shared prefixes", bits=16) if row["layer"] == ALL]
    null = [row for row in tables.where(r.redundancy, source="random hyperplanes", texts="without shared prefixes", bits=16) if row["layer"] == ALL]
    reading = (f"With all bits R is {number(both[1])}" + (f", and {number(both[0])} with shared prefixes, where a causal model cannot but repeat itself" if r.unit == "token" else "")
               + (f". With 16 bits drawn from all blocks {number(few[0]['r'])}; random hyperplanes {number(null[0]['r'])}." if few and null else "."))
    views = {name if len(r.looked) > 1 else "": partial(redundancy, runs, layer) for name, layer in _shown_layers(r)}
    return Figure(
        "redundancy", "Do texts share codes?", reading + " R depends on n.", views, tables.joined(runs, "redundancy"),
        f"R = (n − different codes)/n of {r.n_fresh if r.unit == 'token' else r.n_units:,} {r.unit}s without shared prefixes, against the number of bits, drawn at random from the block’s; the last point has all of them. Grey: random hyperplanes on the MLP’s input, and an untrained network.",
        "R against bits, beside random hyperplanes and an untrained network.", height=_height(r),
    )


def _shown_layers(r) -> list[tuple[str, int]]:
    looked = r.looked.tolist()
    chosen = dict.fromkeys([looked[0], looked[len(looked) // 2], looked[-1]])
    return [("all blocks", ALL), *((f"block {i}", i) for i in chosen)]


def redundancy(runs, layer: int, theme: Theme) -> go.Figure:
    r = runs[0].result
    fig = figure(theme, margin=dict(l=52, r=14, t=34, b=42), height=_height(r))
    at = lambda run, source, texts="without shared prefixes": sorted(tables.where(run.result.redundancy, source=source, texts=texts, layer=layer), key=lambda row: row["bits"])
    ticks = [row["bits"] for row in at(runs[0], "sign codes")]

    def draw(run, source, color, **how):
        rows = at(run, source, how.pop("texts", "without shared prefixes"))
        line(fig, theme, [ticks.index(row["bits"]) if row["bits"] in ticks else len(ticks) - 1 for row in rows], [row["r"] for row in rows], color, custom=[[row["bits"], row["n"], row["effective_bits"] if np.isfinite(row["effective_bits"]) else None] for row in rows],
             hover=f"{run.label}, {source}, %{{customdata[0]}} bits<br>R %{{y:.4f}}, n = %{{customdata[1]:,}}<br>effective bits %{{customdata[2]:.1f}}", **how)

    draw(runs[0], "random hyperplanes", theme.null_line, dash="dash")
    draw(runs[0], "untrained network", theme.quiet, dash="dot", marker="x-thin-open")
    if r.unit == "token" and len(runs) == 1:
        draw(runs[0], "sign codes", theme.a, dash="dot", marker="circle-open", texts="all")
    for run in runs:
        draw(run, "sign codes", theme.run(run.label), marker=symbol(run.label))
    keys = [(plots.MARK[symbol(run.label)], theme.run(run.label), run.label if len(runs) > 1 else "codes") for run in runs]
    keys += [("○", theme.a, "with prefixes")] if r.unit == "token" and len(runs) == 1 else []
    legend(fig, theme, [*keys, ("╌", theme.null_line, "hyperplanes"), ("✕", theme.quiet, "untrained")])
    fig.update_layout(xaxis=dict(title="bits", **plots.ticks([f"{t:,}" for t in ticks])), yaxis=dict(title="R", range=[-0.02, 1.02], showgrid=True))
    return fig


# ---- what codes know


def _probes_card(runs) -> Figure:
    r = runs[0].result
    code = words.probe(r, "sign codes")
    of = lambda source: number(words.probe(r, source)["accuracy"])
    chance = tables.where(r.probes, source="most frequent class")[0]["accuracy"]
    return Figure(
        "probes", f"What codes know: {r.label}", f"All blocks side by side: k-NN on codes {number(code['accuracy'])}, hyperplanes {of('random hyperplanes')}, untrained {of('untrained network')}, shuffled labels {of('shuffled labels')}, "
        f"most frequent class {number(chance)}. That it can be read does not say that the model uses it.",
        {reader: partial(probes, runs, reader) for reader in ("k-NN", "linear")}, tables.joined(runs, "probes"),
        f"Accuracy with which the {r.label} ({len(r.classes)} classes) is read off the code of a {r.unit}, by block: k-NN (k = 9, Hamming) or ridge regression on one-hot labels, fitted on half of the sequences of each class, {code['n']:,} {r.unit}s of the other half; "
        "95 % intervals over sequences. Rightmost: all blocks side by side. Grey: random hyperplanes with as many bits on the MLP’s input, an untrained network of the same shape; dashed line: most frequent class.",
        f"Accuracy by block of codes and controls; all blocks {number(code['accuracy'])}.", height=_height(r),
    )


def probes(runs, reader: str, theme: Theme) -> go.Figure:
    r = runs[0].result
    fig = figure(theme, margin=dict(l=52, r=14, t=34, b=42), height=_height(r))
    places = [*r.looked.tolist(), ALL]

    def draw(run, source, color, **how):
        rows = [row for row in tables.where(run.result.probes, source=source, reader=reader) if row["layer"] in places]
        rows.sort(key=lambda row: places.index(row["layer"]))
        ends = dict(low=[row["low"] for row in rows], high=[row["high"] for row in rows]) if how.pop("bars", False) else {}
        line(fig, theme, [places.index(row["layer"]) for row in rows], np.array([row["accuracy"] for row in rows]), color, **ends, custom=[[row["low"], row["high"], row["n"]] for row in rows],
             hover=f"{run.label}, {source}<br>accuracy %{{y:.3f}} (%{{customdata[0]:.3f}}–%{{customdata[1]:.3f}}), n = %{{customdata[2]:,}}", **how)

    draw(runs[0], "random hyperplanes", theme.null_line, dash="dash")
    draw(runs[0], "untrained network", theme.quiet, dash="dot", marker="x-thin-open")
    for run in runs:
        draw(run, "pre-activations", theme.run(run.label), dash="dot", marker=symbol(run.label) + "-open")
        draw(run, "sign codes", theme.run(run.label), marker=symbol(run.label), bars=True)
    chance = tables.where(r.probes, source="most frequent class")[0]["accuracy"]
    fig.add_shape(type="line", x0=0, x1=1, xref="x domain", y0=chance, y1=chance, line=dict(color=theme.null_line, width=1.2, dash="longdash"), layer="below")
    plots.note(fig, theme, f"most frequent class {number(chance)}", 0, chance, ref=("x domain", "y"), xanchor="left", yanchor="top")
    keys = [(plots.MARK[symbol(run.label)], theme.run(run.label), run.label if len(runs) > 1 else "codes") for run in runs]
    legend(fig, theme, [*keys, ("○", theme.a, "raw"), ("╌", theme.null_line, "hyperplanes"), ("✕", theme.quiet, "untrained")])
    fig.update_layout(xaxis=dict(title="block", **plots.ticks([*map(str, r.looked.tolist()), "all"], 14)), yaxis=dict(title="accuracy", range=[0, 1.04], showgrid=True))
    return fig


# ---- contextual sparsity


def _predictor_card(runs) -> Figure:
    r = runs[0].result
    precision, recall = (v[:, :, MAIN].mean(0) for v in tables.told(r))
    return Figure(
        "predictor", "Can it be told one block earlier what will be off?", f"Of the units said to be off {percent(precision[0])} are; of those off {percent(recall[0])} are said to be (means over blocks). "
        f"Each unit’s own on-fraction alone reaches {percent(precision[1])} and {percent(recall[1])}.",
        {"": partial(predictor, runs)}, tables.sparsity(runs),
        f"Linear predictor of each unit’s bit from the stream one block earlier ({'full rank' if not runs[0].params.rank else f'rank {runs[0].params.rank}'}), fitted on the first half of the text and scored on the second; off where its score is below {CUTS[MAIN]:g}. Grey: the on-fraction of the unit on the first half.",
        f"Precision and recall by block; means {percent(precision[0])} and {percent(recall[0])}.", height=_height(r),
    )


def predictor(runs, theme: Theme) -> go.Figure:
    r = runs[0].result
    fig = figure(theme, margin=dict(l=52, r=14, t=34, b=42), height=_height(r))
    for run in runs:
        for side, values in enumerate(tables.told(run.result)):
            axes = (("x", "y"), ("x2", "y2"))[side]
            x = run.result.layers.tolist()
            if run is runs[0]:
                line(fig, theme, x, values[:, 1, MAIN], theme.null_line, dash="dash", axes=axes, hover="own on-fraction, block %{x}: %{y:.3f}")
            line(fig, theme, x, values[:, 0, MAIN], theme.run(run.label), marker=symbol(run.label), axes=axes, hover=f"{run.label}, block %{{x}}: %{{y:.3f}}")
    axis = dict(title="block", dtick=max(1, r.n_layers // 8))
    fig.update_layout(xaxis=dict(domain=[0, 0.44], **axis), xaxis2=dict(domain=[0.56, 1], anchor="y2", **axis), yaxis=dict(title="precision of “off”", range=[0, 1.04], showgrid=True),
                      yaxis2=dict(title="recall of “off”", range=[0, 1.04], anchor="x2", showgrid=True))
    keys = [(plots.MARK[symbol(run.label)], theme.run(run.label), run.label if len(runs) > 1 else "predictor") for run in runs]
    legend(fig, theme, [*keys, ("╌", theme.null_line, "own on-fraction")])
    return fig


def _damage_card(runs) -> Figure:
    r = runs[0].result
    told, random, least = (words.masked(r, c, CUTS[MAIN]) for c in CONDITIONS[:3])
    truly = words.masked(r, "truly off", None)
    off = "Those truly off are exactly zero after ReLU." if r.affine else f"Even those truly off cost {number(truly['kl'])}: with {r.activation} off is not zero."
    return Figure(
        "masking", "What does it cost to believe the predictor?", f"With {percent(told['masked_share'])} masked: predicted off {number(told['kl'])} nats per token, at random {number(random['kl'])}, the smallest {number(least['kl'])}. {off}",
        {run.label if len(runs) > 1 else "": partial(masking, run) for run in runs}, tables.joined(runs, "damage"),
        f"KL(model ‖ model with units of every MLP set to zero) against the share of units masked; {told['n_tokens']:,} tokens of the half that the predictor was not fitted on, 95 % intervals over sequences. Units are off where the predictor’s score is below {', '.join(f'{c:g}' for c in CUTS)}.",
        f"KL against share masked: predicted {number(told['kl'])}, random {number(random['kl'])}.", height=_height(r),
    )


def masking(run, theme: Theme) -> go.Figure:
    r = run.result
    rows = {c: tables.where(r.damage, condition=c) for c in CONDITIONS}
    values = np.array([v for group in rows.values() for row in group for v in (row["kl"], row["high"]) if np.isfinite(v)])
    floor, clipped = plots.log_floor(values, 1e-5)
    fig = figure(theme, margin=dict(l=58, r=14, t=34, b=42), height=_height(r))
    for condition, color, dash, marker in (("random", theme.null_line, "dash", "x-thin-open"), ("smallest", theme.quiet, "dot", "triangle-up"), ("predicted off", theme.run(run.label), None, symbol(run.label)), ("truly off", theme.text, None, "square")):
        group = rows[condition]
        y, low, high = (np.maximum([row[k] for row in group], floor) for k in ("kl", "low", "high"))
        line(fig, theme, [100 * row["masked_share"] for row in group], y, color, dash=dash, marker=marker, low=low, high=high, custom=[[row["kl"], row["low"], row["high"], row["cut"]] for row in group],
             hover=f"{condition}: %{{x:.1f}} % masked<br>KL %{{customdata[0]:.4g}} (%{{customdata[1]:.4g}}–%{{customdata[2]:.4g}}) nats/token<br>off below %{{customdata[3]}}")
    legend(fig, theme, [(plots.MARK[symbol(run.label)], theme.run(run.label), "predicted off"), ("✕", theme.null_line, "random"), ("▲", theme.quiet, "smallest"), ("■", theme.text, "truly off")])
    fig.update_layout(xaxis=dict(title="units masked, %", rangemode="tozero"), yaxis=dict(title="KL, nats/token (log)", **plots.log_axis(floor, max(values.max(), floor * 2), most=6, clipped=clipped)))
    return fig


def _magnitude_card(runs) -> Figure:
    r = runs[0].result
    k = TAUS.index(0.1) + 1
    return Figure(
        "magnitude", "How much of the MLP is small?", f"{percent(float(r.small[:, k].mean()))} of mlp_post lies within a tenth of its root mean square; exactly zero: {percent(float(r.small[:, 0].mean()))}. Off: {percent(float((r.base[:, 0] / r.base[:, 1]).mean()))}.",
        {run.label if len(runs) > 1 else "": partial(magnitude, run) for run in runs}, tables.magnitude(runs),
        f"Share of |mlp_post| at most τ times the block’s root mean square, and share of pre-activations that are off, on the second half of the text ({r.activation}).",
        "Share of small activations by block.", height=_height(r),
    )


def magnitude(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=52, r=70, t=34, b=42), height=_height(r))
    x = r.layers.tolist()
    ends = plots.apart([float(r.small[-1, k + 1]) for k in range(len(TAUS))], 0.055)
    for k, (tau, y) in enumerate(zip(TAUS, ends)):
        line(fig, theme, x, r.small[:, k + 1], theme.run(run.label), marker=symbol(run.label), hover=f"τ = {tau:g}, block %{{x}}: %{{y:.3f}}")
        plots.note(fig, theme, f"τ = {tau:g}", x[-1], y, ref=("x", "y"), xanchor="left", xshift=10)
    line(fig, theme, x, r.base[:, 0] / r.base[:, 1], theme.null_line, dash="dash", hover="off, block %{x}: %{y:.3f}")
    legend(fig, theme, [(plots.MARK[symbol(run.label)], theme.run(run.label), "within τ × root mean square"), ("╌", theme.null_line, "sign is off")])
    fig.update_layout(xaxis=dict(title="block", tickmode="array", tickvals=x[:: max(1, len(x) // 8)]), yaxis=dict(title="share of units and tokens", range=[0, 1.04], showgrid=True))
    return fig


# ---- attention


def _attention_card(runs) -> Figure:
    r, p = runs[0].result, runs[0].params
    b = BITS.index(p.bits)
    mean = r.recall[:, b].mean((1, 2))
    return Figure(
        "attention", f"Attention by Hamming distance: are the top {p.keys} keys found?", f"With {p.bits} bits random projections find {percent(mean[0])} of them, {percent(mean[1])} with keys centred; signs of the raw coordinates {percent(float(r.recall[2, 0].mean()))}; chance {percent(r.chance)}.",
        {f"{run.label}: {name}" if len(runs) > 1 else name: partial(draw, run) for run in runs if run.result.recall.size for name, draw in (("heads", attention_map), ("bits", attention_bits))}, tables.attention(runs),
        f"Of the {p.keys} keys with the largest q · k (after rotary embedding), the share among the {p.keys} nearest codes; {r.n_queries:,} queries that see at least {2 * p.keys} keys, {p.attention_sequences} sequences, ties of distance by lot, seed {p.seed}. Random projections: P(bit differs) = angle/π.",
        f"Recall by block and head at {p.bits} bits; mean {percent(mean[0])}, chance {percent(r.chance)}.", height=_height(r), wide=True,
    )


def attention_map(run, theme: Theme) -> go.Figure:
    r, b = run.result, BITS.index(run.params.bits)
    fig = figure(theme, margin=dict(l=44, r=14, t=30, b=92), height=_height(r))
    for m, (method, at) in enumerate(((0, b), (1, b), (2, 0))):
        axes = ("x" + (str(m + 1) if m else ""), "y")
        plots.heat(fig, theme, r.recall[method, at], axes=axes, low=0, high=1, bar=plots.horizontal_bar(theme, "share of the true top keys found", 0.5, [0, 0.5, 1]) if m == 0 else None,
                   custom=r.mass[method, at][..., None], hover=f"{METHODS[method]}<br>block %{{y}}, head %{{x}}: recall %{{z:.3f}}<br>attention on the keys found %{{customdata[0]:.3f}}")
        left = m * 0.345
        fig.update_layout({"xaxis" + (str(m + 1) if m else ""): dict(domain=[left, left + 0.31], title="head", anchor="y", **plots.ticks(list(range(r.recall.shape[3])), 9))})
        plots.note(fig, theme, (f"projections, {BITS[b]} bits", "with keys centred", "signs of coordinates")[m], left, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    n = r.recall.shape[2]
    fig.update_layout(yaxis=dict(title="block", **{**plots.ticks(list(range(n)), 24), "range": [n - 0.5, -0.5]}))
    return fig


def attention_bits(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=52, r=14, t=34, b=42), height=_height(r))
    x = list(range(len(BITS)))
    for m, dash in ((0, None), (1, "dot")):
        each = r.by_sequence[m]
        line(fig, theme, x, r.recall[m].mean((1, 2)), theme.run(run.label), dash=dash, marker=symbol(run.label) + ("-open" if m else ""), low=np.nanmin(each, 1), high=np.nanmax(each, 1), hover=f"{METHODS[m]}, %{{x}} : %{{y:.3f}}")
    raw = float(r.recall[2, 0].mean())
    for value, name in ((raw, "signs of the coordinates"), (r.chance, "chance")):
        fig.add_shape(type="line", x0=0, x1=1, xref="x domain", y0=value, y1=value, line=dict(color=theme.null_line, width=1.2, dash="dash"), layer="below")
        plots.note(fig, theme, f"{name} {number(value)}", 1, value, ref=("x domain", "y"), xanchor="right", yanchor="bottom")
    legend(fig, theme, [(plots.MARK[symbol(run.label)], theme.run(run.label), "random projections (range over sequences)"), ("○", theme.run(run.label), "keys centred")])
    fig.update_layout(xaxis=dict(title="bits", **plots.ticks(list(map(str, BITS)))), yaxis=dict(title="recall, mean over heads", range=[0, 1.04], showgrid=True))
    return fig
