"""How well matched units fit: the cosine between the weights of a unit of A and those of its partner in B."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.permutation.heads import group_gains
from metrics.permutation.matching import assign, gains
from metrics.permutation.spec import Attention, Maps, Pieces, Spec, random_maps


@dataclass(frozen=True, eq=False)
class Fit:
    """Of one space: `cosine` float32 [n, n] between all weights of A's unit i and B's unit j (B's other spaces mapped), `order` [n] the
    partner of each unit, `null` [n] cosines of a matching of A with B whose other spaces are in random order."""

    cosine: np.ndarray
    order: np.ndarray
    null: np.ndarray

    @property
    def matched(self) -> np.ndarray:
        return self.cosine[np.arange(len(self.order)), self.order]

    @property
    def runner_up(self) -> np.ndarray:
        """The largest cosine of each unit with any other than its partner."""
        others = self.cosine.copy()
        others[np.arange(len(self.order)), self.order] = -np.inf
        return others.max(1) if len(others) > 1 else np.full(len(others), np.nan)


def unit_fit(spec: Spec, a: Pieces, b: Pieces, maps: Maps, space: str, generator: torch.Generator) -> Fit:
    """The fit of a plain space at these maps."""
    cosine = cosines(spec, a, b, gains(spec, a, b, maps, space)[space], space)
    shuffled = random_maps(spec, generator) | {space: maps[space]}
    other = cosines(spec, a, b, gains(spec, a, b, shuffled, space)[space], space)
    order = assign(torch.from_numpy(other))
    return Fit(cosine.astype(np.float32), maps[space].cpu().numpy(), other[np.arange(len(order)), order])


def head_fit(spec: Spec, a: Pieces, b: Pieces, maps: Maps, attention: Attention) -> tuple[np.ndarray, np.ndarray]:
    """(cosine float32 [n_kv, n_kv] between all weights of each group of A and of B at their best inner order, partner [n_kv])."""
    value, _ = group_gains(attention, gains(spec, a, b, maps, attention))
    sizes = []
    for pieces in (a, b):
        squares = torch.zeros(attention.n_kv, dtype=torch.float64)
        for space, wide in zip(attention.spaces, (True, False, False, True)):
            per = attention.d_head * (attention.per_group if wide else 1)
            squares += _squares(spec, pieces, space).view(attention.n_kv, per).sum(1)
        sizes.append(squares.sqrt().numpy())
    return (value / np.maximum(np.outer(*sizes), 1e-300)).astype(np.float32), maps[attention.k].view(attention.n_kv, -1)[:, 0].numpy() // attention.d_head


def cosines(spec: Spec, a: Pieces, b: Pieces, gain: torch.Tensor, space: str) -> np.ndarray:
    """[n, n] float64: a space's gains over the sizes of its units."""
    sizes = [_squares(spec, pieces, space).sqrt().numpy() for pieces in (a, b)]
    return gain.cpu().numpy() / np.maximum(np.outer(*sizes), 1e-300)


def _squares(spec: Spec, pieces: Pieces, space: str) -> torch.Tensor:
    """Σ of squared weights of each unit of a space, float64 [n]."""
    total = torch.zeros(spec.sizes[space], dtype=torch.float64)
    for name, axes in spec.axes.items():
        for axis, own in enumerate(axes):
            if own == space:
                total += pieces[name].double().square().movedim(axis, 0).flatten(1).sum(1).cpu() if pieces[name].dim() > 1 else pieces[name].double().square().cpu()
    return total
