"""What the parameters ask for: λ values, the schedule, the checkpoints along a run."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from metrics.mask_training import PAPER, Schedule
from models import shelf
from models.refusal import Refused
from models.variant import Variant, parse

SMALL = Schedule(steps=200, rows=2, rate=0.01, growth=round(1800 ** (1 / 200), 5), reattain=20)  # T ends at 1,800
PRESETS = {"small": SMALL, "paper": PAPER}
MOST = 12  # masks of one kind


def numbers(text: str) -> tuple[float, ...]:
    """λ values in ascending order, each once; Refused where one is not a number ≥ 0."""
    out = []
    for word in re.split(r"[\s,;]+", text.strip()):
        try:
            value = float(word) if word else None
        except ValueError:
            value = math.nan
        if value is not None and not 0 <= value < 1e12:
            raise Refused(f"“{word[:20]}” is not a λ; expected numbers from 0 up, separated by spaces, such as 0 10 100.")
        out += [value] if value is not None else []
    if len(set(out)) > MOST:
        raise Refused(f"{len(set(out))} values of λ are more than one run trains; give at most {MOST}.")
    return tuple(sorted(set(out)))


def schedule_of(params) -> Schedule:
    """The preset with whatever was set by hand."""
    given = {name: getattr(params, name) for name in ("steps", "rows", "rate", "growth") if getattr(params, name)}
    return replace(PRESETS[params.preset], **given, decay=params.decay, start=params.start, settled=params.settled, seed=params.seed)


def also(variant: Variant, params) -> tuple[Variant, ...]:
    """What is looked at besides the subject: the model before its compression, where it has steps; then the checkpoints along
    the run, in the order given."""
    before = (variant.root,) if variant.steps and not variant.parents else ()
    return (*before, *_checkpoints(variant, params.along.split()))


def _checkpoints(variant: Variant, words: list[str]) -> tuple[Variant, ...]:
    if words == ["run"]:
        words = [entry.source for entry in shelf.demo_models() if entry.source.startswith(f"{variant.base}-steps/")]
        if not words:
            raise Refused(f"No checkpoints along the run of {variant.base} are shipped; name them, or revisions of a hub model such as @step1000.")
    return tuple(replace(variant.root, revision=word[1:]) if word.startswith("@") else parse(word) for word in words)
