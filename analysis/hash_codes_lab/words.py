"""The answer on top and the headline numbers."""

from __future__ import annotations

import math

import numpy as np

from analysis.contract import Headline
from analysis.hash_codes_lab.tables import SUFFICIENT, Rows, regimes


def share(x: float) -> str:
    """A share or an accuracy, three places."""
    return "–" if not math.isfinite(x) else f"{x:.3f}"


def spread(low: float, high: float) -> str:
    return f"{share(low)}\u2060–\u2060{share(high)}"


def answer(runs) -> str:
    result = runs[0].result
    rows = Rows(result)
    width, bits = rows.focus, f"{rows.bits[rows.focus]:,} bits"
    r, knn = rows.curve("r_train", "width").at(width), rows.curve("knn", "width").at(width)
    planes = {m: rows.curve(m, "width", "hyperplanes").at(width) for m in ("r_train", "knn")}
    raw = rows.curve("knn", "samples", "raw").at(rows.total)[0]
    text = (f"At width {width} ({bits}) **R = {share(r[0])}** of {rows.total:,} training images ({spread(*r[1:])} over {runs[0].params.repeats} networks): that many have no code of "
            f"their own; as many random hyperplanes give {share(planes['r_train'][0])}. k-NN on the code alone is right for **{share(knn[0])}** of {result.n_test:,} test images, "
            f"on random hyperplanes {share(planes['knn'][0])}, on an untrained network {share(untrained(rows, 'knn')[0])}, on raw pixels {share(raw)}.")
    first = first_sufficient(rows, runs[0].params)
    return text + (f" From **width {first}** on codes are sufficiently expressive." if first else " No width tried is sufficiently expressive.")


def untrained(rows: Rows, measure: str, over: str = "width", x=None) -> tuple[float, float, float]:
    """(mean, low, high) of the same networks before the first update."""
    return rows.curve(measure, over, epoch=0).at(rows.focus if x is None else x)


def first_sufficient(rows: Rows, params) -> int | None:
    """The smallest width from which on every width is sufficiently expressive, at full size after the last epoch."""
    r, accuracy = (rows.map(m, "samples")[:, -1:] for m in ("r_train", "knn"))
    fits = regimes(r, accuracy, params)[:, 0] == SUFFICIENT
    run = [w for i, w in enumerate(rows.widths) if fits[i:].all()]
    return run[0] if run else None


def headlines(runs) -> tuple[Headline, ...]:
    rows, params = Rows(runs[0].result), runs[0].params
    r, knn, own = (rows.curve(m, "width").at(rows.focus) for m in ("r_train", "knn", "accuracy"))
    planes = {m: rows.curve(m, "width", "hyperplanes").at(rows.focus)[0] for m in ("r_train", "knn")}
    first = first_sufficient(rows, params)
    return (
        Headline(f"R, train, width {rows.focus}", round(r[0], 4), low=r[1], high=r[2], null=share(planes["r_train"]), note=f"n = {rows.total:,}; null: random hyperplanes"),
        Headline("k-NN on codes", round(knn[0], 4), low=knn[1], high=knn[2], null=share(planes["knn"]), better="high", note="test accuracy; null: random hyperplanes"),
        Headline("Network itself", round(own[0], 4), low=own[1], high=own[2], better="high", note="test accuracy"),
        Headline("Sufficient from width", str(first) if first else "none", note=f"of {rows.widths[0]} to {rows.widths[-1]}"),
    )


def lines(result, state: str, kind: str) -> tuple[float, float]:
    """(regions, Hamming distance), means over lines and repeats."""
    found = [r for r in result.lines.to_pylist() if (r["state"], r["kind"]) == (state, kind)]
    return (float(np.mean([r["regions"] for r in found])), float(np.mean([r["hamming"] for r in found]))) if found else (math.nan, math.nan)


