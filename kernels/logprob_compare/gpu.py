"""Comparison on a GPU: one program per token reads both rows of logits once, with running maxima."""

from __future__ import annotations

import torch

from kernels.triton_kernels import launch_device, tl, triton


@triton.jit
def _compare(
    a, b,  # [n, v] logits, any float dtype, vocabulary contiguous
    targets,  # [n] int64
    keep,  # [n] uint8; not read when HAS_KEEP is false
    out,  # [n, 4] float32: KL, agreement, log p_a(target), log p_b(target); not written where a token is not kept
    v, a_stride, b_stride,
    HAS_KEEP: tl.constexpr, PIECE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    counted = True
    if HAS_KEEP:
        counted = tl.load(keep + token) != 0
    if counted:
        top_a = -float("inf")
        top_b = -float("inf")
        first_a = 0
        first_b = 0
        sum_a = 0.0
        sum_b = 0.0
        cross = 0.0  # Σ exp(a − top_a) (a − b)
        for lo in range(0, v, PIECE):
            index = lo + tl.arange(0, PIECE)
            inside = index < v
            p = tl.load(a + token * a_stride + index, mask=inside, other=-float("inf")).to(tl.float32)
            q = tl.load(b + token * b_stride + index, mask=inside, other=-float("inf")).to(tl.float32)
            piece_a = tl.max(p, axis=0)
            piece_b = tl.max(q, axis=0)
            if piece_a > top_a:
                first_a = lo + tl.argmax(p, axis=0, tie_break_left=True)
            if piece_b > top_b:
                first_b = lo + tl.argmax(q, axis=0, tie_break_left=True)
            new_a = tl.maximum(top_a, piece_a)
            new_b = tl.maximum(top_b, piece_b)
            e = tl.exp(p - new_a)
            scale = tl.exp(top_a - new_a)
            cross = cross * scale + tl.sum(tl.where(inside, e * (p - q), 0.0), axis=0)
            sum_a = sum_a * scale + tl.sum(e, axis=0)
            sum_b = sum_b * tl.exp(top_b - new_b) + tl.sum(tl.exp(q - new_b), axis=0)
            top_a = new_a
            top_b = new_b
        norm_a = top_a + tl.log(sum_a)
        norm_b = top_b + tl.log(sum_b)
        tl.store(out + token * 4, cross / sum_a - (norm_a - norm_b))
        tl.store(out + token * 4 + 1, (first_a == first_b).to(tl.float32))
        target = tl.load(targets + token)
        if target >= 0:
            tl.store(out + token * 4 + 2, tl.load(a + token * a_stride + target).to(tl.float32) - norm_a)
            tl.store(out + token * 4 + 3, tl.load(b + token * b_stride + target).to(tl.float32) - norm_b)


def compare(a: torch.Tensor, b: torch.Tensor, targets: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """As reference.compare, on a's device; NaN also where a token is not kept. Float32 throughout: KL to about 1e-6 nats."""
    n, v = a.shape
    a, b = (x if x.stride(1) == 1 and x.dtype != torch.float64 else x.to(torch.float32).contiguous() for x in (a, b))
    out = torch.full((n, 4), torch.nan, dtype=torch.float32, device=a.device)
    mask = a if keep is None else keep.view(torch.uint8)
    if n:
        with launch_device(a):
            _compare[(n,)](a, b, targets.contiguous(), mask, out, v, a.stride(0), b.stride(0), HAS_KEEP=keep is not None, PIECE=1024)
    return out.to(torch.float64)
