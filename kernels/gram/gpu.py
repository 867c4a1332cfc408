"""Gram matrix on a GPU: one program per 64 × 64 tile of the upper triangle, full float32 products (no TF32)."""

from __future__ import annotations

import torch

from kernels.triton_kernels import launch_device, tl, triton

TILE = 64


@triton.jit
def _tiles(
    x,  # [n, c] any float dtype, channels contiguous
    keep,  # [n] uint8; not read when HAS_KEEP is false
    upper,  # [c, c] float32, added to on and above the tile diagonal
    n, c, row_stride,
    HAS_KEEP: tl.constexpr, TILE: tl.constexpr, TOKENS: tl.constexpr,
):
    if tl.program_id(1) >= tl.program_id(0):
        left = tl.program_id(0) * TILE + tl.arange(0, TILE)
        right = tl.program_id(1) * TILE + tl.arange(0, TILE)
        total = tl.zeros([TILE, TILE], tl.float32)
        for lo in range(0, n, TOKENS):
            token = lo + tl.arange(0, TOKENS)
            counted = token < n
            if HAS_KEEP:
                counted = counted & (tl.load(keep + token, mask=counted, other=0) != 0)
            row = x + token.to(tl.int64)[:, None] * row_stride
            a = tl.load(row + left[None, :], mask=counted[:, None] & (left < c)[None, :], other=0.0).to(tl.float32)
            b = tl.load(row + right[None, :], mask=counted[:, None] & (right < c)[None, :], other=0.0).to(tl.float32)
            total = tl.dot(tl.trans(a), b, total, input_precision="ieee")
        place = upper + left.to(tl.int64)[:, None] * c + right[None, :]
        mask = (left < c)[:, None] & (right < c)[None, :]
        tl.store(place, tl.load(place, mask=mask, other=0.0) + total, mask=mask)


def add_gram(x: torch.Tensor, keep: torch.Tensor | None, total: torch.Tensor, upper: torch.Tensor) -> int:
    """As cpu.add_gram; `total` and `upper` are on x's device. Float64 accumulators use the library's product."""
    n, c = x.shape
    if upper.dtype == torch.float64:
        rows = (x if keep is None else x[keep]).to(torch.float64)
        total += rows.sum(0)
        upper.addmm_(rows.T, rows)
        return len(rows)
    if x.stride(1) != 1 or x.dtype == torch.float64:
        x = x.to(torch.float32).contiguous()
    mask = x if keep is None else keep.view(torch.uint8)
    with launch_device(x):
        blocks = triton.cdiv(c, TILE)
        _tiles[(blocks, blocks)](x, mask, upper, n, c, x.stride(0), HAS_KEEP=keep is not None, TILE=TILE, TOKENS=32)
    weights = torch.ones(n, dtype=torch.float64, device=x.device) if keep is None else keep.to(torch.float64)
    for lo in range(0, n, 4096):
        part = torch.where(weights[lo : lo + 4096, None] > 0, x[lo : lo + 4096], 0)
        total += part.sum(0, dtype=torch.float64)
    return n if keep is None else int(keep.sum())
