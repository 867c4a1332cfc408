"""The figure cards of the lab: phase chart, R and accuracies over width, time, samples and regularisation; regions; distances; shared codes."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.hash_codes_lab import pictures, words
from analysis.hash_codes_lab.tables import REGIMES, Curve, Rows, regimes
from analysis.hash_codes_lab.words import share
from analysis.theme import Theme, figure

PHASE = {"regime": None, "R, training images": "r_train", "k-NN accuracy": "knn"}
READERS = {"k-NN": "knn", "logistic": "logistic", "purity": "purity", "Hungarian": "hungarian"}


def figures(runs) -> list[Figure]:
    run, rows = runs[0], Rows(runs[0].result)
    cards = [_phase_card(run, rows), _redundancy_card(run, rows), _readers_card(run, rows), _over_card(run, rows, "time"), _over_card(run, rows, "samples")]
    cards += [_pressure_card(run, rows)] if len(rows.decays) > 1 or len(rows.noises) > 1 else []
    return [*cards, *([pictures.plane_card(run)] if run.result.layers else []), pictures.distances_card(run), pictures.shared_card(run, rows)]


def _net(run) -> str:
    p = run.params
    kind = "convolution" if p.family == "conv" else "hidden layer"
    return f"{p.hidden} {kind}{'s' * (p.hidden > 1)}{' with batch norm' if p.batch_norm else ''}, {p.repeats} networks each"


# ---- phase chart


def _phase_card(run, rows: Rows) -> Figure:
    first = words.first_sufficient(rows, run.params)
    p = run.params
    rule = f"under: R > {p.under:g}; sufficient: R ≤ {p.sufficient:g} and k-NN accuracy ≥ {p.plateau:g} of the best in the column; critical between"
    return Figure(
        "phase_chart", "Activation hash phase chart", f"Left: time at {rows.total:,} training images; right: sample size after {rows.last} epochs. "
        f"Regimes by our rule ({rule}); the paper names three, its borders could not be read.",
        {name: partial(phase, run, rows, measure) for name, measure in PHASE.items()}, run.result.cells,
        f"Means over {p.repeats} networks per cell ({_net(run)}), {run.result.n_test:,} test images. Rule of the regimes: {rule}. Samples below about 100 images say little with nine neighbours.",
        f"Two heat maps, width against epochs and against sample size. {f'Widths from {first} on are sufficiently expressive.' if first else 'No width is sufficiently expressive.'}",
        height=max(344, 120 + 30 * len(rows.widths)), wide=True,
    )


def phase(run, rows: Rows, measure: str | None, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=26, b=84), height=max(344, 120 + 30 * len(rows.widths)))
    sides = (("epoch", rows.epochs, "epochs", "x", [0, 0.56]), ("samples", rows.samples, "training images", "x2", [0.64, 1]))
    bars = {None: None, "r_train": plots.horizontal_bar(theme, "R of the training images", 0.5, [0, 0.5, 1]), "knn": plots.horizontal_bar(theme, "k-NN accuracy on test images", 0.5, [0, 0.5, 1])}
    for side, (across, labels, title, axis, domain) in enumerate(sides):
        r, accuracy = rows.map("r_train", across), rows.map("knn", across)
        found = regimes(r, accuracy, run.params)
        z = found / 2 if measure is None else {"r_train": r, "knn": accuracy}[measure]
        custom = np.stack([np.broadcast_to(np.array(rows.widths)[:, None], r.shape), np.broadcast_to(np.array(labels), r.shape), r, accuracy, np.array(REGIMES, object)[found]], -1)
        plots.heat(fig, theme, z, axes=(axis, "y"), low=0, high=1, bar=bars[measure] if side == 0 else None, custom=custom,
                   hover=f"width %{{customdata[0]}}, %{{customdata[1]}} {title}<br>R %{{customdata[2]:.3f}}, k-NN %{{customdata[3]:.3f}}<br>%{{customdata[4]}}")
        shown = r if measure != "knn" else accuracy
        plots.add(fig, [plots.text_at(theme, f"{shown[i, j]:.2f}".lstrip("0") if shown[i, j] < 0.995 else "1", j, i, ref=(axis, "y"), color=plots.ink(z[i, j], 0, 1))
                        for i in range(r.shape[0]) for j in range(r.shape[1])])
        fig.update_layout({f"{axis[0]}axis{axis[1:]}": dict(domain=domain, title=title, anchor="y", **plots.ticks([f"{v:,}" for v in labels]))})
    fig.update_layout(yaxis=dict(title="width", **plots.ticks(rows.widths, 24)))
    if measure is None:
        for k, name in enumerate(REGIMES):
            color = ("#00224E", "#7D7C78", "#FEE838")[k]
            plots.note(fig, theme, f'<span style="color:{color if (theme.name, k) != ("dark", 0) else "#3A5A92"}">■</span> {name}', 0.02 + 0.34 * k, 0, yshift=-76, color=theme.text, xanchor="left", yanchor="bottom")
    return fig


# ---- curves


def curve(fig: go.Figure, theme: Theme, found: Curve, positions: list, name: str, *, axes=("x", "y"), color: str, dash: str | None = None, marker: str | None = "circle", band: bool = False, what: str = "") -> None:
    """One curve at integer positions of `positions`; the range over repeats as bars, or as a grey band for nulls."""
    at = [positions.index(x) for x in found.x if x in positions]
    if not at:
        return
    keep = [i for i, x in enumerate(found.x) if x in positions]
    mean, low, high = (v[keep] for v in (found.mean, found.low, found.high))
    if band:
        fig.add_trace(go.Scatter(x=[*at, *at[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=theme.null_fill, line_width=0, mode="lines", hoverinfo="skip", xaxis=axes[0], yaxis=axes[1]))
    custom = [[f"{positions[i]:g}", a, b] for i, a, b in zip(at, low, high)]
    error = dict(type="data", symmetric=False, array=high - mean, arrayminus=mean - low, thickness=1, width=0, color=color)
    fig.add_trace(go.Scatter(x=at, y=mean, name=name, mode="lines+markers" if marker else "lines", line=dict(color=color, width=1.6, dash=dash), xaxis=axes[0], yaxis=axes[1],
                             marker=dict(symbol=marker or "circle", size=7, color=color), error_y=None if band or not marker else error, customdata=custom,
                             hovertemplate=f"{what} %{{customdata[0]}}<br>{name} %{{y:.3f}} (%{{customdata[1]:.3f}}–%{{customdata[2]:.3f}})<extra></extra>"))


def legend(fig: go.Figure, theme: Theme, entries: list[tuple[str, str, str]], x: float = 0.0, y: float = 1.0) -> None:
    """(mark, color, text) in one line above the plot."""
    plots.note(fig, theme, "&nbsp;&nbsp;".join(f'<span style="color:{color}">{mark}</span> {text}' for mark, color, text in entries), x, y, color=theme.text, xanchor="left", yanchor="bottom", yshift=6)


def _redundancy_card(run, rows: Rows) -> Figure:
    knee = rows.curve("r_train", "width")
    planes, noise = rows.curve("r_train", "width", "hyperplanes").at(rows.focus)[0], rows.curve("r_noise_input", "width").at(rows.focus)[0]
    at = next((w for w, r in zip(knee.x, knee.mean) if r <= run.params.sufficient), None)
    return Figure(
        "redundancy", "Redundancy of codes over width", f"R falls with width{f' and is at most {run.params.sufficient:g} from width {at} on' if at else ''}, beside random hyperplanes in grey: {share(planes)} "
        f"at width {rows.focus}, where training images have {share(knee.at(rows.focus)[0])} and uniform noise {share(noise)}. R depends on n.",
        {"R": partial(redundancy, rows, False), "effective bits": partial(redundancy, rows, True)}, run.result.cells,
        f"Redundancy ratio R = (n − different codes)/n of {rows.total:,} training and {run.result.n_test:,} test images against width ({_net(run)}), after {rows.last} epochs. "
        "Grey: random hyperplanes with as many bits. Effective bits: the bits of a random hash that would have this R at this n; nothing is shown where nothing is shared.",
        f"R over widths {rows.widths[0]} to {rows.widths[-1]}, training and test images, beside random hyperplanes.",
    )


def redundancy(rows: Rows, effective: bool, theme: Theme) -> go.Figure:
    from metrics.codes import effective_bits

    fig = figure(theme, margin=dict(l=52, r=14, t=34, b=42), height=344)
    n = {"r_train": rows.total, "r_test": None, "r_noise_input": None}

    def shown(found: Curve, measure: str) -> Curve:
        if not effective:
            return found
        of = lambda v: np.array([effective_bits(r, n[measure]) if 0 < r < 1 else np.nan for r in v])
        return Curve(found.x, of(found.mean), of(found.high), of(found.low))

    curve(fig, theme, shown(rows.curve("r_train", "width", "hyperplanes"), "r_train"), rows.widths, "random hyperplanes, train", color=theme.null_line, dash="dash", marker=None, band=True, what="width")
    curve(fig, theme, shown(rows.curve("r_train", "width"), "r_train"), rows.widths, "train", color=theme.a, what="width")
    entries = [("●", theme.a, "train"), ("╌", theme.null_line, "random hyperplanes")]
    if effective:
        fig.add_trace(go.Scatter(x=list(range(len(rows.widths))), y=[rows.bits[w] for w in rows.widths], mode="lines", line=dict(color=theme.line, width=1, dash="dot"), hoverinfo="skip"))
        entries.append(("┄", theme.line, "as many as there are"))
    else:
        curve(fig, theme, rows.curve("r_test", "width"), rows.widths, "test", color=theme.a, marker="circle-open", dash="dot", what="width")
        curve(fig, theme, rows.curve("r_noise_input", "width"), rows.widths, "uniform noise", color=theme.quiet, marker="x-thin-open", dash="dot", what="width")
        entries[1:1] = [("○", theme.a, "test"), ("✕", theme.quiet, "noise as input")]
    legend(fig, theme, entries)
    fig.update_layout(xaxis=dict(title="width", **plots.ticks(rows.widths, 24)), yaxis=dict(title="effective bits" if effective else "R", rangemode="tozero", showgrid=True))
    if effective:
        top = np.nanmax(shown(rows.curve("r_train", "width"), "r_train").mean, initial=1)
        fig.update_yaxes(range=[0, 1.5 * top])
    return fig


def _readers_card(run, rows: Rows) -> Figure:
    here, planes, raw = rows.curve("knn", "width").at(rows.focus)[0], rows.curve("knn", "width", "hyperplanes").at(rows.focus)[0], rows.curve("knn", "samples", "raw").at(rows.total)[0]
    wide = rows.curve("knn", "width").at(rows.widths[-1])[0] - rows.curve("knn", "width", "hyperplanes").at(rows.widths[-1])[0]
    return Figure(
        "what_codes_know", "What codes know", f"Width {rows.focus}: k-NN reads {share(here)} of the test images off the code, {share(planes)} off random hyperplanes: training adds {100 * (here - planes):.1f} points"
        f"{f'; at width {rows.widths[-1]}, {100 * wide:.1f}' if rows.widths[-1] != rows.focus else ''}. Raw pixels: {share(raw)}.",
        {name: partial(readers, rows, measure) for name, measure in READERS.items()}, run.result.cells,
        f"Test accuracy of simple methods on codes against width ({_net(run)}), {rows.total:,} training and {run.result.n_test:,} test images, after {rows.last} epochs; the network's own accuracy beside it. Purity lets clusters of K-Means "
        "share a label, Hungarian does not. Grey: random hyperplanes with as many bits, the untrained network, and the pixels themselves.",
        f"Accuracy over widths {rows.widths[0]} to {rows.widths[-1]} with controls.",
    )


def readers(rows: Rows, measure: str, theme: Theme) -> go.Figure:
    fig = figure(theme, margin=dict(l=52, r=14, t=34, b=42), height=344)
    curve(fig, theme, rows.curve(measure, "width", "hyperplanes"), rows.widths, "random hyperplanes", color=theme.null_line, dash="dash", marker=None, band=True, what="width")
    early = rows.curve(measure, "width", epoch=0)
    curve(fig, theme, early, rows.widths, "untrained", color=theme.quiet, dash="dot", marker="x-thin-open", what="width")
    curve(fig, theme, rows.curve("accuracy", "width"), rows.widths, "the network itself", color=theme.text, marker=None, what="width")
    curve(fig, theme, rows.curve(measure, "width"), rows.widths, "code", color=theme.a, what="width")
    raw = rows.curve(measure, "samples", "raw").at(rows.total)[0]
    if np.isfinite(raw):
        fig.add_shape(type="line", x0=0, x1=1, xref="x domain", y0=raw, y1=raw, line=dict(color=theme.null_line, width=1.5), layer="below")
        plots.note(fig, theme, f"raw pixels {raw:.3f}", 0, raw, ref=("x domain", "y"), xanchor="left", yanchor="bottom")
    legend(fig, theme, [("●", theme.a, "code"), ("─", theme.text, "network"), ("╌", theme.null_line, "random hyperplanes"), *([("✕", theme.quiet, "untrained")] if early.x else [])])
    fig.update_layout(xaxis=dict(title="width", **plots.ticks(rows.widths, 24)), yaxis=dict(title="test accuracy", range=[0, 1.04], showgrid=True))
    return fig


# ---- R and accuracy side by side over time, samples, L2 or wrong labels


OVER = {"time": ("epoch", "epochs"), "samples": ("samples", "training images"), "L2": ("weight_decay", "L2"), "wrong labels": ("wrong_labels_percent", "wrong training labels, %")}


def _positions(rows: Rows, over: str) -> list:
    return {"time": rows.epochs, "samples": rows.samples, "L2": rows.decays, "wrong labels": rows.noises}[over]


def _over_card(run, rows: Rows, over: str) -> Figure:
    column, title = OVER[over]
    r, knn = rows.curve("r_train", column), rows.curve("knn", column)
    first, last = r.x[0], r.x[-1]
    reading = f"R of the training images goes from {share(r.mean[0])} at {first:,} to {share(r.mean[-1])} at {last:,}, k-NN accuracy from {share(knn.mean[0])} to {share(knn.mean[-1])}."
    reading += f" Epoch 0 is the untrained network{_peak(r)}." if over == "time" else " R is of the images in the sample, so it rises with their number; nine neighbours among ten images are chance."
    return Figure(
        f"over_{over}", f"Over {'training time' if over == 'time' else 'sample size'}, width {rows.focus}", reading, {"": partial(over_plot, rows, over)}, run.result.cells,
        f"Left: R. Right: test accuracy of k-NN (and logistic regression) on codes and of the network itself, against {title}, at width {rows.focus} ({_net(run)}). Bars: range over repeats. Grey: random hyperplanes.",
        f"R and accuracies against {title} at width {rows.focus}.",
    )


def _peak(r: Curve) -> str:
    i = int(np.argmax(r.mean))
    return f"; R is not monotone, its peak is {share(r.mean[i])} after epoch {r.x[i]}" if 0 < i < len(r.x) - 1 else ""


def _pressure_card(run, rows: Rows) -> Figure:
    views = [name for name, values in (("L2", rows.decays), ("wrong labels", rows.noises)) if len(values) > 1]
    found = {name: rows.curve("r_train", OVER[name][0]) for name in views}
    said = [f"{'L2 of ' + format(c.x[-1], 'g') if name == 'L2' else f'{c.x[-1]} % wrong labels'} {'raises' if c.mean[-1] > c.mean[0] else 'lowers'} R from {share(c.mean[0])} to {share(c.mean[-1])}" for name, c in found.items()]
    return Figure(
        "regularisation", f"Regularisation and wrong labels, width {rows.focus}", f"{', '.join(said)}. Probes are fitted with the true labels, whatever the network was taught.",
        {name: partial(over_plot, rows, name) for name in views}, run.result.cells,
        f"R and accuracies at width {rows.focus} ({_net(run)}), {rows.total:,} training images, {rows.last} epochs, against the L2 coefficient and against the share of training labels replaced by another class.",
        "R and accuracies against regularisation and label noise.",
    )


def over_plot(rows: Rows, over: str, theme: Theme) -> go.Figure:
    column, title = OVER[over]
    at = _positions(rows, over)
    fig = figure(theme, margin=dict(l=52, r=14, t=34, b=42), height=344)
    left, right = ("x", "y"), ("x2", "y2")
    planes = {m: rows.curve(m, "samples", "hyperplanes") for m in ("r_train", "knn")}
    if over != "samples":  # no time and no labels in random hyperplanes: one value for all
        planes = {m: Curve(at, *(np.full(len(at), v) for v in c.at(rows.total))) for m, c in planes.items()}
    for axes, measure in ((left, "r_train"), (right, "knn")):
        curve(fig, theme, planes[measure], at, "random hyperplanes", axes=axes, color=theme.null_line, dash="dash", marker=None, band=True, what=title)
    curve(fig, theme, rows.curve("r_test", column), at, "test", axes=left, color=theme.a, dash="dot", marker="circle-open", what=title)
    curve(fig, theme, rows.curve("r_train", column), at, "train", axes=left, color=theme.a, what=title)
    curve(fig, theme, rows.curve("accuracy", column), at, "the network itself", axes=right, color=theme.text, marker=None, what=title)
    curve(fig, theme, rows.curve("logistic", column), at, "logistic regression", axes=right, color=theme.a, dash="dot", marker="square-open", what=title)
    curve(fig, theme, rows.curve("knn", column), at, "k-NN", axes=right, color=theme.a, what=title)
    legend(fig, theme, [("●", theme.a, "train"), ("○", theme.a, "test"), ("╌", theme.null_line, "hyperplanes")])
    legend(fig, theme, [("●", theme.a, "k-NN"), ("□", theme.a, "logistic"), ("─", theme.text, "network")], 0.56)
    labels = [f"10<sup>−{round(-np.log10(v))}</sup>" if over == "L2" else f"{v:,}" for v in at]
    axis = dict(title=title, **plots.ticks(labels, 9))
    fig.update_layout(xaxis=dict(domain=[0, 0.44], **axis), xaxis2=dict(domain=[0.56, 1], anchor="y2", **axis), yaxis=dict(title="R", rangemode="tozero", showgrid=True),
                      yaxis2=dict(title="test accuracy", range=[0, 1.04], anchor="x2", showgrid=True))
    return fig


