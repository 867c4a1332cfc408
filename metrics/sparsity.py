"""Which weights to keep: exact counts, N:M patterns, packed masks. True means kept; ties go to the lower index.

Scores are [out, in]: rows are outputs, patterns run along the inputs.
"""

from __future__ import annotations

import numpy as np
import torch

PATTERNS = ("unstructured", "2:4", "4:8")


def n_m(pattern: str) -> tuple[int, int] | None:
    """(n kept, of m consecutive inputs); None where the pattern is unstructured."""
    if pattern == "unstructured":
        return None
    n, m = pattern.split(":")
    return int(n), int(m)


def zeros_of(sparsity: float, size: int) -> int:
    """How many of `size` weights are zeroed: the share, rounded down, exact where the product is a whole number."""
    return min(size, int(sparsity * size + 1e-6))


def keep_per_row(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """bool [out, in]: in every row exactly zeros_of(sparsity, in) lowest scores are False."""
    zeros = zeros_of(sparsity, scores.shape[1])
    if zeros == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    cut = _nth_lowest(scores, zeros)
    kept = scores > cut
    if int(kept.sum()) == scores.shape[0] * (scores.shape[1] - zeros):  # nothing ties with the cut
        return kept
    ties = scores == cut
    room = zeros - (~kept & ~ties).sum(1, keepdim=True)  # of the ties at the cut, so many go, the first ones
    if bool((ties.sum(1, keepdim=True) > room).any()):
        return kept | (ties & (ties.cumsum(1) > room))
    return kept


def _nth_lowest(scores: torch.Tensor, n: int) -> torch.Tensor:
    """The n-th lowest of every row, [out, 1]: a selection costs a fraction of a sort, and NumPy's a seventh of torch's."""
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.partition(scores.detach().numpy(), n - 1, axis=1)[:, n - 1 : n].copy())
    return scores.kthvalue(n, dim=1, keepdim=True).values


def keep_in_all(scores: list[torch.Tensor], sparsity: float) -> list[torch.Tensor]:
    """One ranking over all the given matrices: exactly zeros_of(sparsity, all weights) lowest scores are False."""
    flat = torch.cat([s.reshape(-1) for s in scores])
    kept = keep_per_row(flat[None], sparsity)[0]
    return [part.view_as(s) for part, s in zip(kept.split([s.numel() for s in scores]), scores)]


def keep_n_of_m(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """bool [out, in]: the n highest scores of every m consecutive inputs are True; m divides in."""
    groups = scores.reshape(scores.shape[0], -1, m)
    order = groups.argsort(dim=2, stable=True)
    kept = torch.ones_like(groups, dtype=torch.bool).scatter_(2, order[:, :, : m - n], False)
    return kept.reshape(scores.shape)


def keep_by(scores: torch.Tensor, sparsity: float, pattern: str) -> torch.Tensor:
    """bool [out, in]: the pattern's mask, compared within each row."""
    groups = n_m(pattern)
    return keep_per_row(scores, sparsity) if groups is None else keep_n_of_m(scores, *groups)


def pack(kept: torch.Tensor) -> torch.Tensor:
    """bool [out, in] as uint8 [out, ceil(in/8)], first input in the lowest bit."""
    padded = torch.nn.functional.pad(kept, (0, -kept.shape[1] % 8)).view(kept.shape[0], -1, 8)
    bits = 2 ** torch.arange(8, dtype=torch.uint8, device=kept.device)
    return (padded * bits).sum(2, dtype=torch.uint8)


def unpack(packed: torch.Tensor, n_in: int) -> torch.Tensor:
    """The mask bool [out, n_in] that was packed."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[:, :, None] >> shifts) & 1).bool().view(packed.shape[0], -1)[:, :n_in]


def mask_bits(kept: torch.Tensor, value_bits: float, pattern: str) -> float:
    """Bits that a masked matrix takes; see `pattern_bits`."""
    return pattern_bits(float(kept.sum()), kept.numel(), value_bits, pattern)


def pattern_bits(kept: float, size: int, value_bits: float, pattern: str) -> float:
    """Bits of `size` weights of which `kept` stay: the kept values, and a bitmap or, for N:M, the positions within each group.

    2:4 in the format of sparse tensor cores is two 2-bit positions per group; 4:8 is coded as one of 70 patterns, 7 bits.
    """
    groups = n_m(pattern)
    if groups is None:
        return kept * value_bits + size
    n, m = groups
    position_bits = {(2, 4): 4, (4, 8): 7}[groups]
    return size / m * (n * value_bits + position_bits)
