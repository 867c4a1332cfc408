"""The figure cards: what was taken and why, precision by budget, length, agreement of methods, the prototype, covered features, A against B."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from analysis import plots
from analysis.contract import Figure
from analysis.data_selection import words
from analysis.data_selection.measure import BUDGETS, METHODS, budget
from analysis.plots import number
from analysis.theme import Theme, figure

HEIGHT = 344
SHOWN, PARTS = 16, 5  # samples drawn, and features named in a bar
DASHES = ("solid", "dot", "dash", "dashdot", "longdash", "longdashdot", "solid")
SYMBOLS = ("circle", "circle-open", "square", "triangle-up", "x", "cross", "diamond-open")


def figures(runs) -> list[Figure]:
    pair = len(runs) > 1 and words.same_pool(*runs[:2])
    cards = [_list_card(runs)]
    if any(run.result.has_labels for run in runs):
        cards.append(_precision_card(runs))
    cards += [_length_card(runs), _prototype_card(runs), _overlap_card(runs), _coverage_card(runs)]
    if any(len(run.result.tuned) for run in runs):
        cards.insert(2 if cards[1].name == "precision" else 1, _help_card(runs))
    return [*cards, _moved_card(*runs[:2])] if pair else cards


def _views(runs, draw) -> dict:
    return {run.label if len(runs) > 1 else "": partial(draw, run) for run in runs}


def _colour(theme: Theme, i: int) -> str:
    return (theme.text, theme.text, *theme.more, theme.b)[i]


# ---- what was taken, and why


def _list_card(runs) -> Figure:
    run = runs[0]
    r = run.result
    row = len(r.shown) and int(r.shown[0])
    whole = 1 - r.extra[0] - r.missing[0]
    other = "" if run.params.metric == "Jaccard" else f" Ranked by {run.params.metric}; the parts are of the Jaccard likeness."
    return Figure(
        "ranked", "What is taken, and why",
        f"Parts of a bar are the features that sample and target share most, and the rest; they sum to the likeness exactly. The first shares {number(whole)}; {words.percent(r.extra[0])} is its "
        f"own alone, {words.percent(r.missing[0])} the target’s.{other} The data holds every sample, its text and its rank by every method.",
        _views(runs, ranked), selection_table(runs),
        f"The {min(SHOWN, len(r.shown))} first samples by {words.method(run, 0)} for {_target(run)}, with the shares of their likeness by SAE feature ({r.sae}).",
        f"Stacked bars; the first sample is “{r.text[row][:80]}”.", height=520, wide=True)


def _target(run) -> str:
    return f"“{run.params.task}”" if run.result.target[0, 0] >= 0 else f"{len(run.result.target_text)} examples of the user’s own"


def ranked(run, theme: Theme) -> go.Figure:
    r = run.result
    n = min(SHOWN, len(r.shown))
    fig = figure(theme, margin=dict(l=286, r=84, t=28, b=42), height=520)
    hues = (theme.a, *theme.more)[:PARTS]
    top = [f for f in dict.fromkeys(r.feature[:n, :PARTS].T.ravel().tolist()) if f >= 0][:len(hues)]
    left = np.zeros(n)
    y = np.arange(n)
    for colour, f in zip(hues, top):
        part = np.array([r.share[i, np.flatnonzero(r.feature[i] == f)].sum() if (r.feature[i] == f).any() else 0.0 for i in range(n)])
        _bar(fig, y, left, part, colour, f"feature {f}")
        left = left + part
    rest = r.share[:n].sum(1) - left
    _bar(fig, y, left, rest, theme.null_line, "all other features")
    fig.update_layout(barmode="overlay", xaxis=dict(title="likeness to the target", showgrid=True, rangemode="tozero"),
                      yaxis=dict(range=[n - 0.5, -0.5], tickvals=y, ticktext=[_short(r.text[i], 40) for i in r.shown[:n]], tickfont=dict(color=theme.text)))
    if r.has_labels:
        for i, row in enumerate(r.shown[:n]):
            plots.note(fig, theme, _short(r.label[row], 14), 1.0, i, ref=("paper", "y"), xanchor="left", xshift=8, color=theme.text if r.relevant[row] else theme.axis)
    keys = [f'<span style="color:{c}">■</span> {f}' for c, f in zip(hues, top)] + [f'<span style="color:{theme.null_line}">■</span> others']
    plots.note(fig, theme, "feature  " + "  ".join(keys), 0.0, 1.0, xanchor="left", yanchor="bottom", xshift=-278)
    return fig


def _bar(fig, y, left, part, colour: str, name: str) -> None:
    fig.add_trace(go.Bar(orientation="h", y=y, x=part, base=left, marker=dict(color=colour), name=name, hovertemplate=f"{name}<br>%{{x:.3f}} of the likeness<extra></extra>"))


def _short(text: str, n: int) -> str:
    line = " ".join(str(text).split())
    line = line if len(line) <= n else line[: n - 1] + "…"
    return line.replace("&", "&amp;").replace("<", "&lt;")


def selection_table(runs) -> pa.Table:
    """Every sample of the pool: text, label, length, score, and its rank by every method (first draw; empty for target examples)."""
    parts = []
    for run in runs:
        r = run.result
        ranks = np.zeros((len(r.methods), len(r.text)), int)
        for m, order in enumerate(r.order[0]):
            ranks[m, order[order >= 0]] = np.arange(1, int((order >= 0).sum()) + 1)
        chosen = np.zeros(len(r.text), bool)
        chosen[words.taken(run)] = True
        parts.append(pa.table({"run": [run.label] * len(r.text), "model": [run.subject] * len(r.text), "sample": np.arange(len(r.text)), "text": [str(t) for t in r.text],
                               "label": [str(x) for x in r.label], "tokens": r.length, "score": pa.array(r.score[0], from_pandas=True), "taken": chosen,
                               **{f"rank {words.method(run, m) if len(runs) == 1 else r.methods[m]}": pa.array([int(x) or None for x in ranks[m]]) for m in range(len(r.methods))}}))
    return pa.concat_tables(parts)


# ---- precision


def _precision_card(runs) -> Figure:
    run = runs[0]
    rows = [{"run": x.label, "method": words.method(x, m), "budget": b, "draw": d, "precision": v, "random": rate}
            for x in runs for m in range(len(x.result.methods)) for b in BUDGETS for d, (v, rate) in enumerate(zip(words.precision(x, m, b), words.base_rate(x.result)))]
    best = max((2, 3, 4, *range(6, len(run.result.methods))), key=lambda m: words.precision(run, m).mean())
    return Figure(
        "precision", "Does it find its own?",
        f"Share of what is taken that wears the target’s label; bars: lowest and highest of {len(run.result.order)} draws of {len(run.result.target_text)} examples. At {run.params.budget:g} %: "
        f"{words.method(run, 0)} {words.percent(words.precision(run, 0).mean())}, {words.method(run, best)} {words.percent(words.precision(run, best).mean())}; grey: random.",
        _views(runs, precision), pa.Table.from_pylist(rows),
        f"Precision at budget for “{run.params.task}” in a pool of {len(run.result.text):,} samples ({run.result.n_relevant} of the {run.params.label}); grey dashed: share in the pool.",
        "; ".join(f"{words.method(run, m)} {words.spread(words.precision(run, m))}" for m in range(len(run.result.methods))) + ".", height=HEIGHT)


def precision(run, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=130, t=14, b=42), height=HEIGHT)
    x = np.arange(len(BUDGETS))
    ends = []
    for m in range(len(run.result.methods)):
        values = np.array([words.precision(run, m, b) for b in BUDGETS])
        mean, bars = values.mean(1), m == 0 and values.shape[1] > 1
        error = dict(type="data", symmetric=False, array=values.max(1) - mean, arrayminus=mean - values.min(1), color=_colour(theme, m), thickness=1.5, width=0) if bars else None
        fig.add_trace(go.Scatter(x=x, y=mean, mode="lines+markers", line=dict(color=_colour(theme, m), width=1.5, dash=DASHES[m]), error_y=error,
                                 marker=dict(symbol=SYMBOLS[m], size=7, color=_colour(theme, m)), hovertemplate=f"{words.method(run, m)}: %{{y:.0%}}<extra></extra>", cliponaxis=False))
        ends.append(mean[-1])
    rate = words.base_rate(run.result).mean()
    fig.add_shape(type="line", x0=0, x1=len(x) - 1, y0=rate, y1=rate, line=dict(color=theme.null_line, width=1.5, dash="dash"), layer="below")
    floor = 0.075 * np.argsort(np.argsort([*ends, rate], kind="stable"))  # a label below the axis would not be drawn
    for m, at in enumerate(plots.apart(np.maximum([*ends, rate], floor).tolist(), 0.075)):
        plots.note(fig, theme, words.method(run, m) if m < len(run.result.methods) else "random", len(x) - 1, at, ref=("x", "y"), xanchor="left", xshift=10,
                   color=_colour(theme, m) if m < len(run.result.methods) else theme.axis)
    fig.update_layout(xaxis=dict(title="share of the pool taken, %", tickvals=x, ticktext=[f"{100 * b:g}" for b in BUDGETS]),
                      yaxis=dict(title="of the target’s label", range=[-0.03, 1.05], tickformat=".0%", showgrid=True))
    return fig


# ---- length


def _length_card(runs) -> Figure:
    run = runs[0]
    r = run.result
    mean = r.length[words.taken(run)].mean()
    rows = [{"run": x.label, "sample": i, "tokens": int(x.result.length[i]), "score": float(s)} for x in runs for i, s in enumerate(x.result.score[0]) if np.isfinite(s)]
    return Figure(
        "length", "Is it the length?",
        f"ρ = {number(words.length_correlation(r))} between score and length. Taken samples have {mean:.1f} tokens, the pool {r.length.mean():.1f}, the target {r.target_length[0]:.1f}; length-matched takes "
        f"{r.length[words.taken(run, 1)].mean():.1f}.",
        _views(runs, length), pa.Table.from_pylist(rows), f"Score of {words.method(run, 0)} against counted tokens; filled: taken at {run.params.budget:g} %.",
        f"Scatter of {len(r.text):,} samples; Spearman {number(words.length_correlation(r))}.", height=HEIGHT)


def length(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=42), height=HEIGHT)
    there = np.flatnonzero(np.isfinite(r.score[0]))
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(r.text))
    for rows, colour, size, name in ((np.setdiff1d(there, words.taken(run)), theme.null_line, 4, "left"), (words.taken(run), theme.run(run.label), 6, "taken")):
        fig.add_trace(go.Scattergl(x=r.length[rows] + jitter[rows], y=r.score[0][rows], mode="markers", marker=dict(size=size, color=colour, symbol="circle", opacity=0.7),
                                   text=[_short(r.text[i], 60) for i in rows], hovertemplate=f"%{{text}}<br>{name}: %{{y:.3f}}<extra></extra>"))
    marks = sorted([(r.length.mean(), "pool"), (r.target_length[0], "target")])
    for (at, name), side in zip(marks, ("right", "left")):
        plots.dashed(fig, theme, at)
        plots.note(fig, theme, name, at, 1.0, ref=("x", "paper"), yanchor="bottom", yshift=4, xanchor=side)
    fig.update_layout(xaxis=dict(title="tokens"), yaxis=dict(title="score", showgrid=True))
    return fig


# ---- the prototype


def _prototype_card(runs) -> Figure:
    run = runs[0]
    r = run.result
    rows = [{"run": x.label, "feature": int(f), "promotes": str(w), "prototype": float(v), "pool": float(q)} for x in runs
            for f, w, v, q in zip(x.result.prototype_feature, x.result.prototype_words, x.result.prototype_value, x.result.pool_value)]
    more = int((r.prototype_value > 2 * r.pool_value).sum())
    return Figure(
        "prototype", "Which features is the target made of?",
        f"The target’s {len(r.prototype_feature)} largest features; {more} are more than twice as strong as in the pool (grey). The largest promotes “{r.prototype_words[0]}”. A feature that every sample has says nothing. Click one for its card.",
        _views(runs, prototype), pa.Table.from_pylist(rows), f"Mean activation of the largest features of the prototype for {_target(run)}, and their mean over the pool (grey).",
        f"The largest is feature {r.prototype_feature[0]}, {number(r.prototype_value[0])} against {number(r.pool_value[0])} in the pool.", height=HEIGHT,
        links={str(f): f"feature_browser?a={run.subject}&sae={r.sae}&feature={f}" for f in r.prototype_feature.tolist()})


def prototype(run, theme: Theme) -> go.Figure:
    r = run.result
    x = np.arange(len(r.prototype_feature))
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=56), height=HEIGHT)
    fig.add_trace(go.Scatter(x=x, y=r.pool_value, mode="markers", marker=dict(symbol="line-ew-open", size=14, color=theme.null_line, line=dict(width=2)), hovertemplate="pool %{y:.3f}<extra></extra>"))
    plots.dots(fig, theme, run.label if run.label in "AB" else "A", x, r.prototype_value, along="y", custom=[str(f) for f in r.prototype_feature],
               text=[_short(w, 40) for w in r.prototype_words], hover="feature %{customdata}: %{y:.3f}<br>promotes %{text}")
    fig.update_layout(xaxis=dict(title="SAE feature", tickvals=x, ticktext=[str(f) for f in r.prototype_feature], tickangle=-60, range=[-0.7, len(x) - 0.3]),
                      yaxis=dict(title="mean activation", rangemode="tozero", showgrid=True))
    return fig


# ---- methods among each other


def _overlap_card(runs) -> Figure:
    run = runs[0]
    names = [words.method(run, m) for m in range(len(run.result.methods))]
    z = [[words.overlap(words.taken(run, i), words.taken(run, j)) for j in range(len(run.result.methods))] for i in range(len(run.result.methods))]
    chance = words.chance_overlap(len(words.taken(run)), int((run.result.order[0, 0] >= 0).sum()))
    rows = [{"run": x.label, "method": words.method(x, i), "with": words.method(x, j), "overlap": words.overlap(words.taken(x, i), words.taken(x, j))}
            for x in runs for i in range(len(x.result.methods)) for j in range(len(x.result.methods))]
    return Figure(
        "overlap", "Do the methods take the same?",
        f"Shared over joint samples at {run.params.budget:g} %. {names[0]} shares {words.percent(z[0][2])} with {names[2]}, {words.percent(z[0][4])} with {names[4]}; two random selections share {words.percent(chance)}.",
        _views(runs, overlap), pa.Table.from_pylist(rows), f"Jaccard overlap of what the methods take at {run.params.budget:g} % of {len(run.result.text):,} samples; by chance {words.percent(chance)}.",
        f"{names[0]} with {names[2]} {words.percent(z[0][2])}, with {names[3]} {words.percent(z[0][3])}, with {names[4]} {words.percent(z[0][4])}.", height=HEIGHT)


def overlap(run, theme: Theme) -> go.Figure:
    names = [words.method(run, m) for m in range(len(run.result.methods))]
    z = np.array([[words.overlap(words.taken(run, i), words.taken(run, j)) for j in range(len(run.result.methods))] for i in range(len(run.result.methods))])
    fig = figure(theme, margin=dict(l=150, r=14, t=14, b=112), height=HEIGHT)
    plots.heat(fig, theme, z, low=0, high=1, gap=2, hover="%{z:.0%} shared")
    at = dict(tickvals=list(range(len(names))), ticktext=names, tickfont=dict(color=theme.text))
    fig.update_layout(xaxis=dict(**at, tickangle=-35, range=[-0.5, len(names) - 0.5]), yaxis=dict(**at, range=[len(names) - 0.5, -0.5]))
    plots.add(fig, [plots.text_at(theme, f"{100 * z[i, j]:.0f}", j, i, ref=("x", "y"), color=plots.ink(z[i, j], 0, 1)) for i in range(len(names)) for j in range(len(names))])
    return fig


# ---- coverage


def _coverage_card(runs) -> Figure:
    run = runs[0]
    r = run.result
    n = [budget(b, r.order[0, 0]) for b in BUDGETS]
    rows = [{"run": x.label, "method": words.method(x, m), "budget": b, "features": int(x.result.covered[m, i]), "of": x.result.alive}
            for x in runs for m in range(len(x.result.methods)) for i, b in enumerate(BUDGETS)]
    rows += [{"run": x.label, "method": "random", "budget": b, "features": int(v), "of": x.result.alive} for x in runs for drawn in x.result.covered_random for b, v in zip(BUDGETS, drawn)]
    most = METHODS.index("coverage")
    return Figure(
        "coverage", "How much of the model does it touch?",
        f"SAE features that occur in what is taken, of {r.alive:,} in the pool. At 5 % ({n[2]} samples) {words.method(run, 0)} touches {int(r.covered[0, 2]):,}, greedy coverage {int(r.covered[most, 2]):,}, random ones {r.covered_random[:, 2].mean():.0f} (grey: lowest to highest of {len(r.covered_random)}).",
        _views(runs, coverage), pa.Table.from_pylist(rows), f"Distinct SAE features among the samples taken by each method ({r.sae}).",
        f"At 5 %: " + "; ".join(f"{words.method(run, m)} {int(r.covered[m, 2])}" for m in range(len(run.result.methods))) + ".", height=HEIGHT)


def coverage(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=58, r=150, t=14, b=42), height=HEIGHT)
    x = np.arange(len(BUDGETS))
    low, high = r.covered_random.min(0), r.covered_random.max(0)
    fig.add_trace(go.Scatter(x=[*x, *x[::-1]], y=[*low, *high[::-1]], fill="toself", fillcolor=theme.null_fill, line_width=0, mode="lines", hoverinfo="skip"))
    for m in range(len(run.result.methods)):
        fig.add_trace(go.Scatter(x=x, y=r.covered[m], mode="lines+markers", line=dict(color=_colour(theme, m), width=1.5, dash=DASHES[m]),
                                 marker=dict(symbol=SYMBOLS[m], size=7, color=_colour(theme, m)), hovertemplate=f"{words.method(run, m)}: %{{y}}<extra></extra>", cliponaxis=False))
    for m, at in enumerate(plots.apart([float(v) for v in r.covered[:, 0]], 0.075 * max(r.alive, 1))):
        plots.note(fig, theme, words.method(run, m), 1.02, at, ref=("paper", "y"), xanchor="left", color=_colour(theme, m))
    fig.update_layout(xaxis=dict(title="share of the pool taken, %", tickvals=x, ticktext=[f"{100 * b:g}" for b in BUDGETS]), yaxis=dict(title="features", showgrid=True, range=[0, 1.05 * r.alive]))
    return fig


# ---- does it help?


def _help_card(runs) -> Figure:
    run = next(r for r in runs if len(r.result.tuned))
    r, p = run.result, words.helps(run)
    rows = []
    for x in runs:
        own, n = words.helps(x), len(x.result.methods)
        rows += [{"run": x.label, "selection": words.method(x, i) if i < n else f"random {i - n + 1}", "seed": s, "nats per token": float(v), "before": x.result.untuned,
                  "p": float(own[i]) if i < n else None} for i, losses in enumerate(x.result.tuned) for s, v in enumerate(losses)]
    below = [words.method(run, m) for m in range(len(p)) if p[m] <= 0.05]
    return Figure(
        "help", "Does it help?",
        f"Held-out loss after {run.params.tune_steps} steps of tuning on each selection ({r.tuned_held}; {r.tuned_tokens:,} tokens): filled the mean of {r.tuned.shape[1]} runs, thin each run; grey: "
        f"{len(r.tuned) - len(p)} random selections; dashed: before. {'p ≤ 0.05: ' + ', '.join(below) if below else 'No method has p ≤ 0.05'}, of {len(p)} asked at once.",
        _views([x for x in runs if len(x.result.tuned)], helping), pa.Table.from_pylist(rows),
        f"Next-token loss of the held-out target after {run.params.tune_steps} steps on {run.params.tune_share:g} % of the pool, by method; grey: {len(r.tuned) - len(p)} random selections of that size.",
        words.helping(run), height=HEIGHT)


def helping(run, theme: Theme) -> go.Figure:
    r, n = run.result, len(run.result.methods)
    fig = figure(theme, margin=dict(l=150, r=84, t=26, b=42), height=HEIGHT)
    mean, p = r.tuned.mean(1), words.helps(run)
    low, high = float(mean[n:].min()), float(mean[n:].max())
    fig.add_shape(type="rect", x0=low, x1=high, y0=-0.5, y1=n + 0.5, fillcolor=theme.null_fill, line_width=0, layer="below")
    plots.dashed(fig, theme, r.untuned)
    plots.note(fig, theme, "before", r.untuned, 1.0, ref=("x", "paper"), yanchor="bottom", yshift=4)
    fig.add_trace(go.Scatter(x=mean[n:], y=np.full(len(mean) - n, n), mode="markers", marker=dict(symbol="line-ns-open", size=12, color=theme.null_line), hovertemplate="random %{x:.4f}<extra></extra>"))
    for m in range(n):
        fig.add_trace(go.Scatter(x=r.tuned[m], y=np.full(r.tuned.shape[1], m), mode="markers", marker=dict(symbol="line-ns-open", size=9, color=_colour(theme, m)), hovertemplate="one run %{x:.4f}<extra></extra>"))
        fig.add_trace(go.Scatter(x=[mean[m]], y=[m], mode="markers", marker=dict(symbol=SYMBOLS[m], size=9, color=_colour(theme, m)), hovertemplate=f"{words.method(run, m)}: %{{x:.4f}}<extra></extra>"))
        plots.note(fig, theme, f"p = {p[m]:.2g}", 1.0, m, ref=("paper", "y"), xanchor="left", xshift=8)
    fig.update_layout(xaxis=dict(title="held-out loss, nats per token", showgrid=True),
                      yaxis=dict(range=[n + 0.5, -0.5], tickvals=list(range(n + 1)), ticktext=[*(words.method(run, m) for m in range(n)), "random"], tickfont=dict(color=theme.text)))
    return fig


# ---- A against B


def _moved_card(a, b) -> Figure:
    rho, both, chance = words.agreement(a, b)
    there = np.isfinite(a.result.score[0])
    rows = [{"sample": int(i), "a": float(a.result.score[0][i]), "b": float(b.result.score[0][i])} for i in np.flatnonzero(there)]
    return Figure(
        "moved", "Does B find the same samples?", f"ρ = {number(rho)} between the scores in A and in B; what they take overlaps by {words.percent(both)}, by chance {words.percent(chance)}. Same pool, same target, the SAE of A.",
        {"": partial(moved, a, b)}, pa.Table.from_pylist(rows), f"Score of every sample in B against A; filled: taken by A at {a.params.budget:g} %.", f"Scatter; Spearman {number(rho)}, overlap {words.percent(both)}.",
        height=HEIGHT)


def moved(a, b, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=14, b=42), height=HEIGHT)
    x, y = a.result.score[0], b.result.score[0]
    there = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    for rows, colour, size in ((np.setdiff1d(there, words.taken(a)), theme.null_line, 4), (np.intersect1d(words.taken(a), there), theme.a, 6)):
        fig.add_trace(go.Scattergl(x=x[rows], y=y[rows], mode="markers", marker=dict(size=size, color=colour, opacity=0.7), text=[_short(a.result.text[i], 60) for i in rows],
                                   hovertemplate="%{text}<br>A %{x:.3f}, B %{y:.3f}<extra></extra>"))
    low, high = float(min(x[there].min(), y[there].min())), float(max(x[there].max(), y[there].max()))
    fig.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line=dict(color=theme.null_line, dash="dash", width=1.5), layer="below")
    fig.update_layout(xaxis=dict(title="score in A"), yaxis=dict(title="score in B", showgrid=True))
    return fig
