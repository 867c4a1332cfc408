"""What operators hand back besides their Plan, and the refusals that several of them share."""

from __future__ import annotations

from dataclasses import dataclass

from metrics.grid import grid_bits
from metrics.sparsity import n_m, pattern_bits
from models.outline import Outline
from models.refusal import Refused
from models.shape import Matrix


@dataclass(frozen=True)
class Storage:
    """What the variant costs to keep, counted honestly: scales, indices and codebooks included.

    `bits` of the touched matrices, `weights` their number in the original; `faster` says whether common hardware runs the
    representation faster, `how` in what format the bits are counted.
    """

    bits: float
    weights: int
    faster: bool
    how: str

    @property
    def bits_per_weight(self) -> float:
        return self.bits / max(self.weights, 1)


def sparse_storage(bits: float, weights: int, pattern: str) -> Storage:
    """Storage of masked matrices."""
    if pattern == "2:4":
        return Storage(bits, weights, True, "2 of 4 values and two 2-bit positions; faster on GPUs with sparse tensor cores, not on a CPU")
    if pattern == "4:8":
        return Storage(bits, weights, False, "4 of 8 values and a 7-bit pattern; only smaller, no common hardware runs it faster")
    return Storage(bits, weights, False, "kept values and a bitmap of 1 bit a weight; only smaller, dense kernels run it at the old speed")


def foresee_mask(outline: Outline, matrices: tuple[Matrix, ...], sparsity: float, pattern: str) -> Outline:
    """What pruning at this share will store, whatever the ranking."""
    groups = n_m(pattern)
    share = sparsity if groups is None else 1 - groups[0] / groups[1]
    sizes = {m: m.n_out * m.n_in for m in matrices}
    bits = {m: pattern_bits(size * (1 - share), size, outline.value_bits(m), pattern) for m, size in sizes.items()}
    return outline.storing(bits, dict.fromkeys(matrices, share))


def foresee_grid(outline: Outline, matrices: tuple[Matrix, ...], bits: float, group: int, symmetric: bool, scale_bits: int) -> Outline:
    """What rounding to this grid will store."""
    dense = {m: grid_bits(m.n_out, m.n_in, bits, group, symmetric, scale_bits) for m in matrices}
    return outline.storing({m: outline.quantised(m, d, bits) for m, d in dense.items()})


def require_whole_groups(matrices: tuple[Matrix, ...], pattern: str) -> None:
    """Refuses an N:M pattern whose M does not divide a matrix's inputs."""
    if pattern == "unstructured":
        return
    m = int(pattern.partition(":")[2])
    for matrix in matrices:
        if matrix.n_in % m:
            raise Refused(f"Pattern {pattern} needs inputs in groups of {m}; {matrix.name} has {matrix.n_in}. Choose unstructured, or other matrices.")


def require_group_size(matrices: tuple[Matrix, ...], group: int) -> None:
    """Refuses a quantisation group that does not divide a matrix's inputs; 0 is the whole row."""
    for matrix in matrices:
        if group and matrix.n_in % group:
            fits = [g for g in (128, 64, 32, 16, 8) if all(m.n_in % g == 0 for m in matrices)]
            hint = f"{', '.join(map(str, fits))} or 0 (the whole row)" if fits else "0 (the whole row)"
            raise Refused(f"Groups of {group} do not divide the {matrix.n_in} inputs of {matrix.name}; here {hint} would.")


def quantised_storage(bits: float, weights: int) -> Storage:
    """Storage of matrices on integer grids."""
    return Storage(bits, weights, False, "integer codes, scales and zeros; smaller, and faster only where kernels unpack them on the fly (not here)")
