"""Binary codes of inputs: how many share one, what chance would give, how evenly bits are used, and the codes of random hyperplanes.

Packed codes are as kernels.sign_codes writes them: uint8 [code, bytes], whole 64-bit words.
"""

from __future__ import annotations

import math

import numpy as np

from kernels import hamming


def pack(bits: np.ndarray) -> np.ndarray:
    """uint8 [code, 8 ⌈bits / 64⌉] of bool [code, bit]; bit c is bit c % 8 of byte c // 8."""
    n, c = bits.shape
    out = np.zeros((n, 8 * math.ceil(c / 64)), np.uint8)
    packed = np.packbits(bits, axis=1, bitorder="little")
    out[:, : packed.shape[1]] = packed
    return out


def unpack(codes: np.ndarray, n_bits: int) -> np.ndarray:
    """bool [code, bit]."""
    return np.unpackbits(codes, axis=1, bitorder="little")[:, :n_bits].astype(bool)


def redundancy(codes: np.ndarray) -> float:
    """R = (n − number of different codes) / n: surplus copies, 0 where every input has a code of its own, 1 − 1/n where all share
    one (He et al., arXiv 2101.05490). It grows with n, so it is compared at equal n only; NaN without codes."""
    if not len(codes):
        return float("nan")
    return float((hamming.duplicates(codes) != np.arange(len(codes))).mean())


def expected_redundancy(bits: float, n: int) -> float:
    """R that n codes drawn evenly from 2^bits would have: 1 − (2^b / n)(1 − (1 − 2^−b)^n)."""
    if bits > 60:
        return (n - 1) / 2 ** (bits + 1)
    share = 2.0**-bits
    return 1 - (-math.expm1(n * math.log1p(-share)) if share < 1 else 1.0) / (share * n)


def effective_bits(r: float, n: int) -> float:
    """Bits b of a random hash with this R at this n; infinite where nothing is shared, NaN where R is no number."""
    if not r > 0:
        return math.inf if r == 0 else math.nan
    low, high = 0.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_redundancy(middle, n) > r else (low, middle)
    return (low + high) / 2


def bit_entropy(on_fraction: np.ndarray) -> np.ndarray:
    """Entropy of each bit, 0 (constant) to 1 (on for half of the inputs), in bits."""
    p = np.clip(np.asarray(on_fraction, np.float64), 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(-p * np.log2(p)) + np.nan_to_num(-(1 - p) * np.log2(1 - p))


def hyperplanes(x: np.ndarray, bits: int, seed: int, centre: np.ndarray) -> np.ndarray:
    """Packed codes of inputs [input, feature]: on which side of `bits` random hyperplanes through `centre` [feature] each lies.
    Two inputs differ in a bit with probability angle / π (Charikar 2002): the null of every code of as many bits."""
    planes = np.random.default_rng(seed).standard_normal((x.shape[1], bits)).astype(np.float32)
    return pack((x - centre).astype(np.float32) @ planes > 0)


def shared_groups(codes: np.ndarray) -> list[np.ndarray]:
    """Inputs that share a code, largest group first; groups of one are left out."""
    first = hamming.duplicates(codes)
    order = np.argsort(first, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(first[order])) + 1) if len(codes) else []
    return sorted((g for g in groups if len(g) > 1), key=lambda g: (-len(g), g[0]))


def pair_distances(codes: np.ndarray, labels: np.ndarray, n_pairs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hamming distances int64 [pair] of up to `n_pairs` pairs drawn within a class, and of as many drawn between classes."""
    generator = np.random.default_rng(seed)
    i, j = generator.integers(0, len(codes), (2, 20 * n_pairs + 200))
    same = labels[i] == labels[j]
    out = []
    for chosen in (same & (i != j), ~same):
        at = np.flatnonzero(chosen)[:n_pairs]
        out.append(distances(codes[i[at]], codes[j[at]]))
    return out[0], out[1]


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamming distance of each code of a to the same row of b, int64 [code]."""
    words = lambda c: np.ascontiguousarray(c).view("<u8")
    return np.bitwise_count(words(a) ^ words(b)).sum(1).astype(np.int64)
