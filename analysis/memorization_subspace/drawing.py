"""The figure cards: extraction, the sweep of cuts, the overlap of the halves, recovery, prefix length, neurons, completions; with what
compression lost and the comparison of locators from their own files."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from analysis import plots
from analysis.contract import Figure
from analysis.memorization_subspace import drawing_locators, words
from analysis.memorization_subspace.finding import METHODS
from analysis.theme import Theme, figure

HEIGHT = 344
OVERLAPS = ("base: natural text", "base: same format", "no contrast", "channels shuffled")


def figures(runs) -> list[Figure]:
    found, compressed = [run for run in runs if words.located(run.result)], [run for run in runs if run.result.original]
    cards = [_extraction_card(runs), _prefix_card(runs)]
    if compressed:
        cards.append(_lost_card(compressed))
    if found:
        cards += [_sweep_card(found), _overlap_card(found), *([_recovery_card(found)] if any(len(run.result.steps) for run in found) else []), *drawing_locators.cards(found),
                  _neurons_card(found), _texts_card(found)]
    return cards


def _views(runs, draw) -> dict:
    return {run.label if len(runs) > 1 else "": partial(draw, run) for run in runs}


# ---- what is extracted


def _levels(r) -> list[tuple[str, np.ndarray]]:
    """(label, bool [p]) of the groups whose extraction is shown, from rare to often."""
    if (r.repeats < 0).all():
        return [("all passages", np.ones(len(r.exact), bool))]
    return [(str(n), r.repeats == n) for n in sorted(set(r.repeats.tolist()))]


def _extraction_card(runs) -> Figure:
    r = runs[0].result
    rows = []
    for run in runs:
        q = run.result
        for kind in dict.fromkeys(q.kind.tolist()):
            for label, at in _levels(q):
                here = at & (q.kind == kind)
                if here.any():
                    low, high = words.wilson(int(q.exact[here].sum()), int(here.sum()))
                    rows.append({"run": run.label, "subject": run.subject, "kind": kind, "repeats": label, "passages": int(here.sum()), "extracted": float(q.exact[here].mean()),
                                 "low": low, "high": high, "leading tokens right": float(q.leading[here].mean())})
        rows.append({"run": run.label, "subject": run.subject, "kind": q.control_name, "repeats": "0", "passages": len(q.control_exact), "extracted": float(q.control_exact.mean()),
                     "low": 0.0, "high": words.wilson(int(q.control_exact.sum()), len(q.control_exact))[1], "leading tokens right": float("nan")})
    kinds = list(dict.fromkeys(r.kind.tolist()))
    return Figure(
        "extraction", "What comes out word for word?", f"Greedy decoding from the prefix must give the whole suffix; grey: {r.control_name}, {int(r.control_exact.sum())} of {len(r.control_exact)}.",
        {kind if len(kinds) > 1 else "": partial(extraction, runs, kind) for kind in kinds}, pa.Table.from_pylist(rows),
        f"Share of passages that greedy decoding from their prefix reproduces exactly, by how often training showed them ({len(r.exact)} passages; bars are 95 % Wilson intervals); grey: {r.control_name}.",
        f"Share extracted; overall {r.n_memorized} of {len(r.exact)}, controls {int(r.control_exact.sum())} of {len(r.control_exact)}.", height=HEIGHT)


def extraction(runs, kind: str, theme: Theme) -> go.Figure:
    labels = [label for label, _ in _levels(runs[0].result)]
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42))
    shift = (0.0,) if len(runs) == 1 else (-0.1, 0.1)
    for run, dx in zip(runs, shift):
        q = run.result
        x, y, low, high, n = [], [], [], [], []
        for i, (_, at) in enumerate(_levels(q)):
            here = at & (q.kind == kind)
            if here.any():
                a, b = words.wilson(int(q.exact[here].sum()), int(here.sum()))
                x, y, low, high, n = [*x, i + dx], [*y, q.exact[here].mean()], [*low, a], [*high, b], [*n, int(here.sum())]
        plots.dots(fig, theme, run.label, x, np.array(y), low=np.array(low), high=np.array(high), along="y", custom=n, hover=f"{run.label}: %{{y:.0%}} of %{{customdata}} passages")
    control = runs[0].result.control_exact
    plots.band(fig, theme, -0.5, len(labels) - 0.5, 0.0, words.wilson(int(control.sum()), len(control))[1])
    known = (runs[0].result.repeats >= 0).any()
    fig.update_layout(xaxis=dict(title="times shown in training" if known else "", **plots.ticks(labels)), yaxis=dict(title="share extracted", range=[-0.04, 1.06], tickformat=".0%", showgrid=True))
    plots.key(fig, theme, [run.label for run in runs])
    return fig


# ---- what cutting does


def _sweep_card(runs) -> Figure:
    rows = [{"run": run.label, "subject": run.subject, "split": h + 1, "method": METHODS[m], "share asked": float(s), "mean density": q.density[m, j], "half 1 extracted": q.extracted[h, m, j, 0],
             "half 2 extracted": q.extracted[h, m, j, 1], "half 1 characters right": q.characters[m, j, 0] if h == 0 else None, "half 2 characters right": q.characters[m, j, 1] if h == 0 else None, "perplexity ratio": q.ratio[h, m, j]}
            for run in runs for q in [run.result] for h in range(len(q.half)) for m in range(3) for j, s in enumerate(q.shares) if np.isfinite(q.ratio[h, m, j])]
    run = runs[0]
    j, r = words.at_share(run), run.result
    left, held, random = (words.mean_range(r.extracted[:, m, j, half]) for m, half in ((0, 0), (0, 1), (2, 1)))
    views = {f"{run.label + ' ' if len(runs) > 1 else ''}{name}": partial(sweep, run, name) for run in runs for name in ("extraction", "characters", "perplexity")}
    return Figure(
        "cut", "What does cutting the located weights do?",
        f"At {100 * r.density[0, j]:.1f} % density {left} of the located half and {held} of the held-out half are left, random weights leave {random}. Located {words.base_name(run.params)}. {words.at_paper(run)}",
        views, pa.Table.from_pylist(rows),
        "Share of memorized passages still extracted, characters right in greedy completions, and perplexity on natural text relative to the whole model, after zeroing located weights of the "
        f"feed-forward output projections. Solid: the half located on; open marks: the held-out half; squares: without contrast; grey: random masks of the same density. Means of {len(r.half)} random splits, bars their range; characters, and controls off the share in detail, of the first split only.",
        f"Curves over density. At {100 * r.density[0, j]:.1f} %: located half {left}, held-out {held}, perplexity × {plots.number(r.ratio[:, 0, j].mean())}.", height=HEIGHT)


def sweep(run, what: str, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=56, r=14, t=26, b=42))
    color = theme.run(run.label)
    x = 100 * r.density
    values = {"extraction": r.extracted, "characters": r.characters[None], "perplexity": np.stack([r.ratio, r.ratio], 3)}[what]

    def line(m, half, name, **style):
        y = values[:, m, :, half]
        mean = np.nanmean(y, 0)
        bar = dict(type="data", symmetric=False, array=np.nanmax(y, 0) - mean, arrayminus=mean - np.nanmin(y, 0), color=style["line"]["color"], thickness=1, width=0)
        fig.add_trace(go.Scatter(x=x[m], y=mean, error_y=bar, mode="lines+markers", name=name, hovertemplate=f"{name}<br>density %{{x:.2f}} %<br>%{{y:.2f}}<extra></extra>", **style))

    line(2, 0, "random, half 1", line=dict(color=theme.null_line, dash="dash", width=1.5), marker=dict(color=theme.null_line, size=6))
    line(1, 0, "no contrast, half 1", line=dict(color=theme.quiet, width=1.5), marker=dict(color=theme.quiet, size=7, symbol="square"))
    line(0, 0, "located half", line=dict(color=color, width=2), marker=dict(color=color, size=8))
    if what != "perplexity":
        line(0, 1, "held-out half", line=dict(color=color, width=2, dash="dot"), marker=dict(color=theme.page, size=8, line=dict(color=color, width=2)))
    key = "● located half  ○ held-out half  ■ no contrast  ╌ random" if what != "perplexity" else "● located  ■ no contrast  ╌ random"
    plots.note(fig, theme, key, 0.0, 1.0, xanchor="left", yanchor="bottom", yshift=4)
    title = {"extraction": "still extracted", "characters": "characters right"}.get(what)
    top = dict(title=title, range=[-0.04, 1.06], tickformat=".0%") if title else dict(title="perplexity, after / before", rangemode="normal")
    fig.update_layout(xaxis=dict(title="weights cut, % of the feed-forward output projections (log)", **plots.log_axis(max(float(x.min()), 0.05), float(x.max()), most=5)), yaxis=dict(showgrid=True, **top))
    return fig


# ---- one subspace?


def _overlap_card(runs) -> Figure:
    rows = [{"run": run.label, "subject": run.subject, "split": h + 1, "block": int(b), "masks": name, "IoU": run.result.overlap[h, k, i], "chance": run.result.chance[i], "density": run.result.layer_density[h, i]}
            for run in runs for h in range(len(run.result.half)) for k, name in enumerate(OVERLAPS) for i, b in enumerate(run.result.blocks)]
    r = runs[0].result
    mean, dense = r.overlap.mean((0, 2)), r.layer_density.mean(0)
    drawn = {"IoU": overlap, "density": density}
    views = {f"{run.label + ' ' if len(runs) > 1 else ''}{name}": partial(draw, run) for run in runs for name, draw in drawn.items()}
    return Figure(
        "overlap", "Do two halves of the passages share a subspace?",
        f"Located on natural text the halves overlap at IoU {plots.number(mean[0], 2)}, on the same format at {plots.number(mean[1], 2)}; chance is {plots.number(r.chance.mean(), 2)}, no contrast {plots.number(mean[2], 2)}: what the format-matched base removes was the format. "
        f"Densest is block {r.blocks[dense.argmax()]}.",
        views, pa.Table.from_pylist(rows),
        "Intersection over union, per block, of the masks located on two disjoint random halves of the memorized passages: contrasted with natural text, with never-trained strings of the same format, and "
        f"without contrast; channels of one half shuffled as a null; means of {len(r.half)} splits, bars their range. Grey band: two independent random masks of the same densities. The masks are those of the contrast "
        f"({'single weights' if runs[0].params.locator == 'weights' else 'whole neurons'}), whichever locator is chosen. Density: share of each block's feed-forward output weights that is located; it has the share asked for as its ceiling.",
        f"IoU per block; mean {plots.number(mean[0], 2)} (natural base), {plots.number(mean[1], 2)} (format base), chance {plots.number(r.chance.mean(), 2)}.", height=HEIGHT)


def overlap(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42))
    color, at = theme.run(run.label), np.arange(len(r.blocks))
    styles = (dict(color=color, symbol="circle"), dict(color=theme.page, symbol="circle", line=dict(color=color, width=2)), dict(color=theme.quiet, symbol="square"), dict(color=theme.null_line, symbol="x-thin", line=dict(color=theme.null_line, width=2)))
    for k, (name, style) in enumerate(zip(OVERLAPS, styles)):
        mean = r.overlap[:, k].mean(0)
        bar = dict(type="data", symmetric=False, array=r.overlap[:, k].max(0) - mean, arrayminus=mean - r.overlap[:, k].min(0), color=(style.get("line") or style)["color"], thickness=1, width=0)
        fig.add_trace(go.Scatter(x=at + 0.09 * (k - 1.5), y=mean, error_y=bar, mode="markers", marker=dict(size=9, **style), name=name, customdata=r.blocks, hovertemplate=f"{name}<br>block %{{customdata}}: %{{y:.3f}}<extra></extra>"))
    plots.band(fig, theme, -0.5, len(at) - 0.5, 0.0, float(r.chance.max()))
    plots.note(fig, theme, "● natural base  ○ format base  ■ no contrast  ✕ shuffled", 0.0, 1.0, xanchor="left", yanchor="bottom", yshift=4)
    fig.update_layout(xaxis=dict(title="block", **plots.ticks(r.blocks.tolist())), yaxis=dict(title="IoU of the halves' masks", range=[-0.03, 1.03], showgrid=True))
    return fig


def density(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42))
    values, at = 100 * r.layer_density, np.arange(len(r.blocks))
    mean, color = values.mean(0), theme.run(run.label)
    bar = dict(type="data", symmetric=False, array=values.max(0) - mean, arrayminus=mean - values.min(0), color=theme.axis, thickness=1.5, width=0)
    fig.add_trace(go.Bar(x=at, y=mean, error_y=bar, marker_color=color, width=0.6, customdata=r.blocks, hovertemplate="block %{customdata}: %{y:.2f} %<extra></extra>"))
    fig.add_hline(100 * run.params.share, line=dict(color=theme.null_line, width=1.5, dash="dash"))
    plots.note(fig, theme, f"╌ ceiling: the {100 * run.params.share:g} % asked for", 0.0, 1.0, xanchor="left", yanchor="bottom", yshift=4)
    fig.update_layout(xaxis=dict(title="block", **plots.ticks(r.blocks.tolist())), yaxis=dict(title="located of the block's weights, %", rangemode="tozero", showgrid=True))
    return fig


# ---- suppressed or deleted?


def _recovery_card(runs) -> Figure:
    runs = [run for run in runs if len(run.result.steps)]
    names = ("whole model", "after the cut", "never trained, after the cut")
    rows = [{"run": run.label, "subject": run.subject, "steps": int(t), "setting": name, "extracted": run.result.recovered[k, i], "passages": run.result.n_recovered}
            for run in runs for k, name in enumerate(names) for i, t in enumerate(run.result.steps)]
    return Figure(
        "recovery", "Suppressed or deleted?", words.verdict(runs[0].result)[1].replace("**", ""), _views(runs, recovery), pa.Table.from_pylist(rows),
        "Share of passages extracted after so many Adam steps on four free vectors before each passage, the model frozen. Solid: after the cut; open: whole model; grey: never-trained strings in the cut model, "
        "the control (where they rise, the vectors carry the answer).",
        f"Recovery curves. {words.verdict(runs[0].result)[1].replace('**', '')}", height=HEIGHT)


def recovery(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42))
    color, at = theme.run(run.label), np.arange(len(r.steps))
    for k, style in ((2, dict(line=dict(color=theme.null_line, dash="dash", width=1.5), marker=dict(color=theme.null_line, size=6))),
                     (0, dict(line=dict(color=color, width=1.5, dash="dot"), marker=dict(color=theme.page, size=8, line=dict(color=color, width=2)))),
                     (1, dict(line=dict(color=color, width=2), marker=dict(color=color, size=8)))):
        fig.add_trace(go.Scatter(x=at, y=r.recovered[k], mode="lines+markers", hovertemplate="after %{text} steps: %{y:.0%}<extra></extra>", text=r.steps, **style))
    plots.note(fig, theme, "● after the cut  ○ whole model  ╌ never trained", 0.0, 1.0, xanchor="left", yanchor="bottom", yshift=4)
    fig.update_layout(xaxis=dict(title="steps of the soft prompt", **plots.ticks(r.steps.tolist())), yaxis=dict(title="extracted", range=[-0.04, 1.06], tickformat=".0%", showgrid=True))
    return fig


def _lost_card(runs) -> Figure:
    rows = [{"run": run.label, "subject": run.subject, "original": q.original, "passages": setting, "steps": int(t), "extracted": float(q.lost_recovered[k, i]), "n": q.n_lost_tested if not k else -1, "lost": words.n_lost(q)}
            for run in runs for q in [run.result] for k, setting in enumerate(("lost by compression", "never trained")) for i, t in enumerate(q.lost_steps)]
    rows = rows or [{"run": run.label, "subject": run.subject, "original": run.result.original, "lost": words.n_lost(run.result), "kept": int((run.result.original_exact & run.result.exact).sum())} for run in runs]
    said = words.forgetting(runs[0].result).replace("**", "")
    return Figure(
        "lost", "Does compression forget?", said, _views(runs, lost), pa.Table.from_pylist(rows),
        "Passages that the uncompressed model gives back and the compressed one does not, and the share of them that comes back with a soft prompt of four trained vectors before each passage. Grey: "
        "never-trained strings in the compressed model, the control.", said, height=HEIGHT)


def lost(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42))
    if not len(r.lost_steps):
        plots.note(fig, theme, "Nothing was lost." if not words.n_lost(r) else f"{words.n_lost(r)} lost; the recovery test is off.", 0.5, 0.5, xanchor="center", yanchor="middle")
        return fig.update_layout(xaxis=dict(visible=False), yaxis=dict(visible=False))
    color, at = theme.run(run.label), np.arange(len(r.lost_steps))
    for k, style in ((1, dict(line=dict(color=theme.null_line, dash="dash", width=1.5), marker=dict(color=theme.null_line, size=6))), (0, dict(line=dict(color=color, width=2), marker=dict(color=color, size=8)))):
        fig.add_trace(go.Scatter(x=at, y=r.lost_recovered[k], mode="lines+markers", hovertemplate="after %{text} steps: %{y:.0%}<extra></extra>", text=r.lost_steps, **style))
    plots.note(fig, theme, f"● lost by compression (n = {r.n_lost_tested})  ╌ never trained", 0.0, 1.0, xanchor="left", yanchor="bottom", yshift=4)
    fig.update_layout(xaxis=dict(title="steps of the soft prompt", **plots.ticks(r.lost_steps.tolist())), yaxis=dict(title="come back", range=[-0.04, 1.06], tickformat=".0%", showgrid=True))
    return fig


def _prefix_card(runs) -> Figure:
    rows = [{"run": run.label, "subject": run.subject, "prefix tokens": int(n), "memorized extracted": float(a), "controls extracted": float(b)} for run in runs for n, (a, b) in zip(run.result.lengths, run.result.by_length.T)]
    r = runs[0].result
    known = np.flatnonzero(r.by_length[0] >= 0.5)
    said = f"Half of the {r.n_memorized} memorized passages come out from their last {r.lengths[known[0]]} tokens of prefix on" if len(known) else "No prefix length brings half of them out"
    return Figure(
        "prefix", "How much of the prefix is needed?", f"{said}; the whole prefix has {int(np.median(r.prefix))} tokens (median).",
        {"": partial(prefix, runs)}, pa.Table.from_pylist(rows),
        f"Share of the memorized passages still extracted when only the last tokens of their prefix are given (all of it where it is shorter). Grey: {r.control_name}.", f"{said}.", height=HEIGHT)


def prefix(runs, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42))
    first = runs[0].result
    fig.add_trace(go.Scatter(x=first.lengths, y=first.by_length[1], mode="lines+markers", line=dict(color=theme.null_line, dash="dash", width=1.5), marker=dict(color=theme.null_line, size=6), hovertemplate="controls: %{y:.0%} with %{x} tokens<extra></extra>"))
    for run in runs:
        plots.dots(fig, theme, run.label, run.result.lengths, run.result.by_length[0], mode="lines+markers", line=dict(color=theme.run(run.label), width=2), hover=f"{run.label}: %{{y:.0%}} with %{{x}} tokens")
    fig.update_layout(xaxis=dict(title="tokens kept of the prefix, its last ones (log)", **plots.log_axis(1, float(first.lengths.max())) | dict(tickvals=first.lengths.tolist(), ticktext=[str(n) for n in first.lengths])),
                      yaxis=dict(title="extracted", range=[-0.04, 1.06], tickformat=".0%", showgrid=True))
    plots.key(fig, theme, [run.label for run in runs])
    plots.note(fig, theme, "╌ never trained", 1.0, 1.0, xanchor="right", yanchor="bottom", yshift=4)
    return fig


# ---- neurons and texts


def _neurons_card(runs) -> Figure:
    tables = [run.result.neurons.append_column("run", pa.array([run.label] * run.result.neurons.num_rows)) for run in runs]
    top = runs[0].result.neurons.slice(0, 1).to_pylist()[0]
    return Figure(
        "neurons", "Which neurons stand out, and what do they promote?", f"First is neuron {top['neuron']} of block {top['block']}; tokens are those its output weights push up through the unembedding.",
        _views(runs, neurons), pa.concat_tables(tables), "Feed-forward neurons by ‖w‖ · (rms on memorized suffixes − rms on the base), with the tokens that their output direction promotes most.",
        f"Bars of twelve neurons, from block {top['block']} neuron {top['neuron']}.", height=HEIGHT)


def neurons(run, theme: Theme) -> go.Figure:
    rows = run.result.neurons.to_pylist()
    fig = figure(theme, margin=dict(l=64, r=14, t=8, b=42))
    at = np.arange(len(rows))
    widest = max(row["score"] for row in rows)
    fig.add_trace(go.Bar(x=[row["score"] for row in rows], y=at, orientation="h", marker_color=theme.run(run.label), hovertemplate="score %{x:.3f}<extra></extra>"))
    plots.add(fig, [plots.text_at(theme, row["promotes"].replace("&", "&amp;").replace("<", "&lt;"), widest * 1.04, i, ref=("x", "y"), xanchor="left") for i, row in enumerate(rows)])
    fig.update_layout(yaxis=dict(tickvals=at, ticktext=[f"L{row['block']}N{row['neuron']}" for row in rows], range=[len(rows) - 0.5, -0.5]),
                      xaxis=dict(title="‖w‖ · (rms memorized − base)", range=[0, widest * 2.6], tickvals=[0, round(widest / 2, 2), round(widest, 2)]))
    return fig


def _texts_card(runs) -> Figure:
    tables = [run.result.texts.append_column("run", pa.array([run.label] * run.result.texts.num_rows)) for run in runs]
    changed = sum(row["before"] != row["after"] for row in runs[0].result.texts.to_pylist())
    return Figure(
        "completions", "Before and after the cut", f"Greedy completions of {runs[0].result.texts.num_rows} memorized prefixes; {changed} of them change (bold). Half 1 was located on, half 2 was not.",
        _views(runs, texts), pa.concat_tables(tables), "Greedy completions of memorized prefixes by the whole model and after the cut.", "A table of prefixes with their completions before and after.", height=HEIGHT, wide=True)


def texts(run, theme: Theme) -> go.Figure:
    rows = run.result.texts.to_pylist()
    safe = lambda text: text.replace("&", "&amp;").replace("<", "&lt;")
    columns = ("half", "prefix", "before", "after")
    cells = [[safe(str(row[name])) for row in rows] for name in columns]
    cells[3] = [text if row["before"] == row["after"] else f"<b>{text}</b>" for row, text in zip(rows, cells[3])]
    fig = figure(theme, margin=dict(l=4, r=4, t=4, b=4))
    fig.add_trace(go.Table(
        columnwidth=[0.5, 4, 4, 4], header=dict(values=columns, align="left", fill_color="rgba(0,0,0,0)", line_color=theme.grid, font=dict(color=theme.axis, size=theme.size)),
        cells=dict(values=cells, align="left", fill_color="rgba(0,0,0,0)", line_color=theme.grid, font=dict(color=theme.text, size=theme.size), height=24)))
    return fig
