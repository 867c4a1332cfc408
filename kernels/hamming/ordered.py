"""The k best of a query, kept in order."""

from __future__ import annotations

from kernels.compiled import kernel


@kernel
def place(indices, distances, i, d):
    """Puts code i at distance d into one query's list [k], if it belongs there; among equals it comes last."""
    at = distances.size - 1
    if d >= distances[at]:
        return
    while at > 0 and distances[at - 1] > d:
        distances[at] = distances[at - 1]
        indices[at] = indices[at - 1]
        at -= 1
    distances[at] = d
    indices[at] = i
