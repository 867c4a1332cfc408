"""Orders that papers report, looked for among the points: of two recipes that store as much, is the one that should be closer closer?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.frontier.points import Point
from metrics.bootstrap import ratio_interval
from models.variant import Variant

ALIKE = 0.01  # relative difference of stored sizes up to which two recipes count as equally small
EXPECTED = (  # (closer, farther): operators, or an operator with one parameter
    ("gptq", "round_to_nearest"), ("sparsegpt", "wanda"), ("wanda", "magnitude"), ("low_rank:metric=svd_llm", "low_rank:metric=asvd"), ("low_rank:metric=asvd", "low_rank:metric=svd"),
)


@dataclass(frozen=True)
class Order:
    """KL of `closer` minus KL of `farther`, nats per token: `difference` value, low, high over sequences and seeds; below 0 the order holds."""

    closer: str
    farther: str
    n_bytes: float
    difference: tuple[float, float, float]
    n: int  # pairs of sequences, seeds taken together

    @property
    def verdict(self) -> str:
        value, low, high = self.difference
        return "holds" if high <= 0 else "reversed" if low > 0 else "not shown"


def orders(points: list[Point], resamples: int = 1000) -> list[Order]:
    """Every expected pair that is there at one size, by rising size."""
    found = []
    for closer, farther in EXPECTED:
        for p in points:
            for q in points:
                if _is(p.variant, closer) and _is(q.variant, farther) and _like(p, q) and abs(p.n_bytes / q.n_bytes - 1) <= ALIKE:
                    found.append(_order(p, q, resamples))
    return sorted(found, key=lambda o: (o.closer.split()[0], o.farther.split()[0], o.n_bytes))


def _is(v: Variant, name: str) -> bool:
    operator, _, setting = name.partition(":")
    if v.steps[-1].operator != operator:
        return False
    key, _, value = setting.partition("=")
    return not setting or str(dict(v.steps[-1].params).get(key, DEFAULTS.get(key))) == value


DEFAULTS = {"metric": "svd_llm"}  # of the parameters named above; recipes write only what differs


def _like(p: Point, q: Point) -> bool:
    """The same steps before the last, and the last with the same settings but those that make the two methods."""
    apart = {name.partition(":")[2].partition("=")[0] for pair in EXPECTED for name in pair}
    shared = lambda v: {k: x for k, x in v.steps[-1].params if k in ("which", "pattern", "group", "symmetric", "allocation", "propagation") and k not in apart}
    return p.variant.steps[:-1] == q.variant.steps[:-1] and p is not q and shared(p.variant) == shared(q.variant)


def _order(p: Point, q: Point, resamples: int) -> Order:
    """Each seed of one against each of the other, on the same sequences."""
    pairs = [(a, b) for a in p.kl_sums for b in q.kl_sums]
    difference = np.concatenate([a - b for a, b in pairs])
    mean, low, high = ratio_interval(difference[None], np.tile(p.counts, len(pairs)), resamples)
    return Order(p.label, q.label, p.n_bytes, (float(mean[0]), float(low[0]), float(high[0])), len(difference))
