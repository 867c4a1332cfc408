"""From the stored costs of many variants to points on the plane: one for each recipe, its calibration seeds taken together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.contract import Run
from metrics.pareto import front
from models.variant import Variant

MEASURES = ("mean KL", "p99 KL", "changed top-1", "perplexity")
UNITS = ("nats/token", "nats", "% of tokens", "× A’s")
COMBINED, HEALING = "combined", "heal"


@dataclass(frozen=True, eq=False)
class Point:
    """One recipe. `measures` [measure, 3]: value, low, high, in the order of MEASURES; `null` [measure] of noise of the same size, NaN
    where it was not measured. `seeds` written variants, one a calibration seed; `bytes_range` over them."""

    variant: Variant
    label: str
    family: str
    seeds: tuple[str, ...]
    n_bytes: float
    bytes_range: tuple[float, float]
    bytes_a: float
    bits_per_weight: float
    measures: np.ndarray
    null: np.ndarray
    n_tokens: int
    corpus: str
    subject: str  # A
    kl_sums: tuple[np.ndarray, ...]  # per seed: KL summed over each sequence [sequence]
    counts: np.ndarray  # tokens of each sequence

    @property
    def written(self) -> str:
        return self.seeds[0]

    @property
    def healed(self) -> bool:
        """Whether its recipe ends in a healing step."""
        return bool(self.variant.steps) and self.variant.steps[-1].operator == HEALING


def same_recipe(v: Variant) -> Variant:
    """The recipe without its calibration seeds: what makes two variants one point."""
    return replace(v, steps=tuple(replace(s, seed=0) for s in v.steps))


def points_of(measured: list[tuple[Variant, Run]], a: Variant, label) -> list[Point]:
    """`measured` are variants with their costs against `a`; `label(variant)` names a recipe."""
    groups: dict[Variant, list[tuple[Variant, Run]]] = {}
    for v, run in measured:
        groups.setdefault(same_recipe(v), []).append((v, run))
    return [_point(sorted(of, key=lambda pair: pair[0].steps[-1].seed if pair[0].steps else 0), a, label(recipe)) for recipe, of in groups.items()]


def _point(of: list[tuple[Variant, Run]], a: Variant, label: str) -> Point:
    results = [run.result for _, run in of]
    each = np.stack([_measures(r) for r in results])  # [seed, measure, 3]
    spread = np.stack([each[:, :, 0].mean(0), each[:, :, 0].min(0), each[:, :, 0].max(0)], 1) if len(of) > 1 else each[0]
    sizes = [r.bits_b / 8 for r in results]
    null = np.array([np.mean([r.noise_summary[0, 0] for r in results]), np.mean([r.noise_summary[3, 0] for r in results]), np.nan, np.nan])
    first = results[0]
    counts = np.bincount(first.sequence, minlength=len(first.strand)).astype(float)
    return Point(of[0][0], label, family_of(of[0][0], a), tuple(v.written for v, _ in of), float(np.mean(sizes)), (min(sizes), max(sizes)), first.bits_a / 8,
                 float(np.mean([r.bits_b for r in results])) / first.n_weights, spread, null, first.n_tokens, of[0][1].record["corpus"], a.written,
                 tuple(np.bincount(r.sequence, r.kl, len(r.strand)) for r in results), counts)


def _measures(r) -> np.ndarray:
    """[measure, 3] of one computed cost."""
    changed = 100 * (1 - r.agreement[0])
    return np.stack([r.kl_summary[0], r.kl_summary[3], changed[[0, 2, 1]], np.exp(r.nll_change[0])])


def unhealed(v: Variant) -> Variant:
    """The recipe without the healing steps at its end."""
    last = len(v.steps)
    while last and v.steps[last - 1].operator == HEALING:
        last -= 1
    return replace(v, steps=v.steps[:last])


def healings(points: list[Point]) -> list[tuple[Point, Point]]:
    """(before, after) of every recipe that is here with and without its healing."""
    before = {same_recipe(p.variant): p for p in points}
    pairs = [(before.get(same_recipe(unhealed(p.variant))), p) for p in points if p.healed]
    return [(q, p) for q, p in pairs if q is not None]


def family_of(v: Variant, a: Variant) -> str:
    """The operator of the steps that `v` adds to `a`, healing aside; "combined" where they are of several kinds."""
    kinds = {step.operator for step in unhealed(v).steps[len(a.steps):]} or {step.operator for step in v.steps[len(a.steps):]}
    return kinds.pop() if len(kinds) == 1 else COMBINED


def on_front(points: list[Point], measure: int = 0) -> list[Point]:
    """The points that nothing else beats, by rising size."""
    return [points[i] for i in front([p.n_bytes for p in points], [p.measures[measure, 0] for p in points])]
