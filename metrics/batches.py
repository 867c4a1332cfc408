"""Sequences of like length run together, so that padding is not computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Batch:
    """`rows` [sequence] says which sequences; ids and keep [sequence, position] end where the longest of them does."""

    rows: torch.Tensor
    ids: torch.Tensor
    keep: torch.Tensor


def by_length(ids: torch.Tensor, keep: torch.Tensor, size: int) -> list[Batch]:
    """All sequences in batches of `size`, the shortest first; of equal length in their own order. Padding stands on the right."""
    lengths = ids.shape[1] - keep.flip(1).long().argmax(1)
    lengths[~keep.any(1)] = 1
    out = []
    for rows in torch.argsort(lengths, stable=True).split(size):
        longest = int(lengths[rows].max())
        out.append(Batch(rows, ids[rows, :longest], keep[rows, :longest]))
    return out
