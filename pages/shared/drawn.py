"""What was drawn once from a stored result, kept in this process: reruns and other people's visits reuse it.

Keyed by the results' keys and the time they were computed, so "Run again" draws anew. Kept figures are read-only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import plotly.graph_objects as go

import analysis
from analysis import run
from analysis.contract import Figure, Headline, Run
from analysis.theme import THEMES, figure
from cache.fingerprint import code_identity
from models.refusal import NotApplicable


@dataclass(frozen=True, eq=False)
class Drawn:
    """Words and figure cards of one complete view; `refused` where the analysis cannot say anything about these models."""

    runs: tuple[Run, ...]
    answer: str = ""
    headlines: tuple[Headline, ...] = ()
    figures: tuple[Figure, ...] = ()
    refused: NotApplicable | None = None

    def plot(self, figure: Figure, view: str, theme: str) -> go.Figure:
        return _plot(figure.views[view], figure.height, theme)


def draw(requests: tuple[run.Request, ...], entries: list) -> Drawn:
    """From requests and their stored entries, in the same order."""
    return _draw(requests, tuple(Kept(entry) for entry in entries))


class Kept:
    """An entry that is equal to itself read again: same key, computed at the same time."""

    def __init__(self, entry):
        self.entry = entry
        self.same = (entry.key, entry.record["computed"])

    def __eq__(self, other) -> bool:
        return self.same == other.same

    def __hash__(self) -> int:
        return hash(self.same)


def warm() -> None:
    """What the first drawing in a process would have to import, build and read, done before anybody waits for it."""
    import pandas  # noqa: F401  pyarrow and streamlit fetch it with the first table
    import pyarrow.compute  # noqa: F401

    for theme in THEMES.values():
        figure(theme).add_trace(go.Heatmap(z=[[0.0]])).add_trace(go.Scatter(y=[0.0], error_y=dict(array=[0.0]))).add_shape(type="line").to_json()
    for name in analysis.ANALYSES:
        code_identity(analysis.load(name))


@lru_cache(maxsize=32)
def _draw(requests: tuple[run.Request, ...], kept: tuple[Kept, ...]) -> Drawn:
    module = analysis.load(requests[0].analysis)
    labels = "AB" if len(requests) > 1 else ("A → B",) if len(requests[0].variants) > 1 else "A"
    runs = [run.read(k.entry, request, label) for k, request, label in zip(kept, requests, labels)]
    try:
        return Drawn(tuple(runs), module.answer(runs), tuple(module.headlines(runs)), tuple(module.figures(runs)))
    except NotApplicable as error:
        return Drawn(tuple(runs), refused=error)


@lru_cache(maxsize=256)
def _plot(make, height: int, theme: str) -> go.Figure:
    """`make` is a figure's view: the same object as long as its Drawn is kept."""
    return make(THEMES[theme]).update_layout(height=height)
