"""The difference of two results, B − A, aligned on axis labels. The only place that subtracts: positive means B has more."""

from __future__ import annotations

import numpy as np

from models.refusal import Refused


def difference(a: np.ndarray, a_labels: tuple, b: np.ndarray, b_labels: tuple, axes: tuple[int, ...] = (0,)) -> tuple[np.ndarray, tuple]:
    """(B − A, labels both have in A's order), both arrays taken at the common labels along every axis in `axes`.

    A model without block 3 aligns on the blocks it has. No common label is an error, never a silent zip.
    """
    if len(set(a_labels)) < len(a_labels) or len(set(b_labels)) < len(b_labels):
        raise Refused("Axis labels repeat, so the two results cannot be aligned.")
    for values, labels in ((a, a_labels), (b, b_labels)):
        for axis in axes:
            if values.shape[axis] != len(labels):
                raise Refused(f"Axis {axis} has {values.shape[axis]} entries but {len(labels)} labels.")
    common = tuple(label for label in a_labels if label in set(b_labels))
    if not common:
        raise Refused(f"A and B have nothing in common to compare: A has {_some(a_labels)}, B has {_some(b_labels)}.")
    at_a, at_b = [a_labels.index(x) for x in common], [b_labels.index(x) for x in common]
    for axis in axes:
        a, b = np.take(a, at_a, axis), np.take(b, at_b, axis)
    return b - a, common


def on_labels(values: np.ndarray, labels: tuple, wanted: tuple, axes: tuple[int, ...] = (0,)) -> np.ndarray:
    """`values` laid out on `wanted` labels, NaN where a label is missing (drawn as an empty row or column)."""
    for axis in axes:
        shape = list(values.shape)
        shape[axis] = len(wanted)
        out = np.full(shape, np.nan)
        for i, label in enumerate(wanted):
            if label in labels:
                index = [slice(None)] * values.ndim
                index[axis] = i
                out[tuple(index)] = np.take(values, labels.index(label), axis)
        values = out
    return values


def _some(labels: tuple) -> str:
    return ", ".join(map(str, labels[:4])) + ("…" if len(labels) > 4 else "")
