"""The figure cards: the text's features, one feature's density, activations, tokens and neighbours, a token's features, steering."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.contract import Figure
from analysis.feature_browser import strips, tables, words
from analysis.plots import number
from analysis.theme import Theme, figure
from models.variant import write_value

HEIGHT = 332


def figures(runs) -> list[Figure]:
    cards = [strips.prompt_card(runs, _links(runs)), _density_card(runs), _values_card(runs)]
    if any(len(run.result.values) for run in runs):
        cards.append(strips.examples_card(runs))
    if not tables.lacking(runs, "up"):
        cards.append(_tokens_card(runs))
    cards.append(_neighbours_card(runs))
    if any(run.result.search >= 0 for run in runs):
        cards.append(_search_card(runs))
    return [*cards, strips.steering_card(runs), _next_card(runs)]


def views(runs, draw) -> dict:
    return {run.label if len(runs) > 1 else "": partial(draw, run) for run in runs}


def _links(runs) -> dict[str, str]:
    """A clicked feature becomes the chosen one, everything else of the view staying as it is."""
    a, default = runs[0], vars(type(runs[0].params)())
    kept = {"a": a.subject, **({"b": runs[1].subject} if len(runs) > 1 else {}), "corpus": a.record.get("corpus")}
    kept |= {k: write_value(v) for k, v in vars(a.params).items() if v != default[k]}
    view = "&".join(f"{k}={v}" for k, v in kept.items() if v and k != "feature" and "&" not in str(v))
    numbers = {int(f) for run in runs for f in run.result.named}
    return {key: f"feature_browser?{view}&feature={f}" for f in numbers for key in {str(f), *(words.label(run.result, f) for run in runs)}}


# ---- how often, how strong


def _density_card(runs) -> Figure:
    r = runs[0].result
    return Figure(
        "density", "How often features fire", f"{int((r.fired == 0).sum()):,} of {r.d_sae:,} never do on this corpus. The dashed line is feature {r.feature}, at {words.density(r)} of tokens.",
        views(runs, density), tables.of_runs(runs, tables.features), f"Features of {r.sae} by the share of {r.n_tokens:,} tokens at which they fire, log axis; those that never fire are counted in the reading.",
        f"Histogram of densities; feature {r.feature} at {words.density(r)}.", height=HEIGHT)


def density(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=56, r=14, t=26, b=42), height=HEIGHT, bargap=0.05)
    share = r.fired[r.fired > 0] / r.n_tokens
    low, high = 0.7 / r.n_tokens, max(1.0, float(share.max(initial=0)))
    edges = np.linspace(np.log10(low), np.log10(high), 31)
    count, _ = np.histogram(np.log10(share), edges)
    middle, log = 10 ** ((edges[:-1] + edges[1:]) / 2), plots.log_axis(low, high, 0.02, 6)
    fig.add_trace(go.Bar(x=middle, y=count, width=10 ** edges[1:] - 10 ** edges[:-1], marker_color=theme.run(run.label), hovertemplate="%{y:,} features near %{x:.2%} of tokens<extra></extra>"))
    fig.update_layout(xaxis=dict(title="share of tokens (log)", **log), yaxis=dict(title="features", rangemode="tozero", showgrid=True))
    if r.fired[r.feature]:
        at = r.fired[r.feature] / r.n_tokens
        plots.dashed(fig, theme, at)
        plots.note(fig, theme, f"#{r.feature}", np.log10(at), 1.0, ref=("x", "paper"), yanchor="bottom", yshift=4)
    return fig


def _values_card(runs) -> Figure:
    r = runs[0].result
    return Figure(
        "activations", f"How strong feature {r.feature} fires", f"{len(r.values):,} tokens; largest {number(r.largest[r.feature])}." + (" A single heap near zero with a long tail is common; two heaps suggest two meanings." if len(r.values) else ""),
        views(runs, values), tables.of_runs(runs, tables.values), f"Activations of feature {r.feature} where it fires, over {r.n_tokens:,} tokens.",
        f"Histogram of {len(r.values):,} activations.", height=HEIGHT)


def values(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=56, r=14, t=26, b=42), height=HEIGHT, bargap=0.05)
    count, edges = np.histogram(r.values, 40, (0, max(float(r.values.max(initial=0)), 1e-6)))
    fig.add_trace(go.Bar(x=(edges[:-1] + edges[1:]) / 2, y=count, marker_color=theme.run(run.label), hovertemplate="%{y:,} tokens near %{x:.3g}<extra></extra>"))
    fig.update_layout(xaxis=dict(title="activation", rangemode="tozero"), yaxis=dict(title="tokens", rangemode="tozero", showgrid=True))
    return fig


# ---- tokens and neighbours


def _tokens_card(runs) -> Figure:
    r, text = runs[0].result, words.text_of(runs[0].result)
    return Figure(
        "tokens", f"What feature {r.feature} promotes and suppresses", f"Most promoted: “{text[int(r.up[0])]}”; most suppressed: “{text[int(r.down[0])]}”. The direct path only.",
        views(runs, tokens), tables.of_runs(runs, tables.tokens), "Decoder direction times the final norm’s gain times the unembedding, centred over the vocabulary; the unit is arbitrary.",
        "Bars of the ten most promoted and suppressed tokens.", height=HEIGHT + 60)


def tokens(run, theme: Theme) -> go.Figure:
    r, text = run.result, words.text_of(run.result)
    fig = figure(theme, margin=dict(l=88, r=14, t=26, b=42), height=HEIGHT + 60, bargap=0.3)
    ids, logits = np.concatenate([r.up, r.down[::-1]]), np.concatenate([r.up_logit, r.down_logit[::-1]])
    fig.add_trace(go.Bar(x=logits, y=list(range(len(ids))), orientation="h", marker_color=[theme.run(run.label) if x > 0 else theme.quiet for x in logits], customdata=[text[int(t)] for t in ids],
                         hovertemplate="“%{customdata}” %{x:.3g}<extra></extra>"))
    fig.update_layout(xaxis=dict(title="direct effect on the logit, arbitrary unit", showgrid=True),
                      yaxis=dict(range=[len(ids) - 0.5, -0.5], tickvals=list(range(len(ids))), ticktext=[text[int(t)][:11] for t in ids], tickfont=dict(size=11)))
    return fig


def _neighbours_card(runs) -> Figure:
    r = runs[0].result
    return Figure(
        "neighbours", f"Features near feature {r.feature}", f"The nearest is {words.label(r, int(r.neighbour[0]))} at cosine {number(r.cosine[0])}; a random direction’s best among {r.d_sae:,} is ± {number(r.random_cosine)} (grey).",
        views(runs, neighbours), tables.of_runs(runs, tables.neighbours), "Cosine of decoder directions; the grey band is what the best of as many features reaches with a random direction, mean of 20.",
        "Bars of cosine to the nearest features.", height=HEIGHT + 60, links=_links(runs))


def neighbours(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=120, r=14, t=26, b=42), height=HEIGHT + 60, bargap=0.35)
    n = len(r.neighbour)
    names = [words.label(r, int(f)) for f in r.neighbour]
    fig.add_shape(type="rect", x0=-r.random_cosine, x1=r.random_cosine, y0=-0.5, y1=n - 0.5, fillcolor=theme.null_fill, line_width=0, layer="below")
    fig.add_trace(go.Bar(x=r.cosine, y=list(range(n)), orientation="h", marker_color=theme.run(run.label), customdata=names, hovertemplate="%{customdata}<br>cosine %{x:.3f}<extra></extra>"))
    fig.update_layout(xaxis=dict(title="cosine of decoder directions", showgrid=True), yaxis=dict(range=[n - 0.5, -0.5], tickvals=list(range(n)), ticktext=names))
    return fig


# ---- a token's features


def _search_card(runs) -> Figure:
    r, text = runs[0].result, words.text_of(runs[0].result)
    word = text[r.search]
    reading = (f"At its {r.search_seen:,} occurrences {words.label(r, int(r.fires[0]))} is the one that stands out most." if len(r.fires) else f"No kept feature fires at its {r.search_seen:,} occurrences in this corpus.")
    return Figure(
        "search", f"Features of the token “{word}”", reading, views(runs, search), tables.of_runs(runs, tables.search),
        f"Left: mean activation at “{word}” (colour) and at all other tokens (grey). Right: features whose direction promotes it most.", f"Two bar charts for “{word}”.", height=HEIGHT, wide=True, links=_links(runs))


def search(run, theme: Theme) -> go.Figure:
    r = run.result
    fig = figure(theme, margin=dict(l=124, r=14, t=26, b=42), height=HEIGHT, barmode="overlay", bargap=0.35)
    n = max(len(r.fires), len(r.promotes), 1)
    name = lambda ids: [words.label(r, int(f)) for f in ids]
    fig.add_trace(go.Bar(x=r.fires_on, y=list(range(len(r.fires))), orientation="h", marker_color=theme.run(run.label), customdata=name(r.fires), hovertemplate="%{customdata}: %{x:.3g} on the token<extra></extra>"))
    fig.add_trace(go.Bar(x=r.fires_off, y=list(range(len(r.fires))), orientation="h", marker_color=theme.null_line, width=0.3, customdata=name(r.fires), hovertemplate="%{customdata}: %{x:.3g} elsewhere<extra></extra>"))
    fig.add_trace(go.Bar(x=r.promotes_logit, y=list(range(len(r.promotes))), orientation="h", marker_color=theme.run(run.label), xaxis="x2", yaxis="y2", customdata=name(r.promotes), hovertemplate="%{customdata}: %{x:.3g}<extra></extra>"))
    rows = lambda ids: dict(range=[n - 0.5, -0.5], tickvals=list(range(len(ids))), ticktext=name(ids))
    fig.update_layout(xaxis=dict(domain=[0, 0.42], title="mean activation on it", rangemode="tozero", showgrid=True), yaxis=rows(r.fires),
                      xaxis2=dict(domain=[0.6, 1], title="direct effect on its logit", showgrid=True, anchor="y2"), yaxis2=dict(anchor="x2", **rows(r.promotes)))
    return fig


# ---- the next token under steering


def _next_card(runs) -> Figure:
    r, text = runs[0].result, words.text_of(runs[0].result)
    return Figure(
        "next", "What comes next, plain and steered", f"KL from plain: {number(r.kl[1])} nats steered, {number(r.kl[2])} with a random direction of the same length (grey). Moves most: “{text[int(r.changed[0])]}”.",
        views(runs, following), tables.of_runs(runs, tables.steering), "Probability of the next token after the text, for the tokens that steering changes most.", "Dots of probability, plain, steered and random.", height=HEIGHT, wide=True)


def following(run, theme: Theme) -> go.Figure:
    r, text = run.result, words.text_of(run.result)
    n = len(r.changed)
    fig = figure(theme, margin=dict(l=104, r=14, t=26, b=42), height=HEIGHT)
    fig.update_layout(xaxis=dict(title="probability of the next token", rangemode="tozero", showgrid=True, tickformat=".0%"),
                      yaxis=dict(range=[n - 0.5, -0.5], tickvals=list(range(n)), ticktext=[text[int(t)][:13] for t in r.changed]))
    plots.joins(fig, theme, np.stack([r.changed_p[0], np.arange(n)], 1), np.stack([r.changed_p[1], np.arange(n)], 1))
    kinds = ((2, "random direction", theme.null_line, "square", "■"), (0, "plain", theme.axis, "circle-open", "○"), (1, "steered", theme.run(run.label), "circle", "●"))
    for i, name, color, symbol, _ in kinds:
        fig.add_trace(go.Scatter(x=r.changed_p[i], y=np.arange(n), mode="markers", marker=dict(size=9, color=color, symbol=symbol), cliponaxis=False, customdata=[text[int(t)] for t in r.changed],
                                 hovertemplate=f"“%{{customdata}}” {name}: %{{x:.2%}}<extra></extra>"))
    plots.note(fig, theme, "  ".join(f'<span style="color:{c}">{m}</span> {name}' for _, name, c, _, m in kinds[1:] + kinds[:1]), 0.0, 1.0, color=theme.text, xanchor="left", yanchor="bottom", yshift=4)
    return fig
