"""Similarity on a GPU: one program per token reads its two rows once."""

from __future__ import annotations

import torch

from kernels.triton_kernels import launch_device, tl, triton


@triton.jit
def _sums(
    a, b,  # [n, c] any float dtype, channels contiguous
    keep,  # [n] uint8; not read when HAS_KEEP is false
    out,  # [n, 4] float32: Σa², Σb², Σab, Σ(b − a)²; zeros where a token is not kept
    c, a_stride, b_stride,
    HAS_KEEP: tl.constexpr, CHANNELS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    aa = tl.zeros([CHANNELS], tl.float32)
    bb = tl.zeros([CHANNELS], tl.float32)
    ab = tl.zeros([CHANNELS], tl.float32)
    dd = tl.zeros([CHANNELS], tl.float32)
    limit = c
    if HAS_KEEP:
        limit = tl.where(tl.load(keep + token) != 0, c, 0)
    for lo in range(0, c, CHANNELS):
        channel = lo + tl.arange(0, CHANNELS)
        u = tl.load(a + token * a_stride + channel, mask=channel < limit, other=0.0).to(tl.float32)
        v = tl.load(b + token * b_stride + channel, mask=channel < limit, other=0.0).to(tl.float32)
        aa += u * u
        bb += v * v
        ab += u * v
        dd += (v - u) * (v - u)
    tl.store(out + token * 4, tl.sum(aa, axis=0))
    tl.store(out + token * 4 + 1, tl.sum(bb, axis=0))
    tl.store(out + token * 4 + 2, tl.sum(ab, axis=0))
    tl.store(out + token * 4 + 3, tl.sum(dd, axis=0))


def similarity(a: torch.Tensor, b: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """As reference.similarity, on a's device; NaN also where a token is not kept."""
    n, c = a.shape
    a, b = (x if x.stride(1) == 1 and x.dtype != torch.float64 else x.to(torch.float32).contiguous() for x in (a, b))
    out = torch.empty(n, 4, dtype=torch.float32, device=a.device)
    mask = a if keep is None else keep.view(torch.uint8)
    if n:
        with launch_device(a):
            _sums[(n,)](a, b, mask, out, c, a.stride(0), b.stride(0), HAS_KEEP=keep is not None, CHANNELS=512)
    aa, bb, ab, dd = out.to(torch.float64).unbind(1)
    result = torch.stack([(ab / (aa.sqrt() * bb.sqrt())).clamp(-1, 1), (bb / aa).sqrt(), (dd / aa).sqrt()], dim=1)
    return result.masked_fill(((aa == 0) | (bb == 0))[:, None], torch.nan)
