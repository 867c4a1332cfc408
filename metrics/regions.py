"""Linear regions of a ReLU network along a line and on a plane, exactly: no sampling, every boundary is solved for.

A network is a list of affine layers (W [out, in], b [out]), ReLU after each but the last. On a region, the inputs of one code
(which units are above zero), it is one affine map; so layer by layer each piece of the line or plane is cut where a unit's
pre-activation, affine on the piece, is zero. With one hidden layer n hyperplanes in general position cut a line into n + 1
pieces at most, and a plane into 1 + n + n(n − 1)/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EPSILON = 1e-12  # of the largest pre-activation on a piece: what lies nearer to zero is on the boundary
Layers = list[tuple[np.ndarray, np.ndarray]]


def code(layers: Layers, x: np.ndarray) -> np.ndarray:
    """bool [input, units of all hidden layers] of inputs [input, feature]: pre-activation > 0."""
    bits, h = [], np.asarray(x, np.float64)
    for w, b in layers[:-1]:
        h = h @ w.T + b
        bits.append(h > 0)
        h = np.maximum(h, 0)
    return np.concatenate(bits, 1)


def output(layers: Layers, x: np.ndarray) -> np.ndarray:
    """Logits [input, class]."""
    h = np.asarray(x, np.float64)
    for w, b in layers[:-1]:
        h = np.maximum(h @ w.T + b, 0)
    return h @ layers[-1][0].T + layers[-1][1]


def along_line(layers: Layers, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Where the segment from `start` to `end` passes from one region to the next: float64 [crossing], sorted, in (0, 1). There is
    one region more than there are crossings."""
    cuts = np.array([0.0, 1.0])
    slope, offset = (np.asarray(end, np.float64) - start)[None], np.asarray(start, np.float64)[None]  # [piece, unit]: h = slope t + offset
    for w, b in layers[:-1]:
        slope, offset = slope @ w.T, offset @ w.T + b
        with np.errstate(divide="ignore", invalid="ignore"):
            zeros = np.where(slope != 0, -offset / slope, np.nan)
        lo, hi = cuts[:-1, None], cuts[1:, None]
        width = hi - lo
        inside = (zeros > lo + EPSILON * width) & (zeros < hi - EPSILON * width)
        new = np.unique(np.concatenate([cuts, zeros[inside]]))
        new = new[np.concatenate([[True], np.diff(new) > EPSILON])]
        new[-1] = 1.0
        middle = (new[:-1] + new[1:]) / 2
        piece = np.clip(np.searchsorted(cuts, middle) - 1, 0, len(cuts) - 2)
        slope, offset = slope[piece], offset[piece]
        on = slope * middle[:, None] + offset > 0
        slope, offset, cuts = slope * on, offset * on, new
    return cuts[1:-1]


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions on a plane: `polygons` of (u, v), float64 [corner, 2] each; `codes` bool [region, unit]; `edges` float64 [edge, 2, 2],
    the cuts as they were made, and the hidden layer and unit whose zero each is, int64 [edge, 2]."""

    polygons: list[np.ndarray]
    codes: np.ndarray
    edges: np.ndarray
    made_by: np.ndarray


def on_plane(layers: Layers, origin: np.ndarray, u: np.ndarray, v: np.ndarray, window: np.ndarray) -> Regions:
    """Regions of the inputs origin + a u + b v for (a, b) inside the convex polygon `window` [corner, 2]."""
    pieces = [([tuple(map(float, corner)) for corner in window], np.eye(2), np.zeros(2), np.zeros(0, bool))]
    edges, made_by = [], []
    for layer, (w, b) in enumerate(restricted(layers, origin, u, v)[:-1]):
        cut = []
        for corners, slope, offset, bits in pieces:
            slope, offset = w @ slope, w @ offset + b
            for part, signs in _cut(corners, slope, offset, layer, edges, made_by):
                cut.append((part, slope * signs[:, None], offset * signs, np.concatenate([bits, signs])))
        pieces = cut
    return Regions([np.array(corners) for corners, *_ in pieces], np.stack([bits for *_, bits in pieces]),
                   np.array(edges, np.float64).reshape(-1, 2, 2), np.array(made_by, np.int64).reshape(-1, 2))


def restricted(layers: Layers, origin: np.ndarray, u: np.ndarray, v: np.ndarray) -> Layers:
    """The same network as a function of (a, b), on the plane origin + a u + b v."""
    (w, b), *rest = layers
    return [(w @ np.stack([u, v], 1).astype(np.float64), w @ np.asarray(origin, np.float64) + b), *rest]


def _cut(corners, slope: np.ndarray, offset: np.ndarray, layer: int, edges: list, made_by: list) -> list:
    """(corners, signs bool [unit]) of the parts into which the units' zero lines cut one polygon."""
    at = np.array(corners) @ slope.T + offset  # [corner, unit]
    near = EPSILON * max(np.abs(at).max(), 1e-300)
    crossing = np.flatnonzero((at.min(0) < -near) & (at.max(0) > near))
    signs = at.max(0) > near
    parts = [(corners, {})]
    for unit in crossing.tolist():
        (a, b), c = slope[unit].tolist(), float(offset[unit])
        after = []
        for part, known in parts:
            values = [a * x + b * y + c for x, y in part]
            if min(values) >= -near:
                after.append((part, {**known, unit: True}))
            elif max(values) <= near:
                after.append((part, {**known, unit: False}))
            else:
                over, under, edge = _split(part, values, near)
                after += [(over, {**known, unit: True}), (under, {**known, unit: False})]
                edges.append(edge)
                made_by.append((layer, unit))
        parts = after
    out = []
    for part, known in parts:
        own = signs.copy()
        own[list(known)] = list(known.values())
        out.append((part, own))
    return out


def _split(part: list, values: list, near: float) -> tuple[list, list, list]:
    """The two sides of a polygon with corners of both signs, and the edge between them."""
    over, under, edge = [], [], []
    for i, (p, s) in enumerate(zip(part, values)):
        q, t = part[(i + 1) % len(part)], values[(i + 1) % len(part)]
        if abs(s) <= near:
            over.append(p), under.append(p), edge.append(p)
            continue
        (over if s > 0 else under).append(p)
        if abs(t) > near and (s > 0) != (t > 0):
            share = s / (s - t)
            crossing = (p[0] + share * (q[0] - p[0]), p[1] + share * (q[1] - p[1]))
            over.append(crossing), under.append(crossing), edge.append(crossing)
    return over, under, edge[:2]


def through(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(origin a, unit vectors u and v, corners [3, 2]) of the plane through three inputs: a at (0, 0), b on the first axis, in units
    of the inputs' own distance. Inputs on one line have no plane: v is then any direction across it, and corners lie on the axis."""
    a, b, c = (np.asarray(x, np.float64) for x in (a, b, c))
    u = b - a
    length = np.linalg.norm(u) or 1.0
    u = u / length
    along = float((c - a) @ u)
    across = c - a - along * u
    height = np.linalg.norm(across)
    if height < 1e-9 * max(length, 1.0):
        across, height = np.eye(len(a))[np.argmin(np.abs(u))] - u * u[np.argmin(np.abs(u))], 0.0
        return a, u, across / np.linalg.norm(across), np.array([[0, 0], [length, 0], [along, 0.0]])
    return a, u, across / height, np.array([[0, 0], [length, 0], [along, height]])
