"""The best legal order of one attention layer's heads, from the gains of its four spaces.

Two levels: for each pair (group of A, group of B) the best order of heads inside the group and of units inside the heads; what that
gains is the entry of the outer assignment over groups. With one query head in a group the inner problem is exact; with several,
heads and units take turns until nothing is gained.
"""

from __future__ import annotations

import numpy as np
import torch

from metrics.permutation.spec import Attention, Maps


def match_heads(a: Attention, gain: dict[str, torch.Tensor]) -> Maps:
    """gain: float64 [n, n] of each of the four spaces; what is returned is legal."""
    value, inside = group_gains(a, gain)
    groups = _assign(value)
    within, qk, v = (torch.from_numpy(np.stack([inside[g, h][i] for g, h in enumerate(groups)])) for i in range(3))
    return a.maps(torch.from_numpy(groups), within, qk, v)


def group_gains(a: Attention, gain: dict[str, torch.Tensor]) -> tuple[np.ndarray, dict]:
    """[n_kv, n_kv] what each group of A gains with each of B at its best inner order, and that order by (g, h)."""
    parts = _parts(a, gain)
    n = a.n_kv
    value, inside = np.zeros((n, n)), {}
    for g in range(n):
        for h in range(n):
            value[g, h], inside[g, h] = _pair(a, *(part[g, :, :, h] if part.ndim == 6 else part[g, :, h] for part in parts))
    return value, inside


def heads_gain(a: Attention, gain: dict[str, torch.Tensor], maps: Maps) -> float:
    return float(sum(gain[s][torch.arange(len(maps[s])), maps[s]].sum() for s in a.spaces))


def _parts(a: Attention, gain: dict[str, torch.Tensor]) -> tuple[np.ndarray, ...]:
    """Q and Z as [group, head, unit, group, head, unit], K and V as [group, unit, group, unit]."""
    wide, narrow = (a.n_kv, a.per_group, a.d_head) * 2, (a.n_kv, a.d_head) * 2
    shapes = (wide, narrow, narrow, wide)
    return tuple(gain[s].cpu().numpy().reshape(shape) for s, shape in zip(a.spaces, shapes))


def _pair(a: Attention, q: np.ndarray, k: np.ndarray, v: np.ndarray, z: np.ndarray) -> tuple[float, tuple[np.ndarray, ...]]:
    """(gain, (within [per_group], qk [d_head], v [d_head])) of one group of A with one of B; q, z [head, unit, head, unit], k, v [unit, unit]."""
    r, still = a.per_group, np.arange(a.d_head)
    within = np.zeros(1, np.int64)
    if r > 1:  # each head pair's best units, with its share of K and V
        pairs = np.zeros((r, r))
        for i in range(r):
            for j in range(r):
                pairs[i, j] = _value(z[i, :, j] + v / r) + (_value(q[i, :, j] + k / r) if a.free_qk else np.trace(q[i, :, j]))
        within = _assign(pairs)
    best, found = -np.inf, None
    for _ in range(8):
        qk_gain = k + sum(q[i, :, j] for i, j in enumerate(within))
        v_gain = v + sum(z[i, :, j] for i, j in enumerate(within))
        qk, units = _assign(qk_gain) if a.free_qk else still, _assign(v_gain)
        value = float(qk_gain[still, qk].sum() + v_gain[still, units].sum())
        if value <= best + 1e-12 * max(1.0, abs(best)):
            break
        best, found = value, (within, qk, units)
        if r == 1:
            break
        within = _assign(q[:, still, :, qk].sum(0) + z[:, still, :, units].sum(0))
    return best, found


def _assign(gain: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(gain, maximize=True)[1].astype(np.int64)


def _value(gain: np.ndarray) -> float:
    return float(gain[np.arange(len(gain)), _assign(gain)].sum())
