"""A matrix as a chain of small tensors, a matrix product operator: outputs and inputs split into factors, neighbours tied by a bond.

W [o₁…o_n, i₁…i_n] = Σ over bonds of Π_k core_k [bond, o_k, i_k, bond'], the outer bonds being 1.
"""

from __future__ import annotations

import torch

from metrics.solvers import oriented


def split(n: int, parts: int) -> tuple[int, ...]:
    """n as a product of so many factors, as equal as its divisors allow, ascending: 160 is 10·16 or 4·5·8."""
    if parts == 1:
        return (n,)
    root = n ** (1 / parts)
    first = min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: (abs(d - root), d))
    return tuple(sorted((first, *split(n // first, parts - 1))))


def site_sizes(n_out: int, n_in: int, cores: int) -> list[tuple[int, int]]:
    """(o_k, i_k) of each core: outputs ascending, inputs descending, so that no core is much larger than another."""
    return list(zip(split(n_out, cores), reversed(split(n_in, cores))))


def bonds(sizes: list[tuple[int, int]], most: int) -> list[int]:
    """The bonds between the cores: at most `most`, and never more than either side has numbers."""
    widths, found = [o * i for o, i in sizes], [1]
    for k in range(1, len(sizes)):
        right = 1
        for w in widths[k:]:
            right *= w
        found.append(min(most, found[-1] * widths[k - 1], right))
    return found[1:]


def n_numbers(sizes: list[tuple[int, int]], most: int) -> int:
    """Numbers in the cores of a chain with this bond dimension."""
    ends = [1, *bonds(sizes, most), 1]
    return sum(left * o * i * right for (o, i), left, right in zip(sizes, ends, ends[1:]))


def chain(weight: torch.Tensor, sizes: list[tuple[int, int]], most: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(cores [bond, o_k, i_k, bond'] float64, singular values at every cut before it was truncated) of W [out, in], cut from the left
    by singular values. ‖W − W'‖² is the sum of all squares cut off; with two cores no chain of that bond does better."""
    n = len(sizes)
    outs, ins = [o for o, _ in sizes], [i for _, i in sizes]
    pairs = [axis for k in range(n) for axis in (k, n + k)]
    rest, bond, cores, spectra = weight.double().reshape(*outs, *ins).permute(pairs), 1, [], []
    for (o, i), right in zip(sizes, bonds(sizes, most)):
        left, values, _ = torch.linalg.svd(rest.reshape(bond * o * i, -1), full_matrices=False)
        left = oriented(left[:, :right])
        rest = left.T @ rest.reshape(bond * o * i, -1)
        cores.append(left.reshape(bond, o, i, -1))
        spectra.append(values)
        bond = left.shape[1]
    return [*cores, rest.reshape(bond, *sizes[-1], 1)], spectra


def multiplied(cores: list[torch.Tensor]) -> torch.Tensor:
    """The matrix [out, in] that a chain stands for."""
    whole = cores[0][0]  # [out, in, bond]
    for core in cores[1:]:
        whole = torch.einsum("oib,bpjc->opijc", whole, core).reshape(whole.shape[0] * core.shape[1], whole.shape[1] * core.shape[2], -1)
    return whole[..., 0]
