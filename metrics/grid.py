"""Integer grids: w ≈ scale · (q − zero), one scale (and zero) for each group of weights along the last dimension.

Asymmetric: q in 0 … 2^b − 1 over min(w, 0) … max(w, 0), so that 0 is always on the grid. Symmetric: q in ±(2^(b−1) − 1), no zero.
Codes are decided with the exact scale and rebuilt with the stored one; rounding twice then changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Grid:
    """`scale` and `zero` broadcast against the weights; `stored` is the scale as kept (float16 or float32), in float32."""

    scale: torch.Tensor
    zero: torch.Tensor
    stored: torch.Tensor
    low: int
    high: int

    def codes(self, w: torch.Tensor) -> torch.Tensor:
        """Nearest codes, in w's dtype; ties go to the even code (torch.round)."""
        return ((w / self.scale).round() + self.zero).clamp(self.low, self.high)

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        return (codes - self.zero) * self.stored

    def snap(self, w: torch.Tensor) -> torch.Tensor:
        """Nearest grid value of every weight."""
        return self.values(self.codes(w))


def grid_of(w: torch.Tensor, bits: int, symmetric: bool, scale_bits: int = 16) -> Grid:
    """The grid of each row of w [..., group]: scale and zero are [..., 1]. A row of zeros gets scale 1."""
    if symmetric:
        high = 2 ** (bits - 1) - 1
        span = w.abs().amax(-1, keepdim=True)
        scale = torch.where(span > 0, span / high, torch.ones_like(span))
        return Grid(scale, torch.zeros_like(scale), stored(scale, scale_bits), -high, high)
    high = 2**bits - 1
    lowest, highest = w.amin(-1, keepdim=True).clamp(max=0), w.amax(-1, keepdim=True).clamp(min=0)
    scale = torch.where(highest > lowest, (highest - lowest) / high, torch.ones_like(highest))
    return Grid(scale, (-lowest / scale).round(), stored(scale, scale_bits), 0, high)


def stored(scale: torch.Tensor, scale_bits: int) -> torch.Tensor:
    """The scale after a round trip through its stored type; never below float16's smallest number, so never 0."""
    if scale_bits == 32:
        return scale
    return scale.clamp(min=2.0**-24, max=65504.0).to(torch.float16).to(scale.dtype)


def grouped(w: torch.Tensor, group: int) -> torch.Tensor:
    """[out, in] as [out, groups, group]; group 0 is the whole row."""
    return w.reshape(w.shape[0], -1, group or w.shape[1])


def grid_bits(n_out: int, n_in: int, bits: float, group: int, symmetric: bool, scale_bits: int) -> float:
    """Bits of a quantised matrix: b per weight, and per group a scale and, if asymmetric, a zero of b bits."""
    groups = n_out * (n_in // (group or n_in))
    return n_out * n_in * bits + groups * (scale_bits + (0 if symmetric else bits))


def dequantised(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None) -> torch.Tensor:
    """float32 [out, in] from integer codes [out, in], scale and zero [out, groups]; zero None is the symmetric grid."""
    parts = codes.float().reshape(codes.shape[0], scale.shape[1], -1)
    if zero is not None:
        parts = parts - zero.float()[..., None]
    return (parts * scale.float()[..., None]).reshape(codes.shape)
