"""Which of several choices nothing else beats."""

from __future__ import annotations

import numpy as np


def front(size: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Indices, by rising size, of the points that no other is both as small and as near (and better in one of the two).

    size, distance [point]; points with a missing value are on no front. Of equal points all are kept.
    """
    size, distance = np.asarray(size, np.float64), np.asarray(distance, np.float64)
    order = [i for i in np.lexsort((distance, size)) if np.isfinite(size[i]) and np.isfinite(distance[i])]
    kept: list[int] = []
    for i in order:
        last = kept[-1] if kept else None
        if last is None or distance[i] < distance[last] or (distance[i], size[i]) == (distance[last], size[last]):
            kept.append(int(i))
    return np.array(kept, np.int64)
