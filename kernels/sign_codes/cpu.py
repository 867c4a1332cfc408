"""Sign codes on the CPU: 64 comparisons become one word; the counts come from the words, a 32nd of the data."""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels import tokens
from kernels.compiled import kernel
from kernels.sign_codes.reference import n_bytes


@intrinsic
def above(typingctx, row, offset, threshold):
    """uint64 whose bit j is row[offset + j] > threshold, j < 64; row float32, contiguous.

    Written as one vector comparison: LLVM turns <64 x i1> into a word by mask registers, or movmskps without them.
    """

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = cgutils.gep(builder, array.data, arguments[1])
        pointer = builder.bitcast(pointer, ir.VectorType(ir.FloatType(), 64).as_pointer())
        values = builder.load(pointer, align=4)
        level = ir.Constant(values.type, ir.Undefined)
        level = builder.insert_element(level, arguments[2], ir.Constant(ir.IntType(32), 0))
        level = builder.shuffle_vector(level, level, ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64))
        return builder.bitcast(builder.fcmp_ordered(">", values, level), ir.IntType(64))

    return types.uint64(row, types.intp, types.float32), generate


@kernel
def _pack(x, rows, threshold, codes):
    """x [n, c] float32; rows: kept indices; codes uint64 [n, words], kept rows are written whole."""
    n_channels = x.shape[1]
    words = n_channels // 64
    for i in rows:
        row, code = x[i], codes[i]
        for w in range(words):
            code[w] = above(row, w * 64, threshold)
        if words < code.size:
            rest = np.uint64(0)
            for c in range(words * 64, n_channels):
                if row[c] > threshold:
                    rest |= np.uint64(1) << np.uint64(c - words * 64)
            code[words] = rest


@kernel
def _count(codes, rows, planes, carry, counts):
    """Adds the on bits of the kept rows to counts int64 [c]; planes uint64 [p, word] all zero, 2^p > rows; carry [word] to work in.

    The 64 counters of a word are held as binary numbers standing upright, plane p holding bit p of each: adding a code is
    a carry that ripples up the planes.
    """
    n_planes = planes.shape[0]
    for i in rows:
        carry[:] = codes[i]
        for p in range(n_planes):
            plane = planes[p]
            for w in range(carry.size):
                over = plane[w] & carry[w]
                plane[w] ^= carry[w]
                carry[w] = over
    for p in range(n_planes):
        for c in range(counts.size):
            counts[c] += np.int64((planes[p, c // 64] >> np.uint64(c % 64)) & np.uint64(1)) << p


def sign_codes(x: torch.Tensor, keep: torch.Tensor | None, threshold: float) -> tuple[np.ndarray, torch.Tensor]:
    """As reference.sign_codes."""
    n_tokens, n_channels = x.shape
    codes = np.zeros((n_tokens, n_bytes(n_channels) // 8), np.uint64)

    def chunk(lo: int, hi: int) -> np.ndarray:
        counts, rows = np.zeros(n_channels, np.int64), tokens.kept_rows(keep, lo, hi)
        _pack(tokens.block(x, lo, hi), rows, np.float32(threshold), codes[lo:hi])
        words = codes.shape[1]
        planes, carry = np.zeros((len(rows).bit_length(), words), np.uint64), np.zeros(words, np.uint64)
        _count(codes[lo:hi], rows, planes, carry, counts)
        return counts

    counts = np.zeros(n_channels, np.int64)
    for part in tokens.over_chunks(chunk, n_tokens, n_channels):
        counts += part
    return codes.view(np.uint8), torch.from_numpy(counts)
