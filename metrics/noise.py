"""The control of a compression: the original with random noise as large as the change."""

from __future__ import annotations

import torch

from models.loaded import Model


def noisy(a: Model, b: Model, seed: int) -> Model:
    """A with Gaussian noise on each matrix that differs in B, of the Frobenius norm of the difference."""
    out = a.copy("noise")
    generator = torch.Generator().manual_seed(seed)
    for layer, name, weight in a.matrices():
        size = (b.matrix(layer, name).float() - weight.float()).norm()
        noise = torch.randn(weight.shape, generator=generator).to(weight.device)
        if size > 0:
            out.set_matrix(layer, name, weight.float() + noise * (size / noise.norm()))
    return out
