"""Similarity on a GPU: a program reads 16 tokens' rows once; sums in float64, because the angle of nearly equal vectors needs them."""

from __future__ import annotations

import torch

from kernels.triton_kernels import launch_device, tl, triton

TOKENS = 16


@triton.jit
def _sums(
    a, b,  # [n, c] any float dtype, channels contiguous
    keep,  # [n] uint8; not read when HAS_KEEP is false
    out,  # [n, 4] float64: Σa², Σb², Σab, Σ(b − a)²; zeros where a token is not kept
    n, c, a_stride, b_stride,
    HAS_KEEP: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    counted = token < n
    if HAS_KEEP:
        counted = counted & (tl.load(keep + token, mask=counted, other=0) != 0)
    aa = tl.zeros([TOKENS], tl.float64)
    bb = tl.zeros([TOKENS], tl.float64)
    ab = tl.zeros([TOKENS], tl.float64)
    dd = tl.zeros([TOKENS], tl.float64)
    for lo in range(0, c, CHANNELS):
        channel = lo + tl.arange(0, CHANNELS)
        mask = counted[:, None] & (channel < c)[None, :]
        u = tl.load(a + token[:, None] * a_stride + channel[None, :], mask=mask, other=0.0).to(tl.float64)
        v = tl.load(b + token[:, None] * b_stride + channel[None, :], mask=mask, other=0.0).to(tl.float64)
        aa += tl.sum(u * u, axis=1)
        bb += tl.sum(v * v, axis=1)
        ab += tl.sum(u * v, axis=1)
        dd += tl.sum((v - u) * (v - u), axis=1)
    tl.store(out + token * 4, aa, mask=token < n)
    tl.store(out + token * 4 + 1, bb, mask=token < n)
    tl.store(out + token * 4 + 2, ab, mask=token < n)
    tl.store(out + token * 4 + 3, dd, mask=token < n)


def similarity(a: torch.Tensor, b: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """As reference.similarity, on a's device; NaN also where a token is not kept."""
    n, c = a.shape
    a, b = (x if x.stride(1) == 1 else x.contiguous() for x in (a, b))
    out = torch.empty(n, 4, dtype=torch.float64, device=a.device)
    mask = a if keep is None else keep.view(torch.uint8)
    if n:
        with launch_device(a):
            _sums[(triton.cdiv(n, TOKENS),)](
                a, b, mask, out, n, c, a.stride(0), b.stride(0), HAS_KEEP=keep is not None, TOKENS=TOKENS, CHANNELS=128
            )
    aa, bb, ab, dd = out.unbind(1)
    result = torch.stack([(ab / (aa.sqrt() * bb.sqrt())).clamp(-1, 1), (bb / aa).sqrt(), (dd / aa).sqrt()], dim=1)
    return result.masked_fill(((aa == 0) | (bb == 0))[:, None], torch.nan)
