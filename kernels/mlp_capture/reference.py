"""Definition of the fused capture of an MLP's activation; float64.

post = f(pre), or f(pre) · up in a gated MLP; the code of a token says which channels of pre are above the threshold.
"""

from __future__ import annotations

import math

import torch

ACTIVATIONS = ("gelu", "gelu_tanh", "silu", "relu")


def activation(x: torch.Tensor, name: str) -> torch.Tensor:
    """gelu: x Φ(x), by erf; gelu_tanh: ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))); silu: x / (1 + e^−x); relu: max(x, 0)."""
    if name == "gelu":
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
    if name == "gelu_tanh":
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    if name == "silu":
        return x * torch.sigmoid(x)
    if name == "relu":
        return x.clamp(min=0)
    raise ValueError(f"Unknown activation “{name}”; known: {', '.join(ACTIVATIONS)}.")


def post(pre: torch.Tensor, up: torch.Tensor | None, name: str) -> torch.Tensor:
    """post [n, c] float64; not rounded to the model's dtype."""
    value = activation(pre.to(torch.float64), name)
    return value if up is None else value * up.to(torch.float64)
