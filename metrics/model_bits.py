"""How many bits a whole model takes to keep: what recipes wrote down, the dtype for the rest, nothing for what is removed."""

from __future__ import annotations

from math import prod

from metrics.stored_bits import dtype_bits
from models.loaded import Model
from models.outline import Outline


def model_bits(model: Model) -> float:
    """Bits of all parameters, tied ones once. A parameter that only the recipe knows (a head untied by slicing) counts too."""
    own = dict(model.module.named_parameters())
    whole = sum(0.0 if removed(model, name) else model.bits[name] if name in model.bits else tensor.numel() * dtype_bits(model)
                for name, tensor in own.items())
    return float(whole + sum(bits for name, bits in model.bits.items() if name not in own))


def foreseen_bits(outline: Outline) -> float:
    """The same of a model that has not been made yet."""
    whole = sum(0.0 if removed(outline, name) else outline.bits[name] if name in outline.bits else prod(size) * outline.dense
                for name, size in outline.sizes.items())
    return float(whole + sum(bits for name, bits in outline.bits.items() if name not in outline.sizes))


def n_weights(model: Model) -> int:
    """Parameters as they are in memory, tied ones once."""
    return sum(p.numel() for p in model.module.parameters())


def removed(model: Model | Outline, name: str) -> bool:
    """Whether a parameter belongs to a masked sublayer, or to a block that is gone with its norms."""
    start = f"{model.layout.blocks}."
    if not name.startswith(start):
        return False
    layer, _, inner = name.removeprefix(start).partition(".")
    if int(layer) not in model.layers:
        return True
    names = {"attn": model.layout.attn, "mlp": model.layout.mlp}
    return any((int(layer), kind) in model.removed and inner.startswith(f"{sublayer}.") for kind, sublayer in names.items())
