"""Fused MLP capture on a GPU: a program reads a tile of pre (and up) once, writes post, packs the signs and keeps its sums in registers."""

from __future__ import annotations

import torch

from kernels.mlp_capture.reference import ACTIVATIONS
from kernels.mlp_capture.reference import post as reference
from kernels.sign_codes.reference import n_bytes
from kernels.triton_kernels import launch_device, tl, triton

SPAN, TOKENS, BYTES = 128, 16, 16  # tokens summed by one program; tokens and bytes of codes in one tile
SAMPLE = 32


@triton.jit
def _capture(
    pre, up, post,  # [n, c] one float dtype, channels contiguous; up is not read when GATED is false
    keep,  # [n] uint8; not read when HAS_KEEP is false
    shift,  # [c] float32
    codes,  # [n, width] uint8
    out,  # [spans, 4, c] float32: Σ(x − shift), Σ(x − shift)², Σ|x|, max|x| of post
    counts,  # [spans, c] int32
    threshold, n, c, width, pre_stride, up_stride,
    ACTIVATION: tl.constexpr, GATED: tl.constexpr, HAS_KEEP: tl.constexpr, SPAN: tl.constexpr, TOKENS: tl.constexpr, BYTES: tl.constexpr,
):
    span = tl.program_id(1)
    byte = tl.program_id(0) * BYTES + tl.arange(0, BYTES)
    bit = tl.arange(0, 8)
    channel = byte[:, None] * 8 + bit[None, :]
    inside = channel < c
    k = tl.load(shift + channel, mask=inside, other=0.0)
    s1 = tl.zeros([BYTES, 8], tl.float32)
    s2 = tl.zeros([BYTES, 8], tl.float32)
    absolute = tl.zeros([BYTES, 8], tl.float32)
    largest = tl.zeros([BYTES, 8], tl.float32)
    on_count = tl.zeros([BYTES, 8], tl.int32)
    for t in range(0, SPAN, TOKENS):
        token = span * SPAN + t + tl.arange(0, TOKENS)
        exists = token < n
        counted = exists
        if HAS_KEEP:
            counted = counted & (tl.load(keep + token, mask=exists, other=0) != 0)
        mask = exists[:, None, None] & inside[None, :, :]
        row = token.to(tl.int64)[:, None, None]
        x = tl.load(pre + row * pre_stride + channel[None, :, :], mask=mask, other=0.0).to(tl.float32)
        if ACTIVATION == 0:
            value = x * 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        elif ACTIVATION == 1:
            inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
            value = x * tl.sigmoid(2.0 * inner)  # ½ (1 + tanh u) = σ(2u)
        elif ACTIVATION == 2:
            value = x * tl.sigmoid(x)
        else:
            value = tl.maximum(x, 0.0)
        if GATED:
            value = value.to(post.dtype.element_ty).to(tl.float32)  # the library rounds before it multiplies
            value = value * tl.load(up + row * up_stride + channel[None, :, :], mask=mask, other=0.0).to(tl.float32)
        stored = value.to(post.dtype.element_ty)
        tl.store(post + row * c + channel[None, :, :], stored, mask=mask)
        kept = counted[:, None, None] & inside[None, :, :]
        v = tl.where(kept, stored.to(tl.float32), 0.0)
        d = tl.where(kept, stored.to(tl.float32) - k[None, :, :], 0.0)
        s1 += tl.sum(d, axis=0)
        s2 += tl.sum(d * d, axis=0)
        absolute += tl.sum(tl.abs(v), axis=0)
        largest = tl.maximum(largest, tl.max(tl.abs(v), axis=0))
        on = ((x > threshold) & kept).to(tl.int32)
        on_count += tl.sum(on, axis=0)
        packed = tl.sum(on << bit[None, None, :], axis=2)
        tl.store(codes + token.to(tl.int64)[:, None] * width + byte[None, :], packed.to(tl.uint8), mask=exists[:, None] & (byte < width)[None, :])
    place = out + span.to(tl.int64) * 4 * c + channel
    tl.store(place, s1, mask=inside)
    tl.store(place + c, s2, mask=inside)
    tl.store(place + 2 * c, absolute, mask=inside)
    tl.store(place + 3 * c, largest, mask=inside)
    tl.store(counts + span.to(tl.int64) * c + channel, on_count, mask=inside)


def mlp_capture(pre: torch.Tensor, up: torch.Tensor | None, keep: torch.Tensor | None, activation: str, threshold: float, near: torch.Tensor | None):
    """As cpu.mlp_capture; post and sums on pre's device, codes on the host."""
    n, c = pre.shape
    pre = pre if pre.stride(1) == 1 and pre.dtype != torch.float64 else pre.to(torch.float32).contiguous()
    up = pre if up is None else up if up.stride(1) == 1 and up.dtype == pre.dtype else up.to(pre.dtype).contiguous()
    gated = up is not pre
    post = torch.empty(n, c, dtype=pre.dtype, device=pre.device)
    count = n if keep is None else int(keep.sum())
    if near is None and count:
        rows = torch.arange(n, device=pre.device) if keep is None else keep.nonzero()[:, 0]
        rows = rows[:: max(1, count // SAMPLE)][:SAMPLE]
        near = reference(pre[rows], up[rows] if gated else None, activation).mean(0)
    shift = torch.zeros(c, device=pre.device) if near is None else near.to(pre.device, torch.float32)
    spans, width = triton.cdiv(n, SPAN), n_bytes(c)
    out = torch.empty(spans, 4, c, dtype=torch.float32, device=pre.device)
    codes, counts = torch.empty(n, width, dtype=torch.uint8, device=pre.device), torch.empty(spans, c, dtype=torch.int32, device=pre.device)
    if n:
        with launch_device(pre):
            _capture[(triton.cdiv(width, BYTES), spans)](
                pre, up, post, pre if keep is None else keep.view(torch.uint8), shift, codes, out, counts, threshold, n, c, width, pre.stride(0), up.stride(0),
                ACTIVATION=ACTIVATIONS.index(activation), GATED=gated, HAS_KEEP=keep is not None, SPAN=SPAN, TOKENS=TOKENS, BYTES=BYTES,
            )
    zero = torch.zeros(c, dtype=torch.float64, device=pre.device)
    sums = (0, zero, zero.clone(), zero.clone(), zero.clone())
    if count:
        s1, s2, absolute = out[:, :3].to(torch.float64).sum(0)
        m2 = (s2 - s1 * s1 / count).clamp(min=0)
        sums = (count, shift.to(torch.float64) + s1 / count, m2, absolute, out[:, 3].amax(0).to(torch.float64))
    return post, sums, codes.cpu().numpy(), counts.sum(0, dtype=torch.int64)
