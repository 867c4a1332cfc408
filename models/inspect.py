"""What is in a checkpoint, also one that no class can run: read from headers and, where asked, one tensor at a time.

Everything here returns plain data (Arrow tables, numpy arrays, tuples) and needs numpy alone. `parameters` reads headers
only; `statistics` streams each tensor in pieces of at most PIECE elements, so memory stays flat whatever the file's size.

    kurtosis         m4 / m2² − 3 (0 for a normal distribution)
    sparsity         share of elements that are exactly zero
    effective rank   exp(−Σ p log p), p = σ / Σσ (Roy & Vetterli 2007); between 1 and min(shape)
    stable rank      Σσ² / σ₁²
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from models import weights
from models.headers import TensorInfo
from models.inspect_names import block_of, part_of
from models.refusal import Refused, shown
from models.weights import Weights

PIECE = 4 << 20  # elements read at once
BINS = 64
CHEAP_SIDE = 1_024  # effective rank is computed up to this smaller side …
CHEAP_ELEMENTS = 16 << 20  # … and this many elements
_PLAIN = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}


def parameters(folder: Path) -> pa.Table:
    """One row per stored tensor: name, block, part, shape, dtype, elements, bytes, file. Headers only."""
    rows = list(weights.read(folder).tensors.values())
    return pa.table({
        "name": [t.name for t in rows],
        "block": pa.array([block_of(t.name) for t in rows], pa.int32()),
        "part": [part_of(t.name) for t in rows],
        "shape": [" × ".join(map(str, t.shape)) or "scalar" for t in rows],
        "dtype": [t.dtype for t in rows],
        "elements": pa.array([t.n_elements for t in rows], pa.int64()),
        "bytes": pa.array([t.n_bytes for t in rows], pa.int64()),
        "file": [t.file for t in rows],
    })


@dataclass(frozen=True)
class TensorStatistics:
    """Of the finite elements; `counts` has BINS bins between `low` and `high`. None where a dtype cannot be read."""

    name: str
    n_elements: int
    norm: float
    mean: float
    std: float
    largest: float
    sparsity: float
    kurtosis: float
    n_nan: int
    n_inf: int
    effective_rank: float | None
    low: float
    high: float
    counts: tuple[int, ...]


def statistics(folder: Path, progress=None) -> pa.Table:
    """One row per tensor as in TensorStatistics; `progress.step` is called for each."""
    table, rows = weights.read(folder), []
    for i, tensor in enumerate(table.tensors.values()):
        if progress is not None:
            progress.step(i, len(table.tensors), tensor.name)
        if readable(tensor):
            rows.append(of_tensor(folder, tensor))
    columns = TensorStatistics.__dataclass_fields__
    return pa.table({name: [getattr(row, name) for row in rows] for name in columns})


def of_tensor(folder: Path, tensor: TensorInfo) -> TensorStatistics:
    """Two passes over the tensor: range and counts, then central moments and histogram."""
    n_nan = n_inf = n_zero = n = 0
    total, low, high = 0.0, math.inf, -math.inf
    for piece in pieces(folder, tensor):
        finite = piece[np.isfinite(piece)]
        n_nan, n_inf = n_nan + int(np.isnan(piece).sum()), n_inf + int(np.isinf(piece).sum())
        if finite.size:
            n, n_zero, total = n + finite.size, n_zero + int((finite == 0).sum()), total + float(finite.sum(dtype=np.float64))
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if n == 0:
        nothing = math.nan
        return TensorStatistics(tensor.name, tensor.n_elements, nothing, nothing, nothing, nothing, nothing, nothing, n_nan, n_inf, None, 0.0, 0.0, (0,) * BINS)
    mean, counts = total / n, np.zeros(BINS, np.int64)
    second = fourth = squares = 0.0
    span = (low, high) if high > low else (low - 0.5, low + 0.5)
    for piece in pieces(folder, tensor):
        finite = piece[np.isfinite(piece)].astype(np.float64)
        counts += np.histogram(finite, BINS, span)[0]
        squares += float(finite @ finite)
        finite -= mean
        finite *= finite
        second, fourth = second + float(finite.sum()), fourth + float(finite @ finite)
    kurtosis = n * fourth / second**2 - 3 if second > 0 else math.nan
    rank = _effective(singular_values(folder, tensor)) if cheap(tensor) and n == tensor.n_elements else None
    return TensorStatistics(tensor.name, tensor.n_elements, math.sqrt(squares), mean, math.sqrt(second / n), max(-low, high), n_zero / n, kurtosis, n_nan, n_inf, rank, *span, tuple(counts.tolist()))


def readable(tensor: TensorInfo) -> bool:
    """Sub-byte formats are listed but not read."""
    return tensor.dtype in _PLAIN or tensor.dtype == "BF16" or tensor.dtype in ("F8_E4M3", "F8_E5M2")


def cheap(tensor: TensorInfo) -> bool:
    """True where all singular values cost well under a second."""
    return len(tensor.shape) == 2 and 1 < min(tensor.shape) <= CHEAP_SIDE and tensor.n_elements <= CHEAP_ELEMENTS


def pieces(folder: Path, tensor: TensorInfo, size: int = PIECE) -> Iterator[np.ndarray]:
    """The tensor's elements in order as flat float arrays (float32, or float64 for 64-bit dtypes) of at most `size`."""
    if not readable(tensor):
        raise Refused(f"{tensor.name} is stored as {tensor.dtype}, which is listed but not read.")
    width = tensor.n_bytes // tensor.n_elements if tensor.n_elements else 1
    with (folder / tensor.file).open("rb") as file:
        for start in range(0, tensor.n_elements, size):
            file.seek(tensor.begin + start * width)
            raw = file.read(min(size, tensor.n_elements - start) * width)
            yield _numbers(raw, tensor.dtype)


def values(folder: Path, tensor: TensorInfo) -> np.ndarray:
    """The whole tensor in its shape, as floats. For one tensor at a time."""
    parts = list(pieces(folder, tensor))
    return np.concatenate(parts).reshape(tensor.shape) if parts else np.zeros(tensor.shape, np.float32)


def _numbers(raw: bytes, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype.startswith("F8"):
        return _eight_bit(dtype)[np.frombuffer(raw, np.uint8)]
    array = np.frombuffer(raw, _PLAIN[dtype])
    return array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32)


def _eight_bit(dtype: str) -> np.ndarray:
    """The 256 values of E4M3 (finite but for 0x7F, 0xFF) or E5M2 (IEEE-like), as in the OCP 8-bit format (2023)."""
    codes = np.arange(256)
    mantissa_bits, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent, mantissa = (codes & 0x7F) >> mantissa_bits, codes & ((1 << mantissa_bits) - 1)
    fraction = mantissa / (1 << mantissa_bits)
    table = sign * np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    if dtype == "F8_E4M3":
        table[[0x7F, 0xFF]] = np.nan
    else:
        table[exponent == 31] = np.where(mantissa[exponent == 31] == 0, sign[exponent == 31] * np.inf, np.nan)
    return table.astype(np.float32)


def spectrum(folder: Path, name: str) -> tuple[np.ndarray, float, float]:
    """(singular values, largest first; effective rank; stable rank) of one matrix by name."""
    tensor = weights.read(folder).tensors.get(name)
    if tensor is None or len(tensor.shape) != 2 or min(tensor.shape) < 1:
        raise Refused(f"{shown(name, 80)} is not a matrix of this checkpoint; a spectrum needs one with two axes.")
    if min(tensor.shape) > 8 * CHEAP_SIDE:
        raise Refused(f"{name} is {tensor.shape[0]} × {tensor.shape[1]}: its spectrum would take hours here; at most {8 * CHEAP_SIDE} on the smaller side.")
    sigma = singular_values(folder, tensor)
    return sigma, _effective(sigma), float((sigma**2).sum() / sigma[0] ** 2) if sigma[0] > 0 else 0.0


def singular_values(folder: Path, tensor: TensorInfo) -> np.ndarray:
    """All singular values, largest first; in float64, because small ones decide the effective rank."""
    matrix = values(folder, tensor).astype(np.float64)
    if not np.isfinite(matrix).all():
        raise Refused(f"{tensor.name} holds NaN or infinity; it has no spectrum.")
    return np.linalg.svd(matrix, compute_uv=False)


def _effective(sigma: np.ndarray) -> float:
    total = sigma.sum()
    if not total > 0:
        return 0.0
    p = sigma[sigma > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def duplicates(folder: Path) -> tuple[tuple[str, ...], ...]:
    """Groups of names whose bytes are equal (tied or copied tensors of more than one element), largest first."""
    table = weights.read(folder)
    alike = defaultdict(list)
    for tensor in table.tensors.values():
        if tensor.n_elements > 1:
            alike[tensor.dtype, tensor.shape, _glance(folder, tensor)].append(tensor)
    groups = []
    for same in alike.values():
        while len(same) > 1:
            equal = [t for t in same if t is same[0] or _equal(folder, same[0], t)]
            if len(equal) > 1:
                groups.append(tuple(t.name for t in equal))
            same = [t for t in same if t not in equal]
    return tuple(sorted(groups, key=lambda g: -table.tensors[g[0]].n_bytes))


def _glance(folder: Path, tensor: TensorInfo) -> bytes:
    """64 bytes from the front, the middle and the end: tensors that differ nearly always differ here."""
    with (folder / tensor.file).open("rb") as file:
        parts = []
        for position in (tensor.begin, tensor.begin + tensor.n_bytes // 2, max(tensor.begin, tensor.end - 64)):
            file.seek(position)
            parts.append(file.read(min(64, tensor.end - position)))
    return b"".join(parts)


def _equal(folder: Path, a: TensorInfo, b: TensorInfo) -> bool:
    with (folder / a.file).open("rb") as one, (folder / b.file).open("rb") as other:
        one.seek(a.begin), other.seek(b.begin)
        left = a.n_bytes
        while left:
            n = min(left, 4 << 20)
            if one.read(n) != other.read(n):
                return False
            left -= n
    return True


def outline(folder: Path) -> pa.Table:
    """The architecture as stored: parameters and bytes per block and part, in the order blocks have (null block: outside)."""
    table: Weights = weights.read(folder)
    sums: dict[tuple, list[int]] = defaultdict(lambda: [0, 0, 0])
    for tensor in table.tensors.values():
        entry = sums[block_of(tensor.name), part_of(tensor.name)]
        entry[0], entry[1], entry[2] = entry[0] + 1, entry[1] + tensor.n_elements, entry[2] + tensor.n_bytes
    order = {"embedding": -2, "position": -1, "final norm": 10**9, "head": 10**9 + 1}
    keys = sorted(sums, key=lambda k: (k[0] if k[0] is not None else order.get(k[1], 10**9 + 2), k[1]))
    return pa.table({
        "block": pa.array([k[0] for k in keys], pa.int32()), "part": [k[1] for k in keys], "tensors": [sums[k][0] for k in keys],
        "elements": pa.array([sums[k][1] for k in keys], pa.int64()), "bytes": pa.array([sums[k][2] for k in keys], pa.int64()),
    })
