"""Evolution of level assignments under an exact budget, after EvoPress (Sieberling et al. 2024).

A mutation raises one unit's level and lowers others until exactly as many bits are saved as were spent; min(U₁, U₂) of them make an
offspring, U uniform on 1…3. Offspring are copies of the parent, compared on growing samples; the parent joins the last, so the best never
gets worse on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

TRIES = 12


def switched(assignment: np.ndarray, bits: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The assignment [unit] after one level switch that keeps Σ bits[unit, level] as it is; None where none was found."""
    now = bits[np.arange(len(assignment)), assignment]
    raises = np.argwhere(bits > now[:, None])
    for _ in range(TRIES if len(raises) else 0):
        up, to = raises[rng.integers(len(raises))]
        owed, out = int(bits[up, to] - now[up]), assignment.copy()
        out[up] = to
        for u in rng.permutation(len(assignment)):
            saved = now[u] - bits[u]
            ways = np.flatnonzero((saved > 0) & (saved <= owed)) if u != up else ()
            if len(ways):
                out[u] = ways[rng.integers(len(ways))]
                owed -= int(saved[out[u]])
                if owed == 0:
                    return out
    return None


def offspring_of(parent: np.ndarray, bits: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A copy of the parent after min(U₁, U₂) level switches; None where there is no switch."""
    child = parent
    for _ in range(int(rng.integers(1, 4, 2).min())):
        child = switched(child, bits, rng)
        if child is None:
            return None
    return child


def random_assignment(start: np.ndarray, bits: np.ndarray, rng: np.random.Generator, switches: int) -> np.ndarray:
    """An assignment of the same budget after many switches from `start`."""
    now = start
    for _ in range(switches):
        now = found if (found := switched(now, bits, rng)) is not None else now
    return now


@dataclass
class Evolved:
    """Best assignment and its fitness after each generation, the start first; every assignment that was measured on the whole sample."""

    best: np.ndarray
    fitness: list[float] = field(default_factory=list)
    assignments: list[np.ndarray] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)


def evolve(start: np.ndarray, bits: np.ndarray, fitness: Callable[[np.ndarray, float, int], float], *, generations: int, offspring: int, survivors: tuple[tuple[int, float], ...],
           seed: int, step=lambda generation, found: None) -> Evolved:
    """fitness(assignment, share of the sample, generation) is to be made small; share 1 is the same sample in every generation.
    `survivors` are (how many stay, on which share) of the stages before the last."""
    rng = np.random.default_rng(seed)
    found = Evolved(start)
    found.fitness.append(fitness(start, 1.0, 0))
    for generation in range(generations):
        step(generation, found)
        children = {tuple(c): c for _ in range(offspring) if (c := offspring_of(found.best, bits, rng)) is not None}
        children.pop(tuple(found.best), None)
        pool = list(children.values())
        for n, share in survivors:
            if len(pool) > n:
                scores = [fitness(c, share, generation + 1) for c in pool]
                pool = [pool[i] for i in np.argsort(scores, kind="stable")[:n]]
        best = found.fitness[-1]
        for child in pool:
            now = fitness(child, 1.0, generation + 1)
            found.assignments.append(child)
            found.measured.append(now)
            if now < best:
                best, found.best = now, child
        found.fitness.append(best)
    return found
