"""The answer on top: where B stands among what was tried."""

from __future__ import annotations

import numpy as np

from analysis.frontier.points import Point, on_front
from analysis.plots import interval, number


def megabytes(n: float) -> str:
    return f"{number(n / 1e6)} MB"


def nats(x: float) -> str:
    return number(x) if x >= 1e-6 else "less than 0.000001"


def answer(points: list[Point], chosen: str | None = None) -> str:
    """One or two sentences; of B where it is among the points, else of the smallest point near A."""
    b = next((p for p in points if chosen in p.seeds), None)
    return _of_b(points, b) if b else _of_all(points)


def _spread(p: Point) -> str:
    low, high = p.measures[0, 1:]
    if not np.isfinite([low, high]).all():
        return ""
    return f" ({f'range over {len(p.seeds)} calibration seeds' if len(p.seeds) > 1 else '95 % interval'} {interval(low, high)})"


def _null(p: Point) -> str:
    return f"; random noise of the same size costs {nats(p.null[0])}" if np.isfinite(p.null[0]) else ""


def _of_b(points: list[Point], b: Point) -> str:
    text = (f"At **{megabytes(b.n_bytes)} of {megabytes(b.bytes_a)}** B differs from A by **{nats(b.measures[0, 0])} nats per token**{_spread(b)} and keeps "
            f"{number(100 - b.measures[2, 0])} % of its likeliest tokens{_null(b)}.")
    better = [p for p in points if p is not b and p.n_bytes <= b.n_bytes and p.measures[0, 0] <= b.measures[0, 0]]
    if not better:
        return text + (" Nothing as small among what was tried is closer." if len(points) > 1 else "")
    best = min(better, key=lambda p: p.measures[0, 0])
    return f"{text} {best.label} is no larger ({megabytes(best.n_bytes)}) and closer: {nats(best.measures[0, 0])} nats."


def _of_all(points: list[Point]) -> str:
    front = on_front(points)
    if not front:
        return "Nothing has been measured on this text yet."
    ends = [front[0]] if len(front) == 1 else [front[-1], front[0]]
    parts = [f"**{p.label}** keeps {number(100 * p.n_bytes / p.bytes_a)} % of the bytes at {nats(p.measures[0, 0])} nats per token{_null(p)}" for p in ends]
    return f"Of {len(points)} recipes {len(front)} {'is' if len(front) == 1 else 'are'} beaten by no other. " + ". ".join(parts) + "."
