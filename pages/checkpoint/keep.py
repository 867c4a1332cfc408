"""What was made from a stored answer, kept in this process as long as the answer's key stands."""

from __future__ import annotations

KEPT = 32  # per maker; the oldest go first


def by_key(make):
    """Call `make(key, *rest)` once for each key and the texts and tuples among `rest`."""
    kept: dict[tuple, object] = {}

    def again(key: str, *rest):
        names = (key, *(r for r in rest if isinstance(r, (str, tuple))))
        if names not in kept:
            while len(kept) >= KEPT:
                kept.pop(next(iter(kept)), None)
            kept[names] = make(key, *rest)
        return kept[names]

    return again
