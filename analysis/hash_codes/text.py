"""The cards that show text: a passage's neighbours in context, and what a second model flips, block by block and token by token."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.hash_codes import tables, words
from analysis.hash_codes.passage import WINDOW
from analysis.hash_codes.words import percent
from analysis.theme import Theme, figure

ACROSS, MOST = 16, 128


def neighbours_card(runs) -> Figure:
    r = runs[0].result
    n = r.neighbours
    first, other = (n["distance"][s, 1] / n["n_bits"] for s in (0, 1))
    views = {f"{run.label}: {name}" if len(runs) > 1 else name: partial(neighbours, run, s) for run in runs for s, name in enumerate(("sign codes", "random hyperplanes"))}
    which = "all blocks" if runs[0].params.layer < 0 else f"block {runs[0].params.layer}"
    return Figure(
        "neighbours", "A passage and its nearest codes, in context", f"Top row: the passage; below the {r.unit}s whose codes lie nearest{', a colour each' if r.unit == 'sequence' else ', ending at the one found'}. The nearest differs in {percent(first)} of the bits, the median in {percent(float(n['median'][0]))}. "
        f"By random hyperplanes the nearest differs in {percent(other)}.{'' if r.unit == 'sequence' else ' Dark cells share the code at the same place.'}",
        views, tables.neighbours(r),
        f"Nearest of {n['n_searched']:,} {r.unit}s of other sequences by Hamming distance of {n['n_bits']:,} bits ({words.what(r)}, {which}). Colour: share of bits that differ from the passage’s code {'as a whole' if r.unit == 'sequence' else 'at the same place'}; position 0 has no code.",
        f"Text table of a passage and its {n['ids'].shape[1] - 1} nearest codes; the nearest differs in {percent(first)} of its bits.", height=90 + 30 * n["ids"].shape[1], wide=True,
    )


def neighbours(run, source: int, theme: Theme) -> go.Figure:
    r, n = run.result, run.result.neighbours
    text, rows = tables.texts(r), n["ids"].shape[1]
    share = n["share"][source]
    whole = r.unit == "sequence"
    top = max(float(np.nanmax(share[1:], initial=0.0) if whole else n["median"][source]), 1e-6)
    fig = figure(theme, margin=dict(l=96, r=84, t=8, b=8), height=90 + 30 * rows)
    words_ = [[text.get(int(i), "") for i in row] for row in n["ids"][source]]
    label = lambda k: "passage" if k == 0 else f"row {n['sequence'][source, k]}, {n['position'][source, k]}" if n["sequence"][source, k] >= 0 else ""
    fig.update_layout(xaxis=dict(visible=False, range=[-0.5, WINDOW - 0.5]), yaxis=dict(tickvals=list(range(rows)), ticktext=[label(k) for k in range(rows)], range=[rows - 0.5, -0.5]))
    custom = [[[w, None if not np.isfinite(s) else float(s), int(n["distance"][source, k])] for w, s in zip(words_[k], share[k])] for k in range(rows)]
    plots.heat(fig, theme, share, low=0, high=top, custom=custom, gap=2, hover="“%{customdata[0]}”<br>%{customdata[1]:.1%} of the bits differ here<br>row: %{customdata[2]:,} bits from the passage",
               bar=dict(title=dict(text="bits that differ", side="right"), tickformat=".0%" if top >= 0.05 else ".1%", nticks=5))
    plots.add(fig, [plots.text_at(theme, w[:7], x, y, ref=("x", "y"), color=plots.ink(float(share[y, x]), 0, top) if np.isfinite(share[y, x]) else theme.text) for y, row in enumerate(words_) for x, w in enumerate(row) if w])
    return fig


# ---- A against B


def flip_cards(runs, f: tables.Flips) -> list[Figure]:
    """The passage token by token where both models read it, then blocks, then neighbours where the same units were coded."""
    a, height = runs[0].result, max(344, 150 + 20 * len(f.layers))
    data, cards = tables.flipped(f, a), []
    if len(f.passage):
        worst = int(np.nanargmax(f.passage))
        cards.append(Figure(
            "flips_by_token", "The passage’s bits that B flips, token by token", f"Most at “{tables.texts(a)[int(a.row_ids[worst])]}”, position {worst}: {percent(float(f.passage[worst]))}; mean {percent(float(np.nanmean(f.passage)))}. Position 0 is not coded.",
            {"": partial(strip, a, f)}, data, f"Share of bits that differ between the codes of A and B at each token, over {len(f.layers)} common blocks.",
            "Strip of tokens coloured by flipped bits.", height=90 + 26 * -(-min(len(f.passage), MOST) // ACROSS), wide=True))
    cards.append(Figure(
        "flips", "Which bits does B flip?", f"{percent(float(f.share.mean()))} of all bits, most in block {f.layers[int(np.argmax(f.share))]}; A against itself is 0.", {"": partial(flips, f)}, data,
        f"Share of the bits of {f.same:,} {a.unit}s that differ between A and B, by block; bars: 10 to 90 % of the {a.unit}s.", f"Flipped bits by block; mean {percent(float(f.share.mean()))}.", height=height))
    if len(f.each):
        null, n = float(tables.overlap(a.nearest[0], a.nearest[1]).mean()), f.same
        least = int(np.argmin(f.each))
        cards.append(Figure(
            "neighbours_kept", "Whose neighbours change?", f"On average {percent(f.kept)} of nine neighbours stay, chance {percent(9 / max(n - 1, 9))}. A’s own random hyperplanes, which know the same inputs, have {percent(null)} of them. "
            f"Most changed: “{tables.texts(a).get(int(a.token[least]), '')}”, row {a.sequence[least]}, position {a.position[least]}.",
            {"": partial(stayed, f)}, data, f"How many of the nine nearest codes (Hamming, all blocks) of each of {n:,} {a.unit}s in A are among its nine nearest in B. Each {a.unit} is a row of the data.",
            f"Bars: neighbours that stay; mean {percent(f.kept)}.", height=height))
    return cards


def flips(f: tables.Flips, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=12, b=42), height=max(344, 150 + 20 * len(f.layers)))
    plots.dots(fig, theme, "B", f.layers, 100 * f.share, low=100 * f.low, high=100 * f.high, along="y", custom=np.stack([f.low, f.high], 1), hover="block %{x}: %{y:.3f} % of the bits flipped<br>10–90 % of units: %{customdata[0]:.2%}–%{customdata[1]:.2%}")
    fig.update_layout(xaxis=dict(title="block", dtick=max(1, len(f.layers) // 12)), yaxis=dict(title="bits flipped, %", rangemode="tozero", showgrid=True))
    return fig


def stayed(f: tables.Flips, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=58, r=14, t=12, b=42), height=max(344, 150 + 20 * len(f.layers)))
    counts = np.bincount((9 * f.each).round().astype(int), minlength=10)
    fig.add_trace(go.Bar(x=list(range(10)), y=counts, marker_color=theme.b, hovertemplate="%{x} of nine stay: %{y:,}<extra></extra>"))
    fig.update_layout(xaxis=dict(title="neighbours that stay, of nine", dtick=1), yaxis=dict(title="units", showgrid=True))
    return fig


def strip(a, f: tables.Flips, theme: Theme) -> go.Figure:
    n = min(len(f.passage), MOST)
    rows = -(-n // ACROSS)
    top = max(float(np.nanmax(f.passage)), 1e-6)
    text = tables.texts(a)
    z, names = np.full(rows * ACROSS, np.nan), [""] * (rows * ACROSS)
    z[:n] = f.passage[:n]
    names[:n] = [text.get(int(i), "") for i in a.row_ids[:n]]
    fig = figure(theme, margin=dict(l=14, r=84, t=8, b=8), height=90 + 26 * rows)
    fig.update_layout(xaxis=dict(visible=False, range=[-0.5, ACROSS - 0.5]), yaxis=dict(visible=False, range=[rows - 0.5, -0.5]))
    plots.heat(fig, theme, z.reshape(rows, ACROSS), low=0, high=top, custom=[[[w] for w in names[i : i + ACROSS]] for i in range(0, len(names), ACROSS)], gap=2, hover="“%{customdata[0]}”<br>%{z:.2%} of the bits flipped",
               bar=dict(title=dict(text="bits flipped", side="right"), tickformat=".1%", nticks=4))
    plots.add(fig, [plots.text_at(theme, w[:9], k % ACROSS, k // ACROSS, ref=("x", "y"), color=plots.ink(float(z[k]), 0, top) if np.isfinite(z[k]) else theme.text) for k, w in enumerate(names) if w])
    return fig
