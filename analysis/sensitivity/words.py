"""The answer on top and the headline numbers, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.plots import interval, number


def nats(x: float) -> str:
    """A KL; what float32 logits cannot tell from zero is said so."""
    return number(x) if x >= 1e-6 else "less than 0.000001"


def has_control(r) -> bool:
    return bool(np.isfinite(r.part_noise[:, 0]).any())


def part(r, u: int) -> str:
    return f"{r.name[u]} of block {r.layer[u]}"


def worst(r) -> int | None:
    """The changed matrix that costs most alone; None where none is changed."""
    return int(np.argmax(np.where(r.changed, r.part_kl[:, 0], -1))) if r.changed.any() else None


def worst_block(r) -> int:
    return int(np.argmax(r.block_kl[:, 0]))


def half(r) -> int:
    """How many matrices, the costliest first, make half of the sum of isolated costs."""
    ranked = np.sort(r.part_kl[r.changed, 0])[::-1].clip(0)
    return int(np.searchsorted(np.cumsum(ranked), 0.5 * ranked.sum()) + 1) if ranked.sum() > 0 else 0


def above_noise(r) -> int:
    """Changed matrices that cost at least what noise of their size does."""
    return int((r.part_kl[r.changed, 0] >= r.part_noise[r.changed, 0]).sum())


def additive(r) -> float:
    """Sum of the blocks' isolated costs over what all of them cost together."""
    together = r.accumulated[-1, 0]
    return float(r.block_kl[:, 0].sum() / together) if together > 0 else float("nan")


def answer(runs) -> str:
    r = runs[0].result
    if r.whole[0] == 0:
        return f"B predicts **exactly what A does** on these {r.n_tokens:,} tokens, so no part of it hurt."
    u = worst(r)
    if u is None:
        return f"B costs {nats(r.whole[0])} nats per token, and no block matrix of it differs from A: the change lies in embeddings, norms, head or the forward alone."
    low, high = r.part_kl[u, 1:]
    text = [f"Alone, **{part(r, u)}** hurts most: {nats(r.part_kl[u, 0])} nats per token{f' (95 % interval {interval(low, high)})' if np.isfinite(low) and high >= 1e-6 else ''}"
            + (f"; noise of its size costs {nats(r.part_noise[u, 0])}." if has_control(r) else ".")]
    if half(r) < r.changed.sum():
        text.append(f"{half(r)} of {int(r.changed.sum())} changed matrices make half of what all cost one at a time.")
    share = additive(r)
    if np.isfinite(share):
        text.append(f"The blocks’ isolated costs add up to {number(share, 2)} times the {nats(r.accumulated[-1, 0])} nats that they cost together.")
    if r.outside[0] > 0:
        text.append(f"Embeddings, final norm and head alone cost {nats(r.outside[0])}.")
    return " ".join(text)


def headlines(runs) -> tuple[Headline, ...]:
    r = runs[0].result
    u = worst(r)
    if u is None:
        return (Headline("KL of the whole", float(r.whole[0]), "nats/token", *_ends(r.whole), better="low"),)
    null = f"{number(r.part_noise[u, 0], 2)} (noise)" if has_control(r) else ""
    block = worst_block(r)
    block_null = f"{number(r.block_noise[block, 0], 2)} (noise)" if has_control(r) else ""
    changed = int(r.changed.sum())
    out = [
        Headline("Costliest matrix alone", float(r.part_kl[u, 0]), "nats/token", *_ends(r.part_kl[u]), null, "low", f"{part(r, u)}; null: noise as large as its change"),
        Headline("Costliest block alone", float(r.block_kl[block, 0]), "nats/token", *_ends(r.block_kl[block]), block_null, "low", f"block {r.layers[block]}"),
        Headline("Isolated over together", additive(r), "×", note="1 would be additive"),
    ]
    if has_control(r):
        out.append(Headline("No better than noise", float(above_noise(r)), "matrices", better="low", note=f"of {changed} changed"))
    return tuple(out)


def _ends(three) -> tuple[float | None, float | None]:
    low, high = (float(x) for x in three[1:])
    return (low, high) if np.isfinite([low, high]).all() else (None, None)
