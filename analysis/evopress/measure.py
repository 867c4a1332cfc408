"""The numbers: every unit at every level alone, the evolution, and its controls on text that it did not read."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from metrics.bootstrap import ratio_interval
from metrics.evolution import Evolved, evolve, random_assignment
from metrics.mixture import Mixture, require_matrix_by_matrix
from models.loaded import Model
from models.progress import Stage
from models.refusal import Refused
from models.shape import shape_of

SURVIVORS = ((4, 0.25), (2, 0.5))  # how many stay after which share of the text; the last comparison is on all of it
ADDITIVE = 60  # generations for the additive choice, which costs no model


@dataclass(frozen=True, eq=False)
class Result:
    """KL in nats per token; `3` is value, 95 % low and high over sequences. Units in the order of mixed_levels' assign.

    layer, name [unit] ("" for a block); levels; bits [unit, level]; single [unit, level] KL of that unit alone at that level
    found, additive [unit] level indices; fitness [generation + 1] best KL on the searched text, the uniform start first
    predicted, measured [assignment] of those compared on all searched text; control_predicted, control_measured [control] there too
    held: found, uniform, additive [3, 3]; control [control] held out
    """

    layer: np.ndarray
    name: np.ndarray
    levels: tuple
    target: int
    bits: np.ndarray
    single: np.ndarray
    found: np.ndarray
    additive: np.ndarray
    fitness: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray
    control_predicted: np.ndarray
    control_measured: np.ndarray
    held: np.ndarray
    control: np.ndarray
    random_assignments: np.ndarray
    budget: int
    step: str  # the found assignment as a step of a recipe
    blocks: tuple
    names: tuple
    n_tokens: int
    n_sequences: int
    n_held: int


def compute(captures, params, progress) -> Result:
    subject, *others = captures
    ids, keep = subject.ids, subject.keep
    if len(ids) < 4:
        raise Refused(f"The text has {len(ids)} sequences; the search needs at least 4, half of them held out.")
    with ExitStack() as models:
        model = models.enter_context(subject.model())
        donors = [models.enter_context(c.model()) for c in others]
        for donor in donors:
            require_matrix_by_matrix(model, donor)
        return _searched(model, donors, ids, keep, params, text_of(others), progress)


def text_of(others) -> str:
    """The calibration text that the levels were made on; empty where they read none."""
    return next((s for c in others if (v := getattr(c, "variant", None)) is not None and v.steps and (s := v.steps[-1].on)), "")


def units_of(model: Model, unit: str) -> list[tuple[tuple[int, str], ...]]:
    matrices = [(m.layer, m.name) for m in shape_of(model).matrices]
    if unit == "matrix":
        return [(m,) for m in matrices]
    return [tuple(m for m in matrices if m[0] == layer) for layer in sorted({layer for layer, _ in matrices})]


def _searched(model: Model, donors: list[Model], ids, keep, params, on: str, progress) -> Result:
    units, levels = units_of(model, params.unit), tuple(params.levels.split("/"))
    search, held = (Mixture(model, donors, units, ids[k::2], keep[k::2]) for k in (0, 1))
    bits, target = search.bits(), levels.index(params.target)
    start, n_batches = np.full(len(units), target), len(search.reference)
    uniform_bits = int(bits[:, target].sum())
    known: dict[tuple, float] = {}
    before = progress.saved()
    if before:
        known = {tuple(map(int, row)): float(x) for row, x in zip(before["assignments"], before["kl"])}

    def whole(assignment) -> float:
        key = tuple(int(x) for x in assignment)
        if key not in known:
            known[key] = search.mean(key)
            progress.save({"assignments": np.array(list(known), np.int64), "kl": np.array(list(known.values()))})
        return known[key]

    single = np.zeros(bits.shape)
    stage = Stage(progress, 0.0, 0.35)
    for u in range(len(units)):
        for k in range(len(levels)):
            stage.step(u * len(levels) + k, bits.size, f"unit {u + 1} of {len(units)} alone at {levels[k]}")
            single[u, k] = whole([k if v == u else -1 for v in range(len(units))])
    predict = lambda a: float(single[np.arange(len(units)), a].sum())
    own = Stage(progress, 0.35, 0.85)

    def fitness(assignment, share: float, generation: int) -> float:
        if share == 1.0:
            return whole(assignment)
        rng = np.random.default_rng([params.seed, generation, round(100 * share)])
        return search.mean(assignment, sorted(rng.choice(n_batches, max(1, round(share * n_batches)), replace=False).tolist()))

    def tell(generation: int, found: Evolved) -> None:
        own.step(generation, params.generations, f"generation {generation + 1} of {params.generations}", live={"best KL": found.fitness[-1]})

    done = evolve(start, bits, fitness, generations=params.generations, offspring=params.offspring, survivors=SURVIVORS, seed=params.seed, step=tell)
    sums = evolve(start, bits, lambda a, share, g: predict(a), generations=ADDITIVE, offspring=8, survivors=(), seed=params.seed)
    rng = np.random.default_rng([params.seed, 7])
    random = np.array([random_assignment(start, bits, rng, 3 * len(units)) for _ in range(params.controls)])
    last, control = Stage(progress, 0.85, 1.0), []
    for i, a in enumerate(random):
        last.step(i, len(random), f"random assignment {i + 1} of {len(random)}")
        control.append((whole(a), held.mean(a)))
    three = lambda a: np.array(ratio_interval(held.kl(a), held.counts, params.resamples, params.seed), np.float64)
    compared = [start, *done.assignments]
    control = np.array(control).reshape(-1, 2)
    written = ",".join(filter(None, [f"of={params.operator}", f"dial={params.dial}", f"levels={params.levels}", f"assign={'.'.join(map(str, done.best))}",
                                     f"more={params.more}" if params.more else "", f"on={on}" if on else ""]))
    return Result(
        np.array([unit[0][0] for unit in units]), np.array([unit[0][1] if params.unit == "matrix" else "" for unit in units]), levels, target, bits, single, done.best, sums.best,
        np.array(done.fitness), np.array([predict(a) for a in compared]), np.array([done.fitness[0], *done.measured]), np.array([predict(a) for a in random]), control[:, 0],
        np.stack([three(done.best), three(start), three(sums.best)]), control[:, 1], random, uniform_bits, f"mixed_levels:{written}", model.layers, model.layout.matrices(),
        int(keep.sum()), len(ids), len(held.ids),
    )
