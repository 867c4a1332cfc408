"""The figure cards: pictures, similarity by prompt, the sweep of cuts, where the weights lie, overlap of the sets, time steps."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from analysis import plots
from analysis.contract import Figure
from analysis.memorized_images import pictures, words
from analysis.memorized_images.measure import METHODS
from analysis.memorized_images.words import LOCATED, PLAIN, RANDOM
from analysis.theme import Theme, figure
from metrics.memorized_images import REPRODUCED

HEIGHT = 344


def figures(runs) -> list[Figure]:
    run = runs[0]
    return [pictures.card(run), _similarity_card(run), _sweep_card(run), _overlap_card(run), _blocks_card(run), _steps_card(run)]


def _bar(values: np.ndarray, color: str, along: int = 0) -> dict:
    """Error bar from the smallest to the largest around the mean."""
    mean = np.nanmean(values, along)
    return dict(type="data", symmetric=False, array=np.nanmax(values, along) - mean, arrayminus=mean - np.nanmin(values, along), color=color, thickness=1.5, width=0)


def _open(theme: Theme, color: str) -> dict:
    return dict(color=theme.page, size=8, line=dict(color=color, width=2))


# ---- similarity by prompt


def _similarity_card(run) -> Figure:
    r = run.result
    rows = [{"split": h + 1, "prompt": str(p), "set": ("neither", "located on", "held out")[r.groups[h, i]], "before": float(r.before[i].mean()), **{f"after the cut, {METHODS[m]}": float(r.detail[h, m, i]) for m in range(len(METHODS))}}
            for h in range(len(r.groups)) for i, p in enumerate(r.memorized)]
    cut = r.detail[:, LOCATED]
    mean = [np.array([cut[h, r.groups[h] == k].mean() for h in range(len(cut))]) for k in (1, 2)]
    high = float(np.quantile(r.mismatched, 0.975))
    return Figure(
        "similarity", "How alike are image and training image?",
        f"Before any cut r = {words.two(r.before.mean())} on average; after the cut {words.mean_range(mean[0], words.two)} on the located set, {words.mean_range(mean[1], words.two)} on the held-out set. "
        f"Grey band: images against other prompts’ training images, 95 % of them below {words.two(high)}.",
        {f"split {h + 1}": partial(similarity, r, h) for h in range(min(len(r.groups), 5))}, pa.Table.from_pylist(rows),
        f"Pearson correlation of each prompt’s image with its training image, before any cut (open), after the cut (filled) and after a random cut of as many weights (grey crosses); mean over {r.before.shape[1]} noises. "
        f"Dashed: {REPRODUCED:g}, from which an image counts as reproduced. Grey band: 2.5 to 97.5 % of mismatched pairs.",
        f"Dots per prompt; before {words.two(r.before.mean())}, after the cut {words.two(mean[0].mean())} located and {words.two(mean[1].mean())} held out.", height=HEIGHT)


def similarity(r, h: int, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=44, b=42))
    order = np.concatenate([np.flatnonzero(r.groups[h] == k) for k in (1, 2)])
    n, at, color = int((r.groups[h] == 1).sum()), np.arange(len(order)), theme.a
    low, high = (float(np.quantile(r.mismatched, q)) for q in (0.025, 0.975))
    fig.add_shape(type="rect", x0=-0.6, x1=len(order) - 0.4, y0=low, y1=high, fillcolor=theme.null_fill, line_width=0, layer="below")
    fig.add_shape(type="line", x0=-0.6, x1=len(order) - 0.4, y0=REPRODUCED, y1=REPRODUCED, line=dict(color=theme.null_line, width=1.5, dash="dash"), layer="below")
    fig.add_shape(type="line", x0=n - 0.5, x1=n - 0.5, y0=0, y1=1, yref="y domain", line=dict(color=theme.line, width=1))
    before, after = r.before.mean(1)[order], r.detail[h, LOCATED, order]
    plots.joins(fig, theme, list(zip(at.tolist(), before.tolist())), list(zip(at.tolist(), after.tolist())))
    for y, name, mark in ((r.detail[h, RANDOM, order], "random cut", dict(color=theme.null_line, size=8, symbol="x-thin", line=dict(color=theme.null_line, width=2))),
                          (before, "before", _open(theme, color)), (after, "after the cut", dict(color=color, size=8))):
        fig.add_trace(go.Scatter(x=at, y=y, mode="markers", marker=mark, name=name, customdata=r.memorized[order], cliponaxis=False, hovertemplate=f"%{{customdata}}<br>{name}: r = %{{y:.2f}}<extra></extra>"))
    plots.note(fig, theme, "○ before  ● after the cut  ✕ random cut  ╌ counts as reproduced", 0.0, 1.0, xanchor="left", yanchor="bottom", yshift=20)
    for text, x in (("located on", (n - 1) / 2), ("held out", n + (len(order) - n - 1) / 2)):
        plots.note(fig, theme, text, x, 1.0, ref=("x", "paper"), color=theme.text, yanchor="bottom", yshift=2)
    bottom = min(-0.2, float(min(low, after.min(), before.min())) - 0.05)
    fig.update_layout(xaxis=dict(title="memorized prompts", tickvals=[], range=[-0.6, len(order) - 0.4]), yaxis=dict(title="r with the training image", range=[bottom, 1.03], showgrid=True))
    return fig


# ---- what cutting does


def _sweep_card(run) -> Figure:
    r, j = run.result, words.at_share(run)
    rows = [{"split": h + 1, "cut": METHODS[m], "share": float(s), "density": float(r.density[h, m, i]), **{f"{name}, {part} set": float(values[h, m, i, k]) for name, values in (("reproduced", r.reproduced), ("similarity", r.similarity)) for k, part in enumerate(("located", "held-out"))},
             "other prompts unchanged": float(r.kept[h, m, i])} for h in range(len(r.groups)) for m in range(len(METHODS)) for i, s in enumerate(r.shares) if np.isfinite(r.kept[h, m, i])]
    left = [words.mean_range(r.reproduced[:, m, -1, k][np.isfinite(r.reproduced[:, m, -1, k])]) for m, k in ((LOCATED, 0), (LOCATED, 1), (RANDOM, 1))]
    return Figure(
        "cut", "What does cutting leave?",
        f"The largest cut ({100 * np.nanmean(r.density[:, LOCATED, -1]):.0f} % of the weights) leaves {left[0]} of the located set and {left[1]} of the held-out set; random weights leave {left[2]} of the held-out set. "
        "It is worth something where the blue lines fall, the grey ones do not, and other prompts stay.",
        {name: partial(sweep, run, name) for name in ("reproduced", "similarity", "other prompts")}, pa.Table.from_pylist(rows),
        f"Share of memorized images still reproduced (r ≥ {REPRODUCED:g}), mean similarity with the training image, and correlation of other prompts’ images with those before the cut, over the density of the cut. Filled: the set located on; open: the held-out set; "
        f"squares: without contrast; dashed grey: random cuts with as many weights in every row. Means of {len(r.groups)} random splits, bars their range; controls off the share in detail ({100 * r.shares[j]:g} %) on the first split only.",
        f"Curves over density; at the largest cut {left[0]} located, {left[1]} held out.", height=HEIGHT)


def sweep(run, what: str, theme: Theme) -> go.Figure:
    r, color = run.result, theme.a
    fig = figure(theme, margin=dict(l=56, r=14, t=26, b=42))
    values = {"reproduced": r.reproduced, "similarity": r.similarity, "other prompts": np.stack([r.kept, r.kept], 3)}[what]
    x = 100 * np.nanmean(r.density, 0)
    sets = (0, 1) if what != "other prompts" else (0,)

    def line(m: int, k: int, name: str, colour: str, mark: dict, **style) -> None:
        y = values[:, m, :, k]
        fig.add_trace(go.Scatter(x=x[m], y=np.nanmean(y, 0), error_y=_bar(y, colour), mode="lines+markers", name=name, marker=mark, line=dict(color=colour, **style), cliponaxis=False,
                                 hovertemplate=f"{name}<br>density %{{x:.2f}} %<br>%{{y:.2f}}<extra></extra>"))

    for k in sets:
        line(RANDOM, k, f"random, {'located' if k == 0 else 'held-out'} set", theme.null_line, dict(color=theme.null_line, size=6), dash="dash", width=1.5)
    line(PLAIN, 0, "no contrast, located set", theme.quiet, dict(color=theme.quiet, size=7, symbol="square"), width=1.5)
    line(LOCATED, 0, "located set", color, dict(color=color, size=8), width=2)
    if len(sets) > 1:
        line(LOCATED, 1, "held-out set", color, _open(theme, color), dash="dot", width=2)
    plots.note(fig, theme, "● located set  ○ held-out set  ■ no contrast  ╌ random" if len(sets) > 1 else "● located weights  ■ no contrast  ╌ random", 0.0, 1.0, xanchor="left", yanchor="bottom", yshift=4)
    title = {"reproduced": "still reproduced", "similarity": "r with the training image", "other prompts": "r with the image before"}[what]
    drawn = values[np.isfinite(values)]
    scale = dict(range=[-0.04, 1.06], tickformat=".0%") if what == "reproduced" else dict(range=[min(-0.04, float(drawn.min()) - 0.04), 1.04])
    low, top = max(float(np.nanmin(x)), 0.01), max(float(np.nanmax(x)), 0.02)
    fig.update_layout(xaxis=dict(title="weights cut, % of the feed-forward output weights (log)", **plots.log_axis(low, top, most=6)), yaxis=dict(title=title, showgrid=True, **scale))
    return fig


# ---- one subspace?


def _overlap_card(run) -> Figure:
    r = run.result
    rows = [{"block": str(b), "masks": name, "split": h + 1, "network": u, "IoU": float(x)} for i, b in enumerate(r.blocks) for h in range(len(r.groups))
            for name, u, x in (("two sets of memorized prompts", "trained", r.overlap[h, i]), ("chance", "", r.chance[h, i]), ("memorized against other prompts", "trained", r.overlap_others[h, i]),
                               *(("two sets of memorized prompts", "before planting", x) for x in r.earlier[h : h + 1, i]),
                               *(("two sets of memorized prompts", f"untrained {u + 1}", r.untrained[u, h, i]) for u in range(len(r.untrained))))]
    said = words.overlap_says(r).replace("**", "")
    return Figure(
        "overlap", "Do two sets of prompts share their weights?",
        f"{said} Chance is the wrong null: |W| and the size of h are the same for both sets, so an untrained network’s masks overlap far more than random ones.",
        {"": partial(overlap, r)}, pa.Table.from_pylist(rows),
        f"Intersection over union, per cross-attention block, of the masks located on two disjoint sets of memorized prompts (share {100 * run.params.share:g} %, first {run.params.first} steps); of such a mask and that of prompts that are not memorized (open); of the two sets in "
        f"{len(r.untrained)} untrained networks of the same architecture (squares){', and in this network before the memorized images were planted (crosses)' if len(r.earlier) else ''}; and of two random masks of the same densities (ticks). Means, bars the range over {len(r.groups)} splits and networks.",
        f"IoU per block; mean {words.two(r.overlap.mean())}, chance {words.two(r.chance.mean())}.", height=HEIGHT)


def overlap(r, theme: Theme) -> go.Figure:
    fig = _rows_of_blocks(r, theme)
    at, color = np.arange(len(r.blocks)), theme.a
    fresh = r.untrained.reshape(-1, len(r.blocks))
    drawn = [("chance", r.chance, theme.null_line, dict(color=theme.null_line, size=12, symbol="line-ns", line=dict(color=theme.null_line, width=2)), 0.0),
             *([("untrained networks", fresh, theme.quiet, dict(color=theme.quiet, size=8, symbol="square"), 0.2)] if len(fresh) else []),
             *([("this network before planting", r.earlier, theme.quiet, dict(color=theme.quiet, size=9, symbol="x-thin", line=dict(color=theme.axis, width=2)), 0.1)] if len(r.earlier) else []),
             ("memorized against other prompts", r.overlap_others, color, _open(theme, color), -0.2), ("two sets of memorized prompts", r.overlap, color, dict(color=color, size=9), 0.0)]
    for name, values, colour, mark, dy in drawn:
        fig.add_trace(go.Scatter(x=values.mean(0), y=at + dy, error_x=_bar(values, colour), mode="markers", marker=mark, name=name, customdata=r.blocks, cliponaxis=False, hovertemplate=f"{name}<br>%{{customdata}}: %{{x:.2f}}<extra></extra>"))
    plots.note(fig, theme, "● two sets  ○ with others  ■ untrained" + ("  ✕ before planting" if len(r.earlier) else "") + "  | chance", 0.0, 1.0, xanchor="left", yanchor="bottom", yshift=4)
    return fig.update_layout(xaxis=dict(title="IoU of the masks", range=[-0.02, 1.02], showgrid=True))


def _rows_of_blocks(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=104, r=18, t=26, b=42))
    return fig.update_layout(yaxis=dict(tickvals=np.arange(len(r.blocks)), ticktext=[words.block(b) for b in r.blocks], range=[len(r.blocks) - 0.5, -0.5]))


# ---- where, and when


def _blocks_card(run) -> Figure:
    r = run.result
    rows = [{"split": h + 1, "block": str(b), "density": float(r.layer_density[h, i])} for h in range(len(r.groups)) for i, b in enumerate(r.blocks)]
    mean = r.layer_density.mean(0)
    top, least = int(mean.argmax()), int(mean.argmin())
    return Figure(
        "blocks", "In which blocks do the located weights lie?",
        f"Densest is {words.block(r.blocks[top])} with {words.mean_range(r.layer_density[:, top], _tenth)} of its feed-forward output weights, least dense {words.block(r.blocks[least])} with {words.mean_range(r.layer_density[:, least], _tenth)}. "
        f"Every row of every block may give {100 * run.params.share:g} % at each step, so this shows where the contrast holds, not where memory is.",
        {"": partial(blocks, run)}, pa.Table.from_pylist(rows),
        f"Located weights of each cross-attention block, in percent of its feed-forward output weights, united over the first {run.params.first} steps; means of {len(r.groups)} splits, bars their range. Dashed: the share asked for at one step.",
        f"Density per block, densest {words.block(r.blocks[top])} at {_tenth(mean[top])}.", height=HEIGHT)


def _tenth(x: float) -> str:
    return f"{100 * x:.1f} %"


def blocks(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = _rows_of_blocks(r, theme)
    values = 100 * r.layer_density
    fig.add_trace(go.Bar(x=values.mean(0), y=np.arange(len(r.blocks)), orientation="h", width=0.6, marker_color=theme.a, error_x=_bar(values, theme.axis), customdata=r.blocks, hovertemplate="%{customdata}: %{x:.2f} %<extra></extra>"))
    fig.add_vline(100 * run.params.share, line=dict(color=theme.null_line, width=1.5, dash="dash"))
    plots.note(fig, theme, f"╌ share asked for at one step: {100 * run.params.share:g} %", 0.0, 1.0, xanchor="left", yanchor="bottom", yshift=4)
    return fig.update_layout(xaxis=dict(title="located of the block’s weights, %", range=[0, 1.08 * max(float(values.max()), 100 * run.params.share)], showgrid=True))


def _steps_card(run) -> Figure:
    r = run.result
    rows = [{"split": h + 1, "step": t + 1, "block": str(b), "share of the united mask": float(r.of_step[h, t, i])} for h in range(len(r.groups)) for t in range(r.of_step.shape[1]) for i, b in enumerate(r.blocks)]
    mean = r.of_step.mean((0, 2))
    most = int(mean.argmax())
    reading = f"Step {most + 1} alone gives {words.percent(mean[most])} of the located weights, the first {words.percent(mean[0])}; {words.mean_range(r.alone)} of them are located at one step only." if len(mean) > 1 else "One step is watched, so all located weights come from it."
    return Figure(
        "time_steps", "At which time steps are they located?", f"{reading} Step 1 is the noisiest.", {"": partial(steps, r)}, pa.Table.from_pylist(rows),
        f"Share of each block’s located weights (united over the first {run.params.first} of {run.params.steps} steps) that is located at each step; a weight may be located at several. Mean of {len(r.groups)} splits.",
        f"Heat map of blocks by steps; most at step {most + 1}, {words.percent(mean[most])}.", height=HEIGHT)


def steps(r, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=104, r=18, t=14, b=92))
    z = 100 * r.of_step.mean(0).T
    plots.heat(fig, theme, z, low=0, high=100, bar=plots.horizontal_bar(theme, "of the block’s located weights, %", 0.5, [0, 50, 100]), hover="%{customdata}, step %{x}<br>%{z:.0f} %", custom=np.repeat(r.blocks[:, None], z.shape[1], 1))
    fig.data[0].x = np.arange(1, z.shape[1] + 1)
    if z.size <= 60:
        plots.add(fig, [plots.text_at(theme, f"{x:.0f}", t + 1, b, ref=("x", "y"), color=plots.ink(x, 0, 100)) for b, row in enumerate(z) for t, x in enumerate(row)])
    labels = [str(t + 1) for t in range(z.shape[1])]
    axis = plots.ticks(labels)
    fig.update_layout(xaxis=dict(title="time step, from noise to image", tickvals=[v + 1 for v in axis["tickvals"]], ticktext=axis["ticktext"], range=[0.5, len(labels) + 0.5]),
                      yaxis=dict(tickvals=np.arange(len(r.blocks)), ticktext=[words.block(b) for b in r.blocks], range=[len(r.blocks) - 0.5, -0.5]))
    return fig
