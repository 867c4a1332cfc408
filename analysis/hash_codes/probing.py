"""What codes know: redundancy over bits, and labels read off them by nearest neighbours and least squares, beside every control."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from analysis.hash_codes.coding import Units, picked
from kernels import hamming
from metrics import codes
from metrics.bootstrap import ratio_interval
from metrics.code_probes import NEIGHBOURS, linear_predictions, neighbour_votes

BITS = (8, 12, 16, 24, 32, 64)
ALL = -1  # as a layer: the codes of all layers looked at, side by side
MOST_CLASSES = 20


def redundancy_rows(layer: int, source: str, per_token: np.ndarray, places: np.ndarray, groups: dict[str, np.ndarray], seed: int) -> list[dict]:
    """R of the first b of randomly ordered bits, for each group of rows (int64 indices into per_token)."""
    order = np.random.default_rng([seed, layer + 1]).permutation(places)
    rows = []
    for b in [*(b for b in BITS if b < len(places)), len(places)]:
        for name, at in groups.items():
            found = per_token[at]
            found = np.ascontiguousarray(found) if b == len(places) else picked(found, order[:b])
            r = codes.redundancy(found)
            rows.append(dict(layer=layer, source=source, bits=b, texts=name, n=len(at), r=r, effective_bits=codes.effective_bits(r, len(at))))
    return rows


def label_of(labels: dict[str, np.ndarray], wanted: str, sequences: np.ndarray) -> tuple[str, np.ndarray]:
    """(name, class int64 [sequence], −1 where it has none): the label asked for, else `strand`, else the first with 2 to 20 classes
    of at least four of the sequences; ("", all −1) where there is none."""
    none = np.full(max([int(sequences.max(initial=0)) + 1, *map(len, labels.values())]), -1)
    for name in [wanted] if wanted else sorted(labels, key=lambda n: n != "strand"):
        values = labels[name].astype(str)
        classes, counts = np.unique(values[np.unique(sequences)], return_counts=True)
        classes = classes[(counts >= 4) & (classes != "")]
        if 2 <= len(classes) <= MOST_CLASSES:
            at = np.searchsorted(classes, values).clip(max=len(classes) - 1)
            return name, np.where(classes[at] == values, at, -1)
    return "", none


def unusable(labels: dict[str, np.ndarray], wanted: str, sequences: np.ndarray) -> str:
    """Why `label_of` finds no classes in a label that was asked for: what was found, what is expected."""
    values, counts = np.unique(labels[wanted].astype(str)[np.unique(sequences)], return_counts=True)
    often = int(((counts >= 4) & (values != "")).sum())
    found = f"The label “{wanted[:40]}” has {(n := int((values != '').sum())):,} different value{'s' * (n != 1)} in this text, {often:,} of them on at least four of its {counts.sum():,} sequences"
    return f"{found}; probes need 2 to {MOST_CLASSES} such values. " + ("Read more sequences, or choose another label." if often < 2 else "Choose a label with fewer values.")


def halves(units: Units, classes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(units to learn from, units to be asked): whole sequences on one side, half of the sequences of every class on each."""
    learn = np.zeros(len(classes), bool)
    generator = np.random.default_rng(seed)
    for c in range(classes.max() + 1):
        of = generator.permutation(np.intersect1d(np.flatnonzero(classes == c), units.sequence))
        learn[of[: (len(of) + 1) // 2]] = True
    known = classes[units.sequence] >= 0
    return np.flatnonzero(known & learn[units.sequence]), np.flatnonzero(known & ~learn[units.sequence])


def probe_rows(layer: int, source: str, x: np.ndarray, units: Units, classes: np.ndarray, split: tuple, seed: int, n_bits: int | None) -> list[dict]:
    """Accuracy of both readers with its 95 % interval over sequences; x packed codes where n_bits says how many, else values."""
    learn, ask = split
    y, n_classes = classes[units.sequence], int(classes.max()) + 1
    if n_bits is None:
        a, b = x[learn], x[ask]
        near = np.concatenate([np.argsort((a * a).sum(1) / 2 - part @ a.T, axis=1, kind="stable")[:, :NEIGHBOURS] for part in np.array_split(b, max(len(b) // 512, 1))])
        values = x
    else:
        near, _ = hamming.nearest(np.ascontiguousarray(x[learn]), np.ascontiguousarray(x[ask]), NEIGHBOURS)
        values = codes.unpack(x, x.shape[1] * 8)
    said = {"k-NN": neighbour_votes(near, y[learn], n_classes), "linear": linear_predictions(values[learn].astype(np.float32), y[learn], values[ask].astype(np.float32), n_classes)}
    return [scored(layer, source, reader, answer == y[ask], units.sequence[ask], seed) for reader, answer in said.items()]


def scored(layer: int, source: str, reader: str, right: np.ndarray, sequence: np.ndarray, seed: int) -> dict:
    _, at = np.unique(sequence, return_inverse=True)
    mean, low, high = ratio_interval(np.bincount(at, right.astype(np.float64)), np.bincount(at), seed=seed)
    return dict(layer=layer, source=source, reader=reader, accuracy=float(mean), low=float(low), high=float(high), n=len(right))


def chance_rows(units: Units, classes: np.ndarray, split: tuple, seed: int) -> list[dict]:
    """Always the most frequent class of the learning half: what needs no code."""
    learn, ask = split
    y = classes[units.sequence]
    return [scored(ALL, "most frequent class", "", y[ask] == np.bincount(y[learn]).argmax(), units.sequence[ask], seed)]


def shuffled(classes: np.ndarray, seed: int) -> np.ndarray:
    """The labels dealt out anew among the sequences that have one."""
    out, at = classes.copy(), np.flatnonzero(classes >= 0)
    out[at] = np.random.default_rng(seed).permutation(classes[at])
    return out


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows) if rows else pa.table({"layer": pa.array([], pa.int64())})
