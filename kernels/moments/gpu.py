"""Moments on a GPU: one read of x; float32 sums over at most 512 tokens around a shift, folded in float64."""

from __future__ import annotations

import torch

from kernels.triton_kernels import launch_device, tl, triton

SPAN = 512  # tokens summed in float32 by one program
SAMPLE = 32


@triton.jit
def _sums(
    x,  # [n, c] any float dtype, channels contiguous
    keep,  # [n] uint8; not read when HAS_KEEP is false
    shift,  # [c] float32
    out,  # [spans, 4, c] float32: Σ(x − shift), Σ(x − shift)², Σ|x|, max|x|
    n, c, row_stride,
    HAS_KEEP: tl.constexpr, SPAN: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):
    span = tl.program_id(1)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < c
    k = tl.load(shift + channel, mask=inside, other=0.0)
    s1 = tl.zeros([CHANNELS], tl.float32)
    s2 = tl.zeros([CHANNELS], tl.float32)
    absolute = tl.zeros([CHANNELS], tl.float32)
    largest = tl.zeros([CHANNELS], tl.float32)
    for t in range(0, SPAN, TOKENS):
        token = span * SPAN + t + tl.arange(0, TOKENS)
        counted = token < n
        if HAS_KEEP:
            counted = counted & (tl.load(keep + token, mask=counted, other=0) != 0)
        mask = counted[:, None] & inside[None, :]
        v = tl.load(x + token.to(tl.int64)[:, None] * row_stride + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        d = tl.where(mask, v - k[None, :], 0.0)
        s1 += tl.sum(d, axis=0)
        s2 += tl.sum(d * d, axis=0)
        absolute += tl.sum(tl.abs(v), axis=0)
        largest = tl.maximum(largest, tl.max(tl.abs(v), axis=0))
    row = out + span.to(tl.int64) * 4 * c + channel
    tl.store(row, s1, mask=inside)
    tl.store(row + c, s2, mask=inside)
    tl.store(row + 2 * c, absolute, mask=inside)
    tl.store(row + 3 * c, largest, mask=inside)


def moments(x: torch.Tensor, keep: torch.Tensor | None, near: torch.Tensor | None):
    """As reference.moments, tensors on x's device. `near` [c] is a mean to measure from, None to take it from a sample."""
    n, c = x.shape
    zero = torch.zeros(c, dtype=torch.float64, device=x.device)
    count = n if keep is None else int(keep.sum())
    if count == 0:
        return 0, zero, zero.clone(), zero.clone(), zero.clone()
    if x.stride(1) != 1 or x.dtype == torch.float64:
        x = x.to(torch.float32).contiguous()
    if near is None:
        rows = torch.arange(n, device=x.device) if keep is None else keep.nonzero()[:, 0]
        near = x[rows[:: max(1, count // SAMPLE)][:SAMPLE]].to(torch.float32).mean(0)
    shift = near.to(x.device, torch.float32)
    spans = triton.cdiv(n, SPAN)
    out = torch.empty(spans, 4, c, dtype=torch.float32, device=x.device)
    mask = x if keep is None else keep.view(torch.uint8)
    with launch_device(x):
        _sums[(triton.cdiv(c, 128), spans)](
            x, mask, shift, out, n, c, x.stride(0), HAS_KEEP=keep is not None, SPAN=SPAN, TOKENS=32, CHANNELS=128
        )
    s1, s2, absolute = out[:, :3].to(torch.float64).sum(0)
    m2 = (s2 - s1 * s1 / count).clamp(min=0)
    return count, shift.to(torch.float64) + s1 / count, m2, absolute, out[:, 3].amax(0).to(torch.float64)
