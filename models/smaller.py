"""A variant as it would really run: what is only masked in the app taken out, what is stored as two factors multiplied as two.

The logits are the same within rounding. Plain transformers loads some of these modules (blocks left out, a narrower stream), others run
only here (sublayers skipped, thin factors).
"""

from __future__ import annotations

import torch

from models.folder import without_blocks
from models.loaded import Model


class Nothing(torch.nn.Module):
    """Stands for a removed attention or MLP: adds exactly nothing, or the same `bias` at every token, and computes nothing."""

    def __init__(self, kind: str, bias: torch.Tensor | None = None):
        super().__init__()
        self.kind = kind
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs):
        out = torch.zeros_like(hidden_states) if self.bias is None else self.bias.expand_as(hidden_states)
        return (out, None) if self.kind == "attn" else out


class Thin(torch.nn.Module):
    """A matrix as products of thin ones, parts of its rows one after the other: y = [U_i (V_i x)]_i + b. A part with one factor is dense."""

    def __init__(self, parts: list[tuple[torch.Tensor, ...]], rows: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        self.n_parts = len(parts)
        for i, factors in enumerate(parts):
            for j, factor in enumerate(factors):
                self.register_parameter(f"part{i}_{j}", torch.nn.Parameter(factor.contiguous(), requires_grad=False))
        self.register_buffer("order", rows.argsort(), persistent=False)
        self.in_order = bool((self.order == torch.arange(len(rows))).all())
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = []
        for i in range(self.n_parts):
            y = x
            for j in (1, 0):
                factor = getattr(self, f"part{i}_{j}", None)
                y = y if factor is None else torch.nn.functional.linear(y, factor)
            out.append(y)
        whole = torch.cat(out, -1) if len(out) > 1 else out[0]
        whole = whole if self.in_order else whole[..., self.order]
        return whole if self.bias is None else whole + self.bias


def narrow_mlp(model: Model, layer: int, kept: torch.Tensor) -> None:
    """Cut a block's MLP to the kept channels, bool [d_mlp]. Those that go must already give nothing."""
    layout = model.layout
    for name in filter(None, (layout.mlp_input, layout.mlp_gated)):
        cut(model, layer, name, kept.nonzero()[:, 0], None)
    cut(model, layer, layout.mlp_output, None, kept.nonzero()[:, 0])


def cut(model: Model, layer: int, name: str, rows: torch.Tensor | None, columns: torch.Tensor | None) -> None:
    """Replace a matrix by only these rows and columns of it (indices; None is all)."""
    weight, module = model.matrix(layer, name), model.blocks[layer].get_submodule(name)
    weight = weight if rows is None else weight[rows]
    weight = weight if columns is None else weight[:, columns]
    bias = module.bias if module.bias is None or rows is None else module.bias[rows]
    parent, _, leaf = name.rpartition(".")
    setattr(model.blocks[layer].get_submodule(parent), leaf, Thin([(weight,)], torch.arange(len(weight)), None if bias is None else bias.detach()))


def without_removed(model: Model) -> torch.nn.Module | None:
    """The module with removed blocks left out and removed sublayers skipped; None where nothing is removed. Shares tensors."""
    if not model.removed:
        return None
    module = without_blocks(model) if len(model.layers) < model.n_layers else model.copy(model.written).module
    blocks = module.get_submodule(model.layout.blocks)
    for i, layer in enumerate(model.layers):
        for kind, path in (("attn", model.layout.attn), ("mlp", model.layout.mlp)):
            if (layer, kind) in model.removed:
                setattr(blocks[i], path, Nothing(kind))
    return module
