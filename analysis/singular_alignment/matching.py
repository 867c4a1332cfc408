"""A and B as pieces, and the order of B's units by each method."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metrics.permutation.activations import activation_matching
from metrics.permutation.differentiable import mean_loss
from metrics.permutation.matching import weight_matching
from metrics.permutation.methods import ACTIVATIONS, LEARNED, NONE, RANDOM, WEIGHTS
from metrics.permutation.mixture import Mixture
from metrics.permutation.sinkhorn import sinkhorn_matching
from metrics.permutation.spec import Maps, Spec, apply, identity, random_maps
from metrics.permutation.transformer import RESID, Symmetry, checked, folded, require_one_shape, symmetry_of, tied, untied
from models.loaded import Model
from models.progress import Stage

LEARN_BATCH = 4  # sequences of a learning step


@dataclass(frozen=True, eq=False)
class Pair:
    """Two models of one shape; ids, keep are the text that orders are fitted to. `a`, `b` are their pieces, with norms folded where the
    stream is rotated."""

    model_a: Model
    model_b: Model
    symmetry: Symmetry
    a: dict[str, torch.Tensor]
    b: dict[str, torch.Tensor]
    fixed: frozenset[str]
    ids: torch.Tensor
    keep: torch.Tensor

    @staticmethod
    def of(a: Model, b: Model, stream: str, ids: torch.Tensor, keep: torch.Tensor) -> Pair:
        if tied(a) != tied(b):  # a merge with a rotated stream has come apart from its embedding
            a, b = untied(a), untied(b)
        require_one_shape(a, b)
        if stream == "rotated":
            a, b = folded(a), folded(b)
        symmetry = checked(a, symmetry_of(a, rotate=stream == "rotated"))
        return Pair(a, b, symmetry, symmetry.pieces(a), symmetry.pieces(b), frozenset([RESID] if stream == "fixed" else []), ids, keep)

    @property
    def spec(self) -> Spec:
        return self.symmetry.spec

    def mixture(self, maps: Maps) -> Mixture:
        return Mixture(self.model_a, [self.symmetry.joined(self.a), self.symmetry.joined(apply(self.spec, self.b, maps))])

    def distance(self, maps: Maps | None) -> float:
        """‖a − π(b)‖² over all parameters."""
        b = self.b if maps is None else apply(self.spec, self.b, maps)
        return float(sum((self.a[name].double() - b[name].double()).square().sum() for name in self.a))


@dataclass(frozen=True, eq=False)
class Learned:
    """A learned order, as it is kept."""

    maps: dict[str, torch.Tensor]
    losses: tuple


def maps_by_method(pair: Pair, params, first, second, progress) -> tuple[dict[str, Maps], tuple[float, ...], Learned | None]:
    """(maps by method, the objective of weight matching by sweep, what was learned)."""
    found = weight_matching(pair.spec, pair.a, pair.b, fixed=pair.fixed, seed=params.seed, progress=Stage(progress, 0.0, 0.1))
    maps = {NONE: identity(pair.spec), WEIGHTS: found.maps,
            ACTIVATIONS: activation_matching(pair.model_a, pair.model_b, pair.symmetry, pair.ids, pair.keep, params.statistic, pair.fixed, Stage(progress, 0.1, 0.2))}
    learned = None
    if params.learn_steps:
        learned = _learned(pair, found.maps, params, first, second, Stage(progress, 0.2, 1.0))
        maps[LEARNED] = learned.maps
    maps[RANDOM] = random_maps(pair.spec, torch.Generator().manual_seed(params.seed), pair.fixed)
    return maps, found.objective, learned


def _learned(pair: Pair, start: Maps, params, first, second, progress) -> Learned:
    n = len(pair.ids)

    def loss(pieces: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        at = torch.arange(step * LEARN_BATCH, (step + 1) * LEARN_BATCH) % n
        return mean_loss(pair.model_a, pair.symmetry.joined(pieces), pair.ids[at], pair.keep[at])

    def make(inner) -> Learned:
        made = sinkhorn_matching(pair.spec, pair.a, pair.b, loss, start=start, fixed=pair.fixed, steps=params.learn_steps, seed=params.seed, progress=inner)
        return Learned(made.maps, made.losses)

    parameters = {name: getattr(params, name) for name in ("learn_steps", "stream", "fit", "seed")}
    return first.keep_plan("learned order", parameters, make, Learned, progress, beside=(second,))
