"""Sign codes on a GPU: a program compares 16 tokens × 256 channels, packs bytes and counts columns from the same registers."""

from __future__ import annotations

import numpy as np
import torch

from kernels.sign_codes.reference import n_bytes
from kernels.triton_kernels import launch_device, tl, triton

TOKENS = 16


@triton.jit
def _pack(
    x,  # [n, c] any float dtype, channels contiguous
    keep,  # [n] uint8; not read when HAS_KEEP is false
    codes,  # [n, width] uint8
    counts,  # [spans, c] int32
    threshold, n, c, width, row_stride,
    HAS_KEEP: tl.constexpr, TOKENS: tl.constexpr, BYTES: tl.constexpr,
):
    span = tl.program_id(1)
    token = span * TOKENS + tl.arange(0, TOKENS)
    byte = tl.program_id(0) * BYTES + tl.arange(0, BYTES)
    bit = tl.arange(0, 8)
    channel = byte[:, None] * 8 + bit[None, :]
    counted = token < n
    if HAS_KEEP:
        counted = counted & (tl.load(keep + token, mask=counted, other=0) != 0)
    mask = counted[:, None, None] & (channel < c)[None, :, :]
    where = x + token.to(tl.int64)[:, None, None] * row_stride + channel[None, :, :]
    value = tl.load(where, mask=mask, other=0.0).to(tl.float32)
    on = ((value > threshold) & mask).to(tl.int32)
    packed = tl.sum(on << bit[None, None, :], axis=2)
    place = codes + token.to(tl.int64)[:, None] * width + byte[None, :]
    tl.store(place, packed.to(tl.uint8), mask=(token < n)[:, None] & (byte < width)[None, :])
    tl.store(counts + span.to(tl.int64) * c + channel, tl.sum(on, axis=0), mask=channel < c)


def sign_codes(x: torch.Tensor, keep: torch.Tensor | None, threshold: float) -> tuple[np.ndarray, torch.Tensor]:
    """As reference.sign_codes; the codes come back to the host, the counts stay on x's device."""
    n, c = x.shape
    width = n_bytes(c)
    if x.stride(1) != 1 or x.dtype == torch.float64:
        x = x.to(torch.float32).contiguous()
    spans = triton.cdiv(n, TOKENS)
    codes = torch.empty(n, width, dtype=torch.uint8, device=x.device)
    counts = torch.empty(spans, c, dtype=torch.int32, device=x.device)
    mask = x if keep is None else keep.view(torch.uint8)
    if n:
        with launch_device(x):
            _pack[(triton.cdiv(width, 32), spans)](
                x, mask, codes, counts, float(np.float32(threshold)), n, c, width, x.stride(0),
                HAS_KEEP=keep is not None, TOKENS=TOKENS, BYTES=32,
            )
    return codes.cpu().numpy(), counts.sum(0, dtype=torch.int64)
