"""The report's sections as read from the store, kept in this process until something of them changes."""

from __future__ import annotations

from functools import lru_cache

from analysis import report, run, sweep
from analysis.report import Asked, Section
from models.refusal import Refused


def read(asked: list[Asked]) -> list[Section]:
    return list(_read(tuple(asked), tuple(_state(r) for each in asked for r in each.requests)))


@lru_cache(maxsize=8)
def _read(asked: tuple[Asked, ...], states: tuple) -> tuple[Section, ...]:
    return tuple(report.read(list(asked)))


def _state(request: run.Request) -> tuple | str:
    """What the result is, or that there is none; another one makes another report."""
    try:
        entry = run.store().get(run.key(request))
    except Refused as error:
        return str(error)
    return "none" if entry is None else (entry.key, entry.record["computed"])


def missing(asked: list[Asked]) -> list[run.Request]:
    """What the report still has to compute."""
    requests = [r for each in asked for r in each.requests]
    return [r for r, outcome in zip(requests, sweep.outcomes(requests)) if outcome is None or outcome.state == "failed"]
