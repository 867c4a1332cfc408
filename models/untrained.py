"""The control that shares everything with a model but its training."""

from __future__ import annotations

import torch

from models.loaded import Model


def untrained(model: Model, seed: int) -> Model:
    """A network of the same shape with the weights that training would start from."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = type(model.module)(model.config).to(model.module.dtype).to(model.device).eval().requires_grad_(False)
    return Model(module, model.tokenizer, model.layout, model.written + ", untrained")
