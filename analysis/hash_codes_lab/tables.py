"""Reading the rows of a Result: curves over one column with the range over repeats, and the regime of a cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from analysis.hash_codes_lab.grid import BASE_DECAY

UNDER, CRITICAL, SUFFICIENT = range(3)
REGIMES = ("under-expressive", "critically expressive", "sufficiently expressive")


@dataclass(frozen=True, eq=False)
class Curve:
    """Values of one measure over `x`: mean, lowest and highest over the repeats, float64 [x]."""

    x: list
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def at(self, x) -> tuple[float, float, float]:
        """(mean, low, high) at one x; NaN where it was not measured."""
        i = self.x.index(x) if x in self.x else None
        return (np.nan,) * 3 if i is None else (float(self.mean[i]), float(self.low[i]), float(self.high[i]))


class Rows:
    """The rows of `Result.cells`, with the axes they span."""

    def __init__(self, result):
        self.rows = result.cells.to_pylist()
        network = [r for r in self.rows if r["source"] == "network"]
        self.widths, self.samples, self.epochs = (sorted({r[k] for r in network}) for k in ("width", "samples", "epoch"))
        self.decays, self.noises = (sorted({r[k] for r in network}) for k in ("weight_decay", "wrong_labels_percent"))
        self.total, self.last, self.focus = self.samples[-1], self.epochs[-1], result.focus
        self.bits = {r["width"]: r["bits"] for r in network}

    def curve(self, measure: str, over: str, source: str = "network", **where) -> Curve:
        """Over one column; the others at full size, last epoch, base decay, no wrong labels, focus, unless `where` says else."""
        fixed = {"width": None if source == "raw" else self.focus, "samples": self.total, "weight_decay": BASE_DECAY, "wrong_labels_percent": 0,
                 "epoch": self.last if source == "network" else None, **where}
        fixed.pop(over, None)
        found: dict = {}
        for row in self.rows:
            if row["source"] == source and row[measure] is not None and all(row[k] == v for k, v in fixed.items()):
                found.setdefault(row[over], []).append(row[measure])
        x = sorted(found)
        of = lambda f: np.array([f(found[k]) for k in x], np.float64)
        return Curve(x, of(np.mean), of(min), of(max))

    def map(self, measure: str, across: str) -> np.ndarray:
        """Mean over repeats, [width, x]: x are the epochs at full size, or the samples at the last epoch."""
        xs = self.epochs if across == "epoch" else self.samples
        curves = [self.curve(measure, across, width=w) for w in self.widths]
        return np.array([[c.at(x)[0] for x in xs] for c in curves])


def regimes(r: np.ndarray, accuracy: np.ndarray, params) -> np.ndarray:
    """UNDER, CRITICAL or SUFFICIENT of each cell [width, x]; the best accuracy is that of the cell's column."""
    best = np.nanmax(accuracy, 0, keepdims=True)
    out = np.full(r.shape, CRITICAL)
    out[(r <= params.sufficient) & (accuracy >= params.plateau * best)] = SUFFICIENT
    out[r > params.under] = UNDER
    return out


def distances(result) -> pa.Table:
    """Pairs of test images at each Hamming distance."""
    names = ("untrained", "trained", "hyperplanes")
    n = result.pairs.shape[2]
    return pa.table({
        "code": [name for name in names for _ in range(2 * n)], "pair": [kind for _ in names for kind in ("one class", "two classes") for _ in range(n)],
        "distance_bits": list(range(n)) * 6, "pairs": result.pairs.reshape(-1),
    })


def bits(result) -> pa.Table:
    n = result.on_fraction.shape[1]
    return pa.table({"state": ["untrained"] * n + ["trained"] * n, "unit": list(range(n)) * 2, "on_fraction": result.on_fraction.reshape(-1)})
