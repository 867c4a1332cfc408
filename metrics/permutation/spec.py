"""Which axes of a network's weights may be reordered together, and reordering them.

A map of a space is an order, int64 [n]: after it, unit i is what unit order[i] was, W' = take(W, order, axis). Where a space may be
rotated (a residual stream whose norms are folded) a map may be an orthogonal float64 [n, n] O: W' = O W along that axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from models.refusal import Refused

Maps = dict[str, "torch.Tensor"]
Pieces = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Attention:
    """The four spaces of one attention layer; they move together. n_kv groups of `per_group` query heads each, d_head units in a head.

    Legal: groups in any order, query heads inside their group, the units of V inside a group (with the rows of the output
    matrix), and, only where `free_qk` (no rotary positions, which tie pairs of units to a frequency), the units of Q and K.
    """

    q: str
    k: str
    v: str
    z: str
    n_kv: int
    per_group: int
    d_head: int
    free_qk: bool

    @property
    def spaces(self) -> tuple[str, str, str, str]:
        return self.q, self.k, self.v, self.z

    def maps(self, groups: torch.Tensor, within: torch.Tensor, qk: torch.Tensor, v: torch.Tensor) -> Maps:
        """Orders of the four spaces from groups [n_kv], within [n_kv, per_group], qk and v [n_kv, d_head]; row g says where group g
        comes from: group groups[g], of it head within[g, i] as head i, of it unit v[g, u] as unit u."""
        r, d = self.per_group, self.d_head
        heads = (groups[:, None] * r + within)[:, :, None] * d
        wide = lambda units: (heads + units[:, None, :]).reshape(-1)
        narrow = lambda units: (groups[:, None] * d + units).reshape(-1)
        return {self.q: wide(qk), self.k: narrow(qk), self.v: narrow(v), self.z: wide(v)}


@dataclass(frozen=True)
class Spec:
    """`axes`: the space of each axis of each piece, None where it is fixed. `sizes`: units of each space. `rotates`: spaces that may
    be rotated, True where the rotation must leave the all-ones direction alone (LayerNorm subtracts the mean)."""

    axes: Mapping[str, tuple[str | None, ...]]
    sizes: Mapping[str, int]
    attention: tuple[Attention, ...] = ()
    rotates: Mapping[str, bool] = field(default_factory=dict)

    def __post_init__(self):
        for name, axes in self.axes.items():
            used = [s for s in axes if s is not None]
            if len(set(used)) < len(used):
                raise Refused(f"Both axes of {name} belong to one space; such a matrix cannot be matched one side at a time.")

    @property
    def plain(self) -> tuple[str, ...]:
        """Spaces that are matched alone."""
        bound = {s for a in self.attention for s in a.spaces}
        return tuple(s for s in self.sizes if s not in bound)

    @property
    def blocks(self) -> tuple[str | Attention, ...]:
        """What is matched at once: a plain space, or the heads of one attention layer."""
        return (*self.plain, *self.attention)


def identity(spec: Spec) -> Maps:
    return {space: torch.arange(n) for space, n in spec.sizes.items()}


def random_maps(spec: Spec, generator: torch.Generator, fixed: frozenset[str] = frozenset()) -> Maps:
    """Legal maps drawn uniformly; rotations from the Haar measure. Spaces in `fixed` stay as they are."""
    maps = identity(spec)
    shuffled = lambda rows, n: torch.stack([torch.randperm(n, generator=generator) for _ in range(rows)])
    for space in spec.plain:
        if space not in fixed:
            maps[space] = rotation(spec, space, generator) if space in spec.rotates else shuffled(1, spec.sizes[space])[0]
    for a in spec.attention:
        still = torch.arange(a.d_head).expand(a.n_kv, -1)
        qk = shuffled(a.n_kv, a.d_head) if a.free_qk else still
        maps |= a.maps(shuffled(1, a.n_kv)[0], shuffled(a.n_kv, a.per_group), qk, shuffled(a.n_kv, a.d_head))
    return maps


def rotation(spec: Spec, space: str, generator: torch.Generator) -> torch.Tensor:
    return nearest_rotation(torch.randn(spec.sizes[space], spec.sizes[space], generator=generator, dtype=torch.float64), spec.rotates[space])


def nearest_rotation(gain: torch.Tensor, keeps_mean: bool) -> torch.Tensor:
    """The orthogonal O [n, n] with the largest Σ O ∘ gain (Procrustes, by SVD); with `keeps_mean` among those with O·1 = 1."""
    if not keeps_mean:
        u, _, vt = torch.linalg.svd(gain)
        return u @ vt
    n = len(gain)
    ones = torch.full((n, 1), n**-0.5, dtype=gain.dtype, device=gain.device)
    basis = torch.linalg.qr(torch.cat([ones, torch.eye(n, n - 1, dtype=gain.dtype, device=gain.device)], 1)).Q[:, 1:]  # of what is orthogonal to 1
    u, _, vt = torch.linalg.svd(basis.T @ gain @ basis)
    return basis @ (u @ vt) @ basis.T + ones @ ones.T


def moved(x: torch.Tensor, where: torch.Tensor | None, axis: int) -> torch.Tensor:
    """x with one axis mapped; the same tensor where there is nothing to do."""
    if where is None:
        return x
    where = where.to(x.device)
    if where.is_floating_point():
        return torch.movedim(torch.tensordot(where.to(x.dtype), x, dims=([1], [axis])), 0, axis)
    return x.index_select(axis, where)


def apply(spec: Spec, pieces: Pieces, maps: Maps) -> dict[str, torch.Tensor]:
    """All pieces with all their axes mapped."""
    return {name: move_piece(spec, name, piece, maps) for name, piece in pieces.items()}


def move_piece(spec: Spec, name: str, piece: torch.Tensor, maps: Maps, skip: str | None = None) -> torch.Tensor:
    for axis, space in enumerate(spec.axes[name]):
        if space is not None and space != skip:
            piece = moved(piece, maps.get(space), axis)
    return piece


def inverse(maps: Maps) -> Maps:
    return {space: m.T if m.is_floating_point() else m.argsort() for space, m in maps.items()}


def compose(first: Maps, then: Maps) -> Maps:
    """The maps that do what `first` and after it `then` do."""
    def both(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        if not p.is_floating_point() and not q.is_floating_point():
            return p[q]
        return as_matrix(q) @ as_matrix(p)

    return {space: both(first[space], then[space]) for space in first}


def as_matrix(m: torch.Tensor) -> torch.Tensor:
    """P float64 [n, n] of a map: take(x, order) = P x."""
    return m if m.is_floating_point() else torch.eye(len(m), dtype=torch.float64)[m]


def agreement(p: Maps, q: Maps) -> dict[str, float]:
    """Share of units of each space that two maps send alike; for rotations the mean of the diagonal of PᵀQ, 1 when equal."""
    return {s: float((as_matrix(p[s]) * as_matrix(q[s])).sum() / len(p[s])) if p[s].is_floating_point() or q[s].is_floating_point()
            else float((p[s] == q[s]).double().mean()) for s in p}
