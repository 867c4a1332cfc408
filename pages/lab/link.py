"""What the lab's link says beside the subject: the recipe being built, and what a sweep compares.

`recipe` holds the steps that are put on top of A, as they are written in a variant; `sweep` operators joined by dots, `seeds` how many
calibration seeds, `after=true` that the recipe's steps come first. Everything else of the link is read as on any page.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

import operators
from models.refusal import Refused
from models.variant import Step
from models.variant import parse as grammar
from pages.shared import controls

OWN = ("recipe", "sweep", "seeds", "after", "heal")
MOST_SEEDS = 5


@dataclass(frozen=True)
class Recipe:
    """The steps as the link gives them, each readable by itself; `refused` says why they are no recipe, where they are none."""

    steps: tuple[Step, ...] = ()
    refused: Refused | None = None

    @property
    def written(self) -> str:
        return "~".join(step.written for step in self.steps)


def recipe(text: str | None) -> Recipe:
    """Steps whose names or values cannot be read at all are refused and the rest of the builder stays empty."""
    if not text:
        return Recipe()
    try:
        steps = grammar(f"demo/x~{text}").steps
        known = tuple(checked(step) for step in steps)
    except Refused as error:
        return Recipe((), error)
    return Recipe(known)


def checked(step: Step) -> Step:
    """The step with typed parameters that differ from the defaults; Refused where one cannot be read."""
    return operators.parse(f"demo/x~{step.written}").steps[0]


def write(steps: tuple[Step, ...] | list[Step]) -> None:
    controls.write_link("recipe", "~".join(step.written for step in steps) or None)


def seeds() -> int:
    text = st.query_params.get("seeds", "1")
    return min(max(int(text), 1), MOST_SEEDS) if text.isdigit() else 1
