"""Codebooks of short vectors by weighted k-means: Σ weight · ‖vector − nearest entry‖² is lowered step by step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

CHUNK = 2**22  # distances held at once


@dataclass(frozen=True, eq=False)
class Codebook:
    """`entries` [k, v], k as asked for or fewer where there are fewer distinct vectors; `objective` float64 after the start and
    after each step, never rising."""

    entries: torch.Tensor
    objective: torch.Tensor


def nearest(vectors: torch.Tensor, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(index int64 [n] of the nearest entry, squared distance [n]) of vectors [n, v]; ties go to the lower index."""
    found, distances, squares = [], [], entries.square().sum(1)
    for part in vectors.split(max(1, CHUNK // len(entries))):
        index = torch.addmm(squares[None], part, entries.T, alpha=-2).argmin(1)
        found.append(index)
        distances.append((part - entries[index]).square().sum(1))
    return torch.cat(found), torch.cat(distances)


def codebook(vectors: torch.Tensor, weights: torch.Tensor, k: int, steps: int, generator: torch.Generator) -> Codebook:
    """At most k entries for vectors [n, v] with weights [n] ≥ 0: k-means++ start, then Lloyd's steps until nothing moves.

    An entry that nobody uses moves to the vector that costs most. With k at least the number of distinct vectors every vector is
    an entry and the objective is 0.
    """
    entries = _start(vectors, weights, k, generator)
    index, distance = nearest(vectors, entries)
    objective = [float((weights.double() * distance).sum())]
    for _ in range(steps):
        total = torch.zeros(len(entries), dtype=torch.float64).index_add_(0, index, weights.double())
        summed = torch.zeros(entries.shape, dtype=torch.float64).index_add_(0, index, vectors.double() * weights[:, None].double())
        moved = torch.where(total[:, None] > 0, summed / total[:, None].clamp(min=1e-300), entries.double()).to(entries)
        unused = (torch.bincount(index, minlength=len(entries)) == 0).nonzero()[:, 0]
        if len(unused):
            moved[unused] = vectors[(weights * distance).argsort(descending=True, stable=True)[: len(unused)]]
        index, distance = nearest(vectors, moved)
        now = float((weights.double() * distance).sum())
        if now >= objective[-1] * (1 - 1e-6):  # within rounding
            break
        entries = moved
        objective.append(now)
    return Codebook(entries, torch.tensor(objective, dtype=torch.float64))


def _start(vectors: torch.Tensor, weights: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++: each next entry is drawn by what it costs so far, weight · squared distance."""
    chosen = [int(torch.multinomial(weights.double(), 1, generator=generator))]
    across, each = vectors.T.contiguous(), weights.double()  # sums over few long rows, not over many short ones
    away = lambda i: (across - across[:, i : i + 1]).square_().sum(0).double() * each
    cost = away(chosen[0])
    while len(chosen) < k and float(cost.max()) > 0:
        running = cost.cumsum(0)  # a draw from any number of vectors; multinomial stops at 2²⁴
        at = torch.rand(1, generator=generator, dtype=torch.float64) * running[-1]
        chosen.append(int(torch.searchsorted(running, at, right=True).clamp(max=len(vectors) - 1)))
        cost = torch.minimum(cost, away(chosen[-1]))
    return vectors[chosen].clone()
