"""Many queries at once: codes are turned on their side, so that one vector holds the same bit of 256 codes, and distances are
counted upright, a vector for every binary digit.

Bits are taken three at a time. For each of the eight patterns a query can have there, the number of differing bits (0 to 3, two
digits) is worked out once for all queries; a query then adds up the numbers of its own patterns with full adders, five
instructions for 256 codes, where xor and population count would take six a bit. Numbers are added a BODY of groups at a time.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.compiled import kernel
from kernels.hamming.ordered import place

LANES = 4  # words of a vector: the same bit of 4 × 64 codes
BLOCK = 64 * LANES
BODY = 24  # groups of three bits added in one go: 0 … 72
DIGITS = 7  # what is carried out of these many digits of the sum, after a body, is one vector
ENTRY = 8 * 2 * LANES  # words of the table for one group: patterns × digits

VECTOR = ir.VectorType(ir.IntType(64), LANES)
HALVES = np.array([0x00000000FFFFFFFF, 0x0000FFFF0000FFFF, 0x00FF00FF00FF00FF, 0x0F0F0F0F0F0F0F0F, 0x3333333333333333, 0x5555555555555555], np.uint64)


class _Words:
    """Vectors of an array of uint64 inside an intrinsic."""

    def __init__(self, context, builder, kind, array):
        self.builder, self.data = builder, context.make_array(kind)(context, builder, array).data

    def place(self, index):
        return self.builder.bitcast(cgutils.gep(self.builder, self.data, index), VECTOR.as_pointer())

    def load(self, index):
        return self.builder.load(self.place(index), align=8)

    def store(self, index, vector):
        self.builder.store(vector, self.place(index), align=8)


def _word(n: int):
    return ir.Constant(ir.IntType(64), n)


def _spread(builder, value):
    vector = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _full_adder(builder, a, b, c):
    """(a + b + c) in every bit, as (sum, carry)."""
    differ = builder.xor(a, b)
    return builder.xor(differ, c), builder.or_(builder.and_(a, b), builder.and_(differ, c))


@intrinsic
def _exchange(typingctx, words, low, high, shift, mask):
    """One step of transposing bit matrices: the halves chosen by mask of the vectors at words[low] and words[high] change places."""

    def generate(context, builder, signature, arguments):
        array = _Words(context, builder, signature.args[0], arguments[0])
        shift, mask = (_spread(builder, value) for value in arguments[3:])
        a, b = array.load(arguments[1]), array.load(arguments[2])
        moved = builder.and_(builder.xor(builder.lshr(a, shift), b), mask)
        array.store(arguments[1], builder.xor(a, builder.shl(moved, shift)))
        array.store(arguments[2], builder.xor(b, moved))
        return _word(0)

    return types.int64(words, types.int64, types.int64, types.uint64, types.uint64), generate


@intrinsic
def _patterns(typingctx, turned, row, table, entry):
    """Bits row, row + 1, row + 2 of turned [bit, lane] -> how many of them differ from each pattern, at table[entry]."""

    def generate(context, builder, signature, arguments):
        bits, made = (_Words(context, builder, signature.args[i], arguments[i]) for i in (0, 2))
        a, b, c = (bits.load(builder.mul(builder.add(arguments[1], _word(i)), _word(LANES))) for i in range(3))
        for pattern in range(4):  # and its complement, whose number is 3 − this one: both digits flipped
            given = (builder.not_(v) if pattern >> i & 1 else v for i, v in enumerate((a, b, c)))
            for digit, vector in enumerate(_full_adder(builder, *given)):
                for which, value in ((pattern, vector), (7 - pattern, builder.not_(vector))):
                    made.store(builder.add(arguments[3], _word((2 * which + digit) * LANES)), value)
        return _word(0)

    return types.int64(turned, types.int64, table, types.int64), generate


@intrinsic
def _add_body(typingctx, table, chosen, sums, at, n_digits):
    """Adds BODY numbers of the table, pattern chosen[g] / 16 words of group g, to the sum whose n_digits vectors start at sums[at]."""

    def generate(context, builder, signature, arguments):
        numbers, sums = (_Words(context, builder, signature.args[i], arguments[i]) for i in (0, 2))
        chosen = context.make_array(signature.args[1])(context, builder, arguments[1]).data
        at, n_digits = arguments[3:]
        waiting = [[sums.load(builder.add(at, _word(digit * LANES)))] for digit in range(DIGITS)] + [[]]

        def take(digit, vector):
            waiting[digit].append(vector)
            if digit < DIGITS and len(waiting[digit]) == 3:
                total, carry = _full_adder(builder, *waiting[digit])
                waiting[digit] = [total]
                take(digit + 1, carry)

        for g in range(BODY):
            number = builder.add(builder.zext(builder.load(cgutils.gep(builder, chosen, _word(g))), ir.IntType(64)), _word(g * ENTRY))
            take(0, numbers.load(number))
            take(1, numbers.load(builder.add(number, _word(LANES))))
        for digit in range(DIGITS):
            first, *second = waiting[digit]
            if second:
                take(digit + 1, builder.and_(first, second[0]))
                first = builder.xor(first, second[0])
            sums.store(builder.add(at, _word(digit * LANES)), first)
        (carried,) = waiting[DIGITS]
        carry = cgutils.alloca_once_value(builder, carried)
        with cgutils.for_range(builder, builder.sub(n_digits, _word(DIGITS))) as loop:
            place = builder.add(at, builder.mul(builder.add(loop.index, _word(DIGITS)), _word(LANES)))
            old, add = sums.load(place), builder.load(carry)
            sums.store(place, builder.xor(old, add))
            builder.store(builder.and_(old, add), carry)
        return _word(0)

    return types.int64(table, chosen, sums, types.int64, types.int64), generate


@kernel
def _turn(codes, first, turned):
    """Codes first, first + 1, … [word] -> turned [bit, LANES]: bit j of word l is the bit of code first + 64 l + j."""
    n_codes, n_words = codes.shape
    for w0 in range(0, n_words, 8):  # a cache line of each code
        width = min(8, n_words - w0)
        for j in range(64):
            for lane in range(LANES):
                i = first + 64 * lane + j
                for w in range(width):
                    turned[(w0 + w) * 64 + j, lane] = codes[i, w0 + w] if i < n_codes else np.uint64(0)
        for row in range(w0 * 64, (w0 + width) * 64, 64):
            for step in range(6):
                shift = 32 >> step
                for k in range(row, row + 64, 2 * shift):
                    for low in range(k, k + shift):
                        _exchange(turned, low * LANES, (low + shift) * LANES, np.uint64(shift), HALVES[step])


@kernel
def _choose(queries, chosen):
    """queries [q, word] -> chosen uint8 [q, body, BODY]: where in the table the pattern of each group begins, for _add_body."""
    n_bits = queries.shape[1] * 64
    for q in range(len(queries)):
        for body in range(chosen.shape[1]):
            for g in range(BODY):
                bit, pattern = 3 * (body * BODY + g), np.uint64(0)
                for i in range(bit, min(bit + 3, n_bits)):
                    pattern |= (queries[q, i >> 6] >> np.uint64(i & 63) & np.uint64(1)) << np.uint64(i - bit)
                chosen[q, body, g] = pattern * np.uint64(2 * LANES)


@kernel
def _below(sums, at, n_digits, limit):
    """Word whose bit j says that the sum of code j is less than limit; the digits of the sums are LANES words apart from `at` on."""
    less, same = np.uint64(0), ~np.uint64(0)
    for digit in range(n_digits - 1, -1, -1):
        ones = sums[at + digit * LANES]
        if limit >> digit & 1:
            less |= same & ~ones
            same &= ones
        else:
            same &= ~ones
    return less


@kernel
def _nearest(codes, chosen, turned, table, sums, n_digits, indices, distances):
    """As cpu._nearest; turned [bit, LANES] with zeros to the end of the last body, table, sums to work in."""
    n_codes, n_queries, k = len(codes), len(chosen), distances.shape[1]
    for first in range(0, n_codes, BLOCK):
        _turn(codes, first, turned)
        sums[:] = 0
        for body in range(chosen.shape[1]):
            for g in range(BODY):
                _patterns(turned, 3 * (body * BODY + g), table, g * ENTRY)
            for q in range(n_queries):
                _add_body(table, chosen[q, body], sums, q * n_digits * LANES, n_digits)
        for q in range(n_queries):
            for lane in range(min(LANES, (n_codes - first + 63) // 64)):
                at, i = q * n_digits * LANES + lane, first + 64 * lane
                near = _below(sums, at, n_digits, min(np.int64(distances[q, k - 1]), (1 << n_digits) - 1))
                if n_codes - i < 64:
                    near &= (np.uint64(1) << np.uint64(n_codes - i)) - np.uint64(1)
                j = np.uint64(0)
                while near >> j != 0 and j < 64:
                    if near >> j & np.uint64(1):
                        d = np.int64(0)
                        for digit in range(n_digits):
                            d |= np.int64(sums[at + digit * LANES] >> j & np.uint64(1)) << digit
                        place(indices[q], distances[q], i + np.int64(j), d)
                    j += np.uint64(1)


def nearest(codes: np.ndarray, queries: np.ndarray, indices: np.ndarray, distances: np.ndarray) -> None:
    """As cpu._nearest, without limits on the number of codes; codes [n, w ≥ 1] and queries [q, w] uint64."""
    n_bits = codes.shape[1] * 64
    n_bodies, n_digits = -(-n_bits // (3 * BODY)), max(DIGITS, n_bits.bit_length())
    chosen = np.zeros((len(queries), n_bodies, BODY), np.uint8)
    _choose(queries, chosen)
    turned = np.zeros((n_bodies * 3 * BODY, LANES), np.uint64)
    table, sums = np.zeros(BODY * ENTRY, np.uint64), np.zeros(len(queries) * n_digits * LANES, np.uint64)
    _nearest(codes, chosen, turned, table, sums, n_digits, indices, distances)
