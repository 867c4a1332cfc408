"""Top tokens on the CPU: 64 channels at a time against their current k-th values; only those above are looked at one by one."""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels import tokens
from kernels.compiled import kernel


@intrinsic
def exceed(typingctx, row, floor, offset):
    """uint64 whose bit j is row[offset + j] > floor[offset + j], j < 64; both float32, contiguous."""

    def generate(context, builder, signature, arguments):
        vectors = []
        for kind, argument in zip(signature.args[:2], arguments[:2]):
            array = context.make_array(kind)(context, builder, argument)
            pointer = cgutils.gep(builder, array.data, arguments[2])
            vectors.append(builder.load(builder.bitcast(pointer, ir.VectorType(ir.FloatType(), 64).as_pointer()), align=4))
        return builder.bitcast(builder.fcmp_ordered(">", *vectors), ir.IntType(64))

    return types.uint64(row, floor, types.intp), generate


@kernel
def _insert(values, positions, floor, channel, value, position):
    """Put a value above the channel's floor into its sorted places; earlier tokens stand before equal later ones."""
    place = values.shape[1] - 1
    while place > 0 and values[channel, place - 1] < value:
        values[channel, place] = values[channel, place - 1]
        positions[channel, place] = positions[channel, place - 1]
        place -= 1
    values[channel, place] = value
    positions[channel, place] = position
    floor[channel] = values[channel, values.shape[1] - 1]


@kernel
def _scan(x, rows, first, values, positions, floor):
    """x [n, c] float32; rows: kept indices, ascending; first: position of row 0; values, positions [c, k]; floor [c]."""
    n_channels = x.shape[1]
    whole = n_channels - n_channels % 64
    for i in rows:
        row = x[i]
        for c0 in range(0, whole, 64):
            above = exceed(row, floor, c0)
            c = c0
            while above != 0:
                if above & np.uint64(1):
                    _insert(values, positions, floor, c, row[c], first + i)
                above >>= np.uint64(1)
                c += 1
        for c in range(whole, n_channels):
            if row[c] > floor[c]:
                _insert(values, positions, floor, c, row[c], first + i)


@kernel
def _scan_sparse(channels, x, rows, first, values, positions, floor):
    """channels, x [n, j]: only these channels of each token are there; a negative channel is an empty place."""
    for i in rows:
        for j in range(channels.shape[1]):
            c = channels[i, j]
            if c >= 0 and x[i, j] > floor[c]:
                _insert(values, positions, floor, c, x[i, j], first + i)


def top_k(x: torch.Tensor, keep: torch.Tensor | None, start: int, values: np.ndarray, positions: np.ndarray) -> None:
    """Updates values float32 and positions int64 [c, k] by tokens start, start + 1, …, later than all that are held."""
    floor = values[:, -1].copy()
    for lo, hi in tokens.spans(len(x)):
        _scan(tokens.block(x, lo, hi), tokens.kept_rows(keep, lo, hi), start + lo, values, positions, floor)


def top_k_sparse(channels, x, keep, start: int, values: np.ndarray, positions: np.ndarray) -> None:
    """The same for sparse codes: channels int32 and x float32 [n, j]."""
    rows = tokens.kept_rows(keep, 0, len(x))
    _scan_sparse(np.ascontiguousarray(channels), np.ascontiguousarray(x), rows, start, values, positions, values[:, -1].copy())
