"""The plane of what was tried: the frontier card, made from stored costs."""

from __future__ import annotations

from functools import lru_cache

import streamlit as st

import analysis
import operators
from analysis import frontier, run
from analysis.contract import module_docs
from analysis.frontier import Point, recipes
from models.variant import Variant
from pages.lab import subject
from pages.lab.subject import Measured
from pages.shared import drawn, figure_card
from pages.shared.drawn import Drawn
from pages.shared.view import View

INSIDE = "sensitivity"


def points(view: View, a: Variant, tried: list[Variant]) -> list[Point]:
    """What of `tried` has been measured on this text."""
    return list(_points(a, tuple(found for v in dict.fromkeys(tried) if (found := subject.measured(view, a, v)) is not None)))


@lru_cache(maxsize=32)
def _points(a: Variant, measured: tuple[Measured, ...]) -> tuple[Point, ...]:
    return tuple(frontier.points_of([(m.variant, m.run) for m in measured], a, lambda v: recipes.label(a, v)))


@lru_cache(maxsize=32)
def _figures(found: tuple[Point, ...], chosen: str | None) -> tuple:
    return tuple(frontier.figures(list(found), tuple(operators.OPERATORS), chosen))


def inside(view: View, a: Variant, b: Variant) -> None:
    """Where B leaves A, once the page “Where did the compression hurt?” has measured it: two of its cards."""
    ask = run.request(INSIDE, (run.keep_recipe(a), run.keep_recipe(b)), None, {}, view.device)
    entry = run.store().get(run.key(ask))
    if entry is None:
        return
    there = drawn.draw((ask,), [entry])
    with st.grid(2, min_column_width=430, gap=18, border=True, key="cards_inside") as grid:
        for figure in there.figures:
            if figure.name in ("stream", "accumulated"):
                with grid.cell():
                    figure_card.draw(there, figure, module_docs(analysis.load(INSIDE)), INSIDE, False)


def draw(found: list[Point], chosen: str | None) -> None:
    nothing = Drawn(())
    with st.grid(2, min_column_width=430, gap=18, border=True, key="cards") as grid:
        for figure in _figures(tuple(found), chosen):
            with grid.cell(column_span="all" if figure.wide else 1):
                figure_card.draw(nothing, figure, module_docs(frontier), "compression", False)
