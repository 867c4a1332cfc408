"""Comparison on a GPU: a program reads 8 tokens' rows of both logits once, with running maxima."""

from __future__ import annotations

import torch

from kernels.triton_kernels import launch_device, tl, triton

TOKENS = 8
LOWEST = -3.0e38  # stands for the logits past the vocabulary's end; finite, so that differences of two stay numbers


@triton.jit
def _compare(
    a, b,  # [n, v] logits, any float dtype, vocabulary contiguous
    targets,  # [n] int64
    keep,  # [n] uint8; not read when HAS_KEEP is false
    out,  # [n, 4] float32: KL, agreement, log p_a(target), log p_b(target); not written where a token is not kept
    n, v, a_stride, b_stride, lowest,
    HAS_KEEP: tl.constexpr, TOKENS: tl.constexpr, PIECE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    counted = token < n
    if HAS_KEEP:
        counted = counted & (tl.load(keep + token, mask=counted, other=0) != 0)
    top_a = tl.zeros([TOKENS], tl.float32) + lowest
    top_b = tl.zeros([TOKENS], tl.float32) + lowest
    first_a = tl.zeros([TOKENS], tl.int32)
    first_b = tl.zeros([TOKENS], tl.int32)
    sum_a = tl.zeros([TOKENS], tl.float32)
    sum_b = tl.zeros([TOKENS], tl.float32)
    cross = tl.zeros([TOKENS], tl.float32)  # Σ exp(a − top_a) (a − b)
    for lo in range(0, v, PIECE):
        index = lo + tl.arange(0, PIECE)
        mask = counted[:, None] & (index < v)[None, :]
        p = tl.where(mask, tl.load(a + token[:, None] * a_stride + index[None, :], mask=mask, other=0.0).to(tl.float32), lowest)
        q = tl.where(mask, tl.load(b + token[:, None] * b_stride + index[None, :], mask=mask, other=0.0).to(tl.float32), lowest)
        piece_a = tl.max(p, axis=1)
        piece_b = tl.max(q, axis=1)
        first_a = tl.where(piece_a > top_a, lo + tl.argmax(p, axis=1, tie_break_left=True), first_a)
        first_b = tl.where(piece_b > top_b, lo + tl.argmax(q, axis=1, tie_break_left=True), first_b)
        new_a = tl.maximum(top_a, piece_a)
        new_b = tl.maximum(top_b, piece_b)
        e = tl.where(mask, tl.exp(p - new_a[:, None]), 0.0)
        f = tl.where(mask, tl.exp(q - new_b[:, None]), 0.0)
        scale = tl.exp(top_a - new_a)
        cross = cross * scale + tl.sum(e * (p - q), axis=1)
        sum_a = sum_a * scale + tl.sum(e, axis=1)
        sum_b = sum_b * tl.exp(top_b - new_b) + tl.sum(f, axis=1)
        top_a = new_a
        top_b = new_b
    log_a = tl.log(sum_a)  # the maximum stays apart: added, it would cost the last digits of large logits
    log_b = tl.log(sum_b)
    tl.store(out + token * 4, cross / sum_a - (top_a - top_b) - (log_a - log_b), mask=counted)
    tl.store(out + token * 4 + 1, (first_a == first_b).to(tl.float32), mask=counted)
    target = tl.load(targets + token, mask=counted, other=-1)
    known = counted & (target >= 0)
    chosen_a = tl.load(a + token * a_stride + target, mask=known, other=0.0).to(tl.float32)
    chosen_b = tl.load(b + token * b_stride + target, mask=known, other=0.0).to(tl.float32)
    tl.store(out + token * 4 + 2, (chosen_a - top_a) - log_a, mask=known)
    tl.store(out + token * 4 + 3, (chosen_b - top_b) - log_b, mask=known)


def compare(a: torch.Tensor, b: torch.Tensor, targets: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """As reference.compare, on a's device; NaN also where a token is not kept. Float32 throughout: KL to about 1e-6 nats."""
    n, v = a.shape
    a, b = (x if x.stride(1) == 1 and x.dtype != torch.float64 else x.to(torch.float32).contiguous() for x in (a, b))
    out = torch.full((n, 4), torch.nan, dtype=torch.float32, device=a.device)
    mask = a if keep is None else keep.view(torch.uint8)
    if n:
        with launch_device(a):
            _compare[(triton.cdiv(n, TOKENS),)](
                a, b, targets.contiguous(), mask, out, n, v, a.stride(0), b.stride(0), LOWEST,
                HAS_KEEP=keep is not None, TOKENS=TOKENS, PIECE=256,
            )
    return out.to(torch.float64)
