"""Do the singular vectors of two networks' weights point the same way?

R(a, b) = Σ_l Σ_ij (u^a_li · P_l u^b_lj)(v^a_li · P_{l−1} v^b_lj) / Σ_l n_l: weight matching's objective with the singular values left out
(Ito, Yamada & Kumagai, ICLR 2025). It is the inner product of polar factors, ⟨U_a V_aᵀ, P U_b V_bᵀ P'ᵀ⟩: signs of vectors cancel, equal
singular values do no harm while all are kept, |R| ≤ 1, and 1 exactly where the polar factors are the same.

With γ only vectors with s ≥ γ · s_max of their own matrix count; the two networks may keep r_a and r_b of them, so n_l = √(r_a r_b). A cut
through nearly equal singular values is unstable. Vectors of singular value 0 (to rounding) never count: they are arbitrary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.permutation.matching import weight_matching
from metrics.permutation.spec import Maps, Pieces, Spec, moved

GAMMAS = np.round(np.arange(0, 1.0, 0.05), 2)  # where R is kept; 0 and 0.3 are the paper's


@dataclass(frozen=True, eq=False)
class Singular:
    """u [out, r], s [r] descending, v [in, r] of one piece; r leaves zero singular values out."""

    u: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor

    def kept(self, gamma: float) -> int:
        """How many vectors have s ≥ γ s_max."""
        return int((self.s >= gamma * self.s[:1]).sum()) if len(self.s) else 0


def singular(piece: torch.Tensor) -> Singular:
    u, s, vt = torch.linalg.svd(piece.double(), full_matrices=False)
    r = int((s > max(piece.shape) * torch.finfo(torch.float32).eps * s[:1]).sum())
    return Singular(u[:, :r].contiguous(), s[:r], vt[:r].T.contiguous())


def matched_names(spec: Spec) -> tuple[str, ...]:
    """The pieces that R is over: matrices with at least one movable side."""
    return tuple(name for name, axes in spec.axes.items() if len(axes) == 2 and any(axes))


def all_singular(spec: Spec, pieces: Pieces, step=lambda i, n: None) -> dict[str, Singular]:
    names = matched_names(spec)
    out = {}
    for i, name in enumerate(names):
        step(i, len(names))
        out[name] = singular(pieces[name])
    return out


def truncated(spec: Spec, vectors: dict[str, Singular], gamma: float, large: bool) -> dict[str, torch.Tensor]:
    """Every matrix rebuilt from its vectors with s ≥ γ s_max (`large`), or from the others alone; pieces of one axis are left out."""
    out = {}
    for name, x in vectors.items():
        k = x.kept(gamma)
        at = slice(None, k) if large else slice(k, None)
        out[name] = (x.u[:, at] * x.s[at]) @ x.v[:, at].T
    return out


def strangers(spec: Spec, pieces: Pieces, vectors: dict[str, Singular], generator: torch.Generator) -> Pieces:
    """Weights that have nothing but sizes in common with the ones given: each matrix with its own singular values and random singular vectors,
    what has one axis shuffled. What a search for an order finds between these is what it finds in anything."""
    random = lambda x: torch.linalg.qr(torch.randn(x.shape, generator=generator, dtype=x.dtype)).Q
    out = {}
    for name, piece in pieces.items():
        if (x := vectors.get(name)) is not None:
            out[name] = ((random(x.u) * x.s) @ random(x.v).T).to(piece.dtype)
        else:
            out[name] = piece[torch.randperm(len(piece), generator=generator)]
    return out


def searched(spec: Spec, a: Pieces, b: Pieces, va: dict[str, Singular], vb: dict[str, Singular], *, draws: int, seed: int,
             fixed: frozenset[str] = frozenset(), step=lambda i, n: None) -> list[Alignment]:
    """R of A with strangers to B, each in the order that weight matching finds for it: the null of an order that was searched for, which
    lies far above that of random orders."""
    out = []
    for i in range(draws):
        step(i, draws)
        other = strangers(spec, b, vb, torch.Generator().manual_seed(seed + 2000 + i))
        out.append(alignment(spec, va, all_singular(spec, other), weight_matching(spec, a, other, fixed=fixed, seed=seed).maps))
    return out


def overlap(spec: Spec, name: str, a: Singular, b: Singular, maps: Maps | None = None) -> torch.Tensor:
    """[r_a, r_b] the terms of R: (u^a_i · P u^b_j)(v^a_i · P' v^b_j)."""
    out, inner = spec.axes[name]
    maps = maps or {}
    u, v = moved(b.u, maps.get(out), 0), moved(b.v, maps.get(inner), 0)
    return (a.u.T @ u) * (a.v.T @ v)


@dataclass(frozen=True, eq=False)
class Alignment:
    """R by piece and γ: sums, ranks_a, ranks_b [piece, γ]. R of some pieces is Σ sums / Σ √(ranks_a ranks_b)."""

    sums: np.ndarray
    ranks_a: np.ndarray
    ranks_b: np.ndarray

    def each(self) -> np.ndarray:
        """R [piece, γ] of each matrix; NaN where nothing is kept."""
        return ratio(self.sums, self.ranks_a, self.ranks_b)

    def total(self) -> np.ndarray:
        """R [γ] over all matrices."""
        weight = np.sqrt(self.ranks_a * self.ranks_b).sum(0)
        return np.where(weight > 0, self.sums.sum(0) / np.maximum(weight, 1e-300), np.nan)


def ratio(sums: np.ndarray, ranks_a: np.ndarray, ranks_b: np.ndarray) -> np.ndarray:
    weight = np.sqrt(ranks_a * ranks_b)
    return np.where(weight > 0, sums / np.maximum(weight, 1e-300), np.nan)


def alignment(spec: Spec, a: dict[str, Singular], b: dict[str, Singular], maps: Maps | None = None, gammas: np.ndarray = GAMMAS) -> Alignment:
    """R of A and π(B) at every γ; without maps of A and B as they are."""
    rows = [_sums(overlap(spec, name, a[name], b[name], maps), a[name], b[name], gammas) for name in a]
    return Alignment(*(np.stack(part) for part in zip(*rows)))


def _sums(terms: torch.Tensor, a: Singular, b: Singular, gammas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums over the leading r_a × r_b terms at each γ, by one cumulative sum."""
    ra, rb = (np.array([x.kept(g) for g in gammas]) for x in (a, b))
    cumulated = torch.nn.functional.pad(terms.cumsum(0).cumsum(1), (1, 0, 1, 0)).cpu().numpy()
    return cumulated[ra, rb], ra, rb


class Along:
    """How much of its input lies along each vector: E over tokens of |v_i · x| / ‖x‖, for v [in, r]; a statistic for models.stream."""

    def __init__(self, v: torch.Tensor):
        self.v, self.total, self.n = v.float(), torch.zeros(v.shape[1], dtype=torch.float64), 0

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0) -> None:
        x = (x if keep is None else x[keep]).float()
        size = x.norm(dim=1).clamp(min=1e-30)
        self.total += ((x @ self.v.to(x.device)).abs() / size[:, None]).double().sum(0).cpu()
        self.n += len(x)

    def mean(self) -> np.ndarray:
        return (self.total / max(self.n, 1)).numpy()


def chance_along(n: int) -> float:
    """E|v · x| / ‖x‖ of a random direction in n dimensions: Γ(n/2) / (√π Γ((n+1)/2)), about √(2 / πn)."""
    from math import exp, lgamma, pi

    return exp(lgamma(n / 2) - lgamma((n + 1) / 2)) / pi**0.5
