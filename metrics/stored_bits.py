"""Bits of a model as its recipe stores it: what steps have written down for a parameter, its dtype for all others."""

from __future__ import annotations

import torch

from models.loaded import Model
from models.shape import Matrix


def parameter_name(model: Model, layer: int, name: str) -> str:
    """Name of a block matrix among the model's parameters; the key of Model.bits."""
    return f"{model.layout.blocks}.{layer}.{name}.weight"


def dtype_bits(model: Model) -> int:
    """Bits of one uncompressed weight: 32 for float32, 16 for bfloat16."""
    return next(model.module.parameters()).element_size() * 8


def known_bits(model: Model, matrix: Matrix) -> float | None:
    """What an earlier step stores for this matrix; None where none touched it, 0 for a copy of another block's matrix."""
    return model.bits.get(parameter_name(model, matrix.layer, matrix.name))


def value_bits(model: Model, matrix: Matrix) -> float:
    """Bits of one weight before this step: the dtype's, or what a quantiser before it left."""
    known = known_bits(model, matrix)
    return dtype_bits(model) if known is None else known / (matrix.n_out * matrix.n_in)


def quantised_bits(model: Model, matrix: Matrix, dense: float, per_code: float) -> float:
    """Bits of a quantised matrix whose `dense` form takes that many: after a pruning step only the codes of weights that are
    not zero are kept (`per_code` bits each) and a bitmap; a copy of another block's matrix stays free."""
    known = known_bits(model, matrix)
    if known is None:
        return dense
    if known == 0:
        return 0.0
    zeros = int((model.matrix(matrix.layer, matrix.name) == 0).sum())
    return dense - zeros * per_code + matrix.n_out * matrix.n_in


def split_key(key: str) -> tuple[int, str]:
    """(layer, name) of a Plan's key such as 3.attn.c_attn."""
    layer, _, name = key.partition(".")
    return int(layer), name


def note_bits(model: Model, bits: dict[str, torch.Tensor]) -> None:
    """Write a Plan's bits down in the model, where size is read from."""
    for key, value in bits.items():
        model.bits[parameter_name(model, *split_key(key))] = float(value)


def total_bits(bits: dict[str, torch.Tensor]) -> float:
    return float(sum(float(value) for value in bits.values()))
