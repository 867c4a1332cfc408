"""The order of B's units in which its weights lie nearest to A's: coordinate descent over linear assignment problems.

argmin_π ‖a − π(b)‖² = argmax_π Σ ⟨a, π(b)⟩: with the orders of all other spaces held, the best order of one space is a linear
assignment problem on G = Σ over the pieces that have the space of (A, that axis first) · (B, its other axes mapped)ᵀ. Heads are
solved in two levels (metrics.permutation.heads), rotations by Procrustes. float64. Ainsworth, Hayase & Srinivasa, “Git Re-Basin”, ICLR 2023,
section 3.2; the double sum over singular vectors of Ito, Yamada & Kumagai (ICLR 2025, theorem 4.1) is this same objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.permutation.heads import heads_gain, match_heads
from metrics.permutation.spec import Attention, Maps, Pieces, Spec, identity, move_piece, nearest_rotation
from models.progress import Quiet


@dataclass(frozen=True, eq=False)
class Matched:
    """Maps of B's spaces; `objective` is Σ ⟨a, π(b)⟩ over the matched pieces after each sweep, the identity first."""

    maps: Maps
    objective: tuple[float, ...]


def assign(gain: torch.Tensor) -> torch.Tensor:
    """The order [n] with the largest Σ gain[i, order[i]] (SciPy's Jonker–Volgenant)."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(gain.cpu().numpy(), maximize=True)[1].astype(np.int64))


def weight_matching(spec: Spec, a: Pieces, b: Pieces, *, start: Maps | None = None, fixed: frozenset[str] = frozenset(), sweeps: int = 100,
                    seed: int = 0, progress=None) -> Matched:
    """Maps that bring B nearest to A. Without `start` the first sweep grows outward from the fixed axes (inputs, vocabulary): each space is
    first matched on pieces whose other axes are known. Then all blocks in a fresh random order, until a sweep gains nothing.
    Spaces in `fixed` keep their start."""
    progress = progress or Quiet()
    rng = np.random.default_rng(seed)
    maps = dict(start or identity(spec))
    blocks = [block for block in spec.blocks if not (isinstance(block, str) and block in fixed)]
    objective = [total(spec, a, b, maps)]
    if start is None:
        maps |= _grown(spec, a, b, blocks, fixed)
    for sweep in range(sweeps):
        gained = False
        for i in rng.permutation(len(blocks)):
            progress.step(len(objective) - 1, sweeps, f"weight matching, sweep {sweep + 1}")
            found, new, old = best(spec, blocks[i], gains(spec, a, b, maps, blocks[i]), maps)
            if new > old + 1e-12 * max(1.0, abs(old)):
                maps |= found
                gained = True
        objective.append(total(spec, a, b, maps))
        if not gained:
            break
    return Matched(maps, tuple(objective))


def gains(spec: Spec, a: Pieces, b: Pieces, maps: Maps, block: str | Attention, known: frozenset[str] | None = None) -> dict[str, torch.Tensor]:
    """G [n, n] float64 of each space of a block, one pass over the pieces that have it; with `known` only pieces whose other spaces are in it."""
    spaces = block.spaces if isinstance(block, Attention) else (block,)
    out = {space: None for space in spaces}
    for name, axes in spec.axes.items():
        for axis, space in enumerate(axes):
            if space in out and (known is None or all(s is None or s in known for s in axes if s != space)):
                other = move_piece(spec, name, b[name].double(), maps, skip=space)
                part = _rows(a[name].double(), axis) @ _rows(other, axis).T
                out[space] = part if out[space] is None else out[space] + part
    return {space: torch.zeros(spec.sizes[space], spec.sizes[space], dtype=torch.float64) if g is None else g for space, g in out.items()}


def _rows(x: torch.Tensor, axis: int) -> torch.Tensor:
    return x.movedim(axis, 0).reshape(x.shape[axis], -1)


def best(spec: Spec, block: str | Attention, gain: dict[str, torch.Tensor], maps: Maps) -> tuple[Maps, float, float]:
    """(maps of the block's spaces that gain most, what they gain, what `maps` gain)."""
    if isinstance(block, Attention):
        found = match_heads(block, gain)
        return found, heads_gain(block, gain, found), heads_gain(block, gain, maps)
    g = gain[block]
    found = nearest_rotation(g, spec.rotates[block]) if block in spec.rotates else assign(g)
    return {block: found}, gained(g, found), gained(g, maps[block])


def gained(gain: torch.Tensor, m: torch.Tensor) -> float:
    if m.is_floating_point():
        return float((gain * m.to(gain.device)).sum())
    return float(gain[torch.arange(len(m), device=gain.device), m.to(gain.device)].sum())


def total(spec: Spec, a: Pieces, b: Pieces, maps: Maps) -> float:
    """Σ ⟨a, π(b)⟩ over all pieces with at least one movable axis."""
    return float(sum((a[name].double() * move_piece(spec, name, b[name].double(), maps)).sum() for name, axes in spec.axes.items() if any(axes)))


def _grown(spec: Spec, a: Pieces, b: Pieces, blocks: list, fixed: frozenset[str]) -> Maps:
    """First maps: again and again the block with the most known pieces, matched on those alone."""
    maps, known, waiting = identity(spec), set(fixed), list(blocks)
    own = lambda block: set(block.spaces) if isinstance(block, Attention) else {block}
    while waiting:
        def informed(block) -> int:
            """Numbers in pieces of this block whose other axes are known."""
            return sum(a[name].numel() for name, axes in spec.axes.items()
                       for s in axes if s in own(block) and len(axes) > 1 and all(t is None or t in known for t in axes if t != s))

        block = max(waiting, key=informed)
        maps |= best(spec, block, gains(spec, a, b, maps, block, frozenset(known)), maps)[0]
        known |= own(block)
        waiting.remove(block)
    return maps
