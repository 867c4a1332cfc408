"""Three and more networks: everyone matched to everyone's mean, or all to the first; and whether pairwise orders fit together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.permutation.matching import weight_matching
from metrics.permutation.spec import Attention, Maps, Pieces, Spec, agreement, apply, compose, identity
from models.progress import Quiet


@dataclass(frozen=True, eq=False)
class Many:
    """Maps of each network, and Σ ‖network − mean of the others‖² after each round, before the first at the front."""

    maps: list[Maps]
    distance: tuple[float, ...]


def merge_many(spec: Spec, networks: list[Pieces], *, fixed: frozenset[str] = frozenset(), rounds: int = 50, seed: int = 0, progress=None) -> Many:
    """Git Re-Basin's MergeMany (ICLR 2023, algorithm 3): in random order each network is matched to the mean of the others, until no
    distance falls. No network is the anchor, so the result is one up to a common order."""
    progress, rng = progress or Quiet(), np.random.default_rng(seed)
    maps = [identity(spec) for _ in networks]
    moved = [dict(n) for n in networks]
    distance = [_spread(moved)]
    for done in range(rounds):
        for i in rng.permutation(len(networks)):
            progress.step(done, rounds, f"MergeMany, round {done + 1}")
            rest = _mean([m for j, m in enumerate(moved) if j != i])
            found = weight_matching(spec, rest, networks[i], start=maps[i] if done else None, fixed=fixed, seed=seed + done)
            after = apply(spec, networks[i], found.maps)
            if _distance(rest, after) < _distance(rest, moved[i]) * (1 - 1e-12):
                maps[i], moved[i] = found.maps, after
        distance.append(_spread(moved))
        if distance[-1] >= distance[-2] * (1 - 1e-12):
            break
    return Many(maps, tuple(distance))


def cycle_error(spec: Spec, to_a: Maps, to_b: Maps, direct: Maps) -> dict[str, float]:
    """Share of units that B's order of C (`to_b`) and A's order of B (`to_a`), one after the other, send elsewhere than A's own order of C
    (`direct`): by kind of space, "resid", "mlp", "heads" (whole groups). 0 is consistent; two random orders of n units give 1 − 1/n."""
    share = agreement(compose(to_b, to_a), direct)
    heads = [_groups_agree(a, compose(to_b, to_a), direct) for a in spec.attention]
    kinds = {"mlp": [share[s] for s in spec.plain if s.startswith("mlp")], "heads": heads, "resid": [share["resid"]] if "resid" in share else []}
    return {kind: 1 - float(np.mean(v)) for kind, v in kinds.items() if v}


def _groups_agree(a: Attention, p: Maps, q: Maps) -> float:
    first = lambda m: m[a.k].view(a.n_kv, -1)[:, 0] // a.d_head
    return float((first(p) == first(q)).double().mean())


def simplex(n: int) -> np.ndarray:
    """All weights [(n+1)(n+2)/2, 3] that are multiples of 1/n and sum to 1."""
    return np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)], np.float64) / n


def _mean(networks: list[Pieces]) -> dict[str, torch.Tensor]:
    return {name: sum(n[name].double() for n in networks) / len(networks) for name in networks[0]}


def _distance(a: Pieces, b: Pieces) -> float:
    return float(sum((a[name].double() - b[name].double()).square().sum() for name in a))


def _spread(moved: list[Pieces]) -> float:
    return sum(_distance(_mean([m for j, m in enumerate(moved) if j != i]), m_i) for i, m_i in enumerate(moved))
