"""The map cards: spans, CKA, the joint ranking; and the spectra along depth."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.compare import difference, on_labels
from analysis.contract import Figure
from analysis.layer_redundancy import tables
from analysis.layer_redundancy.measure import SPECTRA
from analysis.layer_redundancy.words import depth, gone, scope
from analysis.plots import number
from analysis.theme import Theme, figure
from metrics.redundancy import best_spans

MAP_HEIGHT = 356

# ---- spans


def spans_card(runs) -> Figure:
    a = runs[0].result
    best = {n: start for n, start in best_spans(a.angular)}
    half = max(1, a.n_blocks // 2)
    first, last = a.blocks[best[half]], a.blocks[best[half] + half - 1]
    views = {run.label if len(runs) > 1 else "": partial(spans, run) for run in runs}
    if len(runs) == 2:
        views["B − A"] = partial(span_difference, *runs)
    return Figure(
        "spans", "Which span of blocks turns the stream least?",
        "Each cell is the angle between the stream before and after a span. Outlines mark the best span of each length; look for a column they share.",
        views, tables.spans(runs),
        f"Angular distance arccos(cos)/π between the residual stream before and after each span of blocks, at the last token, mean over {a.n_sequences} sequences; "
        "outlined: the smallest of each length. B − A: blue where the span turns the stream less in B, empty where one of its ends is gone.",
        f"Triangular heat map of angular distance by first block and span length. The most similar span of {half} blocks is {first} to {last}, "
        f"at {number(a.angular[best[half], best[half] + half])}.", height=MAP_HEIGHT,
    )


def spans(run, theme: Theme) -> go.Figure:
    r = run.result
    z, custom = np.full((r.n_blocks, r.n_layers), np.nan), np.full((r.n_blocks, r.n_layers), np.nan)
    for i in range(r.n_blocks):
        for j in range(i + 1, r.n_blocks + 1):
            z[j - i - 1, r.blocks[i]], custom[j - i - 1, r.blocks[i]] = r.angular[i, j], r.blocks[j - 1]
    fig = _triangle(theme, r.n_layers, r.n_blocks)
    plots.heat(fig, theme, z, custom=custom, bar=dict(title=dict(text="angular distance, arccos / π", side="right"), nticks=6), low=float(np.nanmin(z)), high=float(np.nanmax(z)),
               hover="blocks %{x}–%{customdata:.0f} (%{y} long)<br>arccos/π %{z:.4f}")
    fig.data[-1].y = list(range(1, r.n_blocks + 1))
    marked = [plots.outline(int(r.blocks[start]), n) for n, start in best_spans(r.angular)[: r.n_blocks - 1]]
    plots.add(fig, shapes=[shape for shapes in marked for shape in shapes])
    if r.n_blocks > 3:
        plots.note(fig, theme, "outlined: most similar<br>span of each length", 1.0, 1.0, xanchor="right", yanchor="top", align="right", color=theme.text)
    _columns_gone(fig, theme, run, 0.5, r.n_blocks)
    return fig


def span_difference(a, b, theme: Theme) -> go.Figure:
    """B − A of the angle from before block x to after block x + n − 1, counted in blocks of the unmodified checkpoint; empty
    where either end is gone."""
    n_layers = depth((a, b))
    turned = [run.result.angular[:-1, 1:] for run in (a, b)]  # [first block, last block]
    labels = [tuple(run.result.blocks.tolist()) for run in (a, b)]
    delta, common = difference(turned[0], labels[0], turned[1], labels[1], axes=(0, 1))
    square = on_labels(delta, common, tuple(range(n_layers)), axes=(0, 1))
    z = np.full((n_layers, n_layers), np.nan)
    for i in range(n_layers):
        z[: n_layers - i, i] = square[i, i:]
    fig = _triangle(theme, n_layers, n_layers)
    most = float(np.nanmax(np.abs(z))) or 1e-6
    plots.heat(fig, theme, z, scale=theme.diverging, low=-most, high=most, hover="%{y} blocks from %{x}<br>B − A %{z:+.4f}",
               bar=dict(title=dict(text="difference in arccos / π", side="right"), tickvals=[-most, 0, most], ticktext=["−" + number(most, 2), "0", "+" + number(most, 2)]))
    fig.data[-1].y = list(range(1, n_layers + 1))
    plots.note(fig, theme, "B − A: orange turns<br>the stream more in B", 1.0, 1.0, xanchor="right", yanchor="top", align="right", color=theme.text)
    for run in (a, b):
        _columns_gone(fig, theme, run, 0.5, n_layers)
    return fig


def _triangle(theme: Theme, n_layers: int, n_rows: int) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=76, t=8, b=42), height=MAP_HEIGHT)
    rows = plots.ticks(list(range(1, n_rows + 1)))
    return fig.update_layout(xaxis=dict(title="first block of the span", **plots.ticks(list(range(n_layers)))),
                             yaxis=dict(title="span length n, blocks", tickmode="array", tickvals=[v + 1 for v in rows["tickvals"]], ticktext=rows["ticktext"],
                                        range=[0.5, n_rows + 0.5]))


def _columns_gone(fig: go.Figure, theme: Theme, run, bottom: float, rows: int) -> None:
    for block in gone(run):
        if rows - block >= 5:  # the column is tall enough for the words
            plots.note(fig, theme, f"removed in {run.label}", block, bottom, ref=("x", "y"), textangle=-90, xanchor="center", yanchor="bottom", yshift=4)


# ---- CKA


def cka_card(runs) -> Figure:
    a = runs[0].result
    if len(runs) == 1:
        views = {"": partial(cka_pair, runs[0])}
        reading = "Light squares on the diagonal are blocks that keep the representation. The biased form is higher when tokens are few for the width."
    else:
        views = {"unbiased": partial(cka_difference, *runs, "cka"), "biased": partial(cka_difference, *runs, "cka_linear")}
        reading = "Light squares on the diagonal of A are blocks that keep the representation. Orange in B − A are pairs that are more alike in B."
    s = scope(runs[0])
    order = a.cka[s].copy()
    np.fill_diagonal(order, np.nan)
    return Figure(
        "cka", "Which states are alike?", reading, views, tables.cka(runs),
        f"Linear CKA between residual states, emb before the first block, then after each block. Unbiased: HSIC₁ of minibatches of {runs[0].params.cka_batch} tokens "
        f"summed over {a.n_tokens:,} tokens. Biased: {a.n_linear:,} tokens at once.",
        f"Square heat map of CKA between states; the least alike pair has CKA {number(np.nanmin(order), 2)}." if np.isfinite(order).any() else "Square heat map of CKA between states.",
        height=MAP_HEIGHT,
    )


def _two_maps(theme: Theme, names: list, titles: tuple[str, str], label: str) -> go.Figure:
    fig = figure(theme, margin=dict(l=48, r=4, t=26, b=92), height=MAP_HEIGHT)
    axis = plots.ticks(names, 8)
    flipped = {**axis, "range": axis["range"][::-1]}
    fig.update_layout(
        xaxis=dict(domain=[0, 0.46], title=label, constrain="domain", **axis), yaxis=dict(title=label, scaleanchor="x", constrain="domain", **flipped),
        xaxis2=dict(domain=[0.54, 1.0], anchor="y2", title=label, constrain="domain", **axis),
        yaxis2=dict(anchor="x2", scaleanchor="x2", constrain="domain", showticklabels=False, **flipped))
    for title, x in zip(titles, ("x", "x2")):
        plots.note(fig, theme, title, 0, 1.0, ref=(f"{x} domain", "paper"), xanchor="left", yanchor="bottom", yshift=4, color=theme.text)
    return fig


def _names(runs) -> tuple:
    return ("emb", *range(depth(runs)))


def _on_names(values: np.ndarray, run, names: tuple) -> np.ndarray:
    return on_labels(values, ("emb", *run.result.blocks.tolist()), names, axes=(0, 1))


def cka_pair(run, theme: Theme) -> go.Figure:
    names, s = _names((run,)), scope(run)
    fig = _two_maps(theme, list(names), ("unbiased, minibatch", "biased, one sample"), "state after block")
    for axes, values, title, x in ((("x", "y"), run.result.cka, "linear CKA, unbiased", 0.23), (("x2", "y2"), run.result.cka_linear, "linear CKA, biased", 0.77)):
        plots.heat(fig, theme, _on_names(values[s], run, names), axes=axes, low=0, high=1, bar=plots.horizontal_bar(theme, title, x, [0, 0.5, 1]), custom=_pairs(names),
                   hover="after %{customdata[0]} and after %{customdata[1]}<br>CKA %{z:.4f}")
        _lines_gone(fig, theme, run, names, axes)
    return fig


def cka_difference(a, b, field: str, theme: Theme) -> go.Figure:
    names, s = _names((a, b)), scope(a)
    values = [getattr(run.result, field)[s] for run in (a, b)]
    labels = [("emb", *run.result.blocks.tolist()) for run in (a, b)]
    delta, common = difference(values[0], labels[0], values[1], labels[1], axes=(0, 1))
    z = on_labels(delta, common, names, axes=(0, 1))
    most = float(np.nanmax(np.abs(z))) or 1e-6
    kind = "unbiased" if field == "cka" else "biased"
    fig = _two_maps(theme, list(names), ("A", "B − A"), "state after block")
    plots.heat(fig, theme, _on_names(values[0], a, names), low=0, high=1, bar=plots.horizontal_bar(theme, f"linear CKA, {kind}", 0.23, [0, 0.5, 1]), custom=_pairs(names),
               hover="A, after %{customdata[0]} and after %{customdata[1]}<br>CKA %{z:.4f}")
    plots.heat(fig, theme, z, axes=("x2", "y2"), scale=theme.diverging, low=-most, high=most, custom=_pairs(names), hover="after %{customdata[0]} and after %{customdata[1]}<br>B − A %{z:+.4f}",
               bar=plots.horizontal_bar(theme, "difference in CKA", 0.77, [-most, 0, most], ["−" + number(most, 2), "0", "+" + number(most, 2)]))
    _lines_gone(fig, theme, a, names, ("x", "y"))
    for run in (a, b):
        _lines_gone(fig, theme, run, names, ("x2", "y2"))
    return fig


def _pairs(names) -> np.ndarray:
    return np.array([[[str(y), str(x)] for x in names] for y in names], object)


def _lines_gone(fig: go.Figure, theme: Theme, run, names: tuple, axes) -> None:
    """“removed in B” in the empty column of each missing block."""
    if len(names) > 26:
        return
    for block in gone(run):
        plots.note(fig, theme, f"removed in {run.label}", names.index(block), len(names) - 0.6, ref=axes, textangle=-90, xanchor="center", yanchor="bottom")


# ---- attention and MLP ranked together


def ranking_card(runs) -> Figure:
    a = runs[0]
    n = int(np.isfinite(a.result.score[1:, :, scope(a)]).sum())
    views = {"1 − cos": partial(ranking, runs, False)}
    if np.isfinite(a.result.kl[1:]).any():
        views["measured KL"] = partial(ranking, runs, True)
    return Figure(
        "joint_ranking", "Attention and MLP ranked together, most redundant first", _ranking_reading(runs), views if len(views) > 1 else {"": views["1 − cos"]},
        tables.ranking(runs),
        "Attention and MLP of every block ranked together by 1 − cos of the residual stream without and with it (1: most redundant), and by measured KL. "
        "In each model the first quarter is outlined.",
        f"Strip of {n} sublayers coloured by 1 − cos with their joint rank. {_ranking_reading(runs)}", height=_strip_height(len(runs)), wide=True,
    )


def _strip_height(n_runs: int) -> int:
    return {1: 186, 2: 262}.get(n_runs, 262 + 70 * (n_runs - 2))


def _chosen(run, values: np.ndarray) -> tuple[np.ndarray, int]:
    """(joint ranks [sublayer, block], how many are outlined: the first quarter)."""
    ranks = tables.joint_ranks(values)
    return ranks, max(1, int(np.isfinite(ranks).sum()) // 4)


def _ranking_reading(runs) -> str:
    parts = []
    for run in runs:
        ranks, k = _chosen(run, run.result.score[1:, :, scope(run)])
        attention = int((ranks[0] <= k).sum())
        of = "all attention" if attention == k else "all MLPs" if attention == 0 else f"{attention} attention, {k - attention} MLP"
        parts.append(f"in {run.label} {of}" if len(runs) > 1 else of)
    n = int(np.isfinite(_chosen(runs[0], runs[0].result.score[1:, :, scope(runs[0])])[0]).sum())
    k = max(1, n // 4)
    return f"The number is the rank among the {n} sublayers; of the {k} most redundant, outlined: {'; '.join(parts)}."


def ranking(runs, by_kl: bool, theme: Theme) -> go.Figure:
    n_layers = depth(runs)
    fig = figure(theme, margin=dict(l=92, r=70, t=8, b=42), height=_strip_height(len(runs)))
    fields = [(run.result.kl if by_kl else run.result.score)[1:, :, scope(run)] for run in runs]
    every = np.concatenate([f.ravel() for f in fields])
    every = every[np.isfinite(every)]
    top = float(np.quantile(every, 0.8, method="lower")) if len(every) else 1.0
    above = bool((every > top).any())
    names, at, texts, shapes = [], [], [], []
    for k, (run, values) in enumerate(zip(runs, fields)):
        ranks, chosen = _chosen(run, values)
        y0 = k * 2.6
        z = np.full((2, n_layers), np.nan)
        z[:, run.result.blocks] = values
        custom = np.full((2, n_layers, 2), np.nan)
        custom[:, run.result.blocks, 0], custom[:, run.result.blocks, 1] = ranks, values
        bar = dict(title=dict(text="KL, nats" if by_kl else "1 − cos", side="top"), nticks=4, thickness=8)
        if above:
            ticks = [0, top / 3, 2 * top / 3, top]
            bar.update(tickvals=ticks, ticktext=["0", *[number(t, 2) for t in ticks[1:3]], "≥ " + number(top, 2)])
        plots.heat(fig, theme, z, low=0, high=top, gap=2, bar=bar if k == 0 else None, custom=custom,
                   hover=f"{run.label}, block %{{x}}<br>rank %{{customdata[0]:.0f}}<br>{'KL' if by_kl else '1 − cos'} %{{customdata[1]:.4g}}")
        fig.data[-1].y = [y0, y0 + 1]
        prefix = f"{run.label}  " if len(runs) > 1 else ""
        names += [f"{prefix}attention", f"{prefix}MLP"]
        at += [y0, y0 + 1]
        for row in range(2):
            for i, block in enumerate(run.result.blocks):
                if not np.isfinite(ranks[row, i]):
                    continue
                best = ranks[row, i] <= chosen
                if best:
                    shapes += plots.outline(int(block), y0 + row, width=0.92, height=0.9)
                if n_layers <= 40:
                    texts.append(plots.text_at(theme, f"<b>{ranks[row, i]:.0f}</b>" if best else f"{ranks[row, i]:.0f}", int(block), y0 + row,
                                               ref=("x", "y"), color=plots.ink(min(values[row, i], top), 0, top)))
        texts += [plots.text_at(theme, f"removed<br>in {run.label}" if len(runs) > 1 else "removed", block, y0 + 0.5, ref=("x", "y"), textangle=-90)
                  for block in gone(run)]
    plots.add(fig, texts, shapes)
    bottom = at[-1] + 0.5
    return fig.update_layout(xaxis=dict(title="block", **plots.ticks(list(range(n_layers)), 40)),
                             yaxis=dict(tickmode="array", tickvals=at, ticktext=names, range=[bottom, -0.5], tickfont=dict(color=theme.text)))


# ---- spectra along depth


def spectra_card(runs) -> Figure:
    a, s = runs[0].result, scope(runs[0])
    rank = a.spectra[0, s]
    return Figure(
        "spectra", "How many directions does the stream use?",
        f"Effective rank of a sequence's states, {number(rank[0])} at the embedding and {number(rank[-1])} after the last block; values compare only at equal length and width.",
        {"": partial(spectra, runs)}, tables.spectra(runs, SPECTRA),
        f"Effective rank exp(H), matrix entropy H / ln min(N−1, d) and Matrix Nuclear-Norm per token of the residual states, each sequence centred by itself and "
        f"its rows at unit length; mean over {a.n_spectra} sequences, 95 % bootstrap intervals.",
        f"Three curves along depth; effective rank goes from {number(rank[0])} to {number(rank[-1])}.", height=262, wide=True,
    )


def spectra(runs, theme: Theme) -> go.Figure:
    names = _names(runs)
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=262)
    shown = ((0, "effective rank, directions"), (2, "entropy / ln min(N−1, d)"), (3, "Matrix Nuclear-Norm / N"))
    for panel, (m, title) in enumerate(shown):
        n = "" if panel == 0 else str(panel + 1)
        left = panel * 0.355
        fig.update_layout({f"xaxis{n}": dict(domain=[left, left + 0.29], anchor=f"y{n}", title="state after block", **plots.ticks(list(names), 13)),
                           f"yaxis{n}": dict(anchor=f"x{n}", title=title, showgrid=True, nticks=6)})
        for run in runs:
            r, s = run.result, scope(run)
            x = np.array([names.index(label) for label in ("emb", *r.blocks.tolist())], float)
            full = lambda v: on_labels(v, tuple(x), tuple(float(i) for i in range(len(names))))
            value, low, high = (full(v[m, s]) for v in (r.spectra, r.spectra_low, r.spectra_high))
            plots.dots(fig, theme, run.label, np.arange(len(names)), value, low=low, high=high, along="y", axes=(f"x{n}", f"y{n}"), mode="lines+markers", size=6,
                       line=dict(color=theme.run(run.label), width=1.5), custom=np.stack([np.array([str(v) for v in names], object), low, high], 1),
                       hover=f"{run.label}, after %{{customdata[0]}}<br>%{{y:.4g}} (%{{customdata[1]:.4g}}–%{{customdata[2]:.4g}})")
        for run in runs:
            for block in gone(run):
                if panel == 0 and len(names) <= 26:
                    plots.note(fig, theme, f"removed in {run.label}", names.index(block), 0.0, ref=(f"x{n}", f"y{n} domain"), textangle=-90, yanchor="bottom", yshift=2)
    plots.key(fig, theme, [run.label for run in runs])
    return fig
