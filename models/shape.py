"""What a recipe can be checked against before anything is computed: the blocks that are left and the shape of every matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.layout import Heads, Layout, Site, heads
from models.loaded import Model
from models.refusal import NotApplicable


@dataclass(frozen=True)
class Matrix:
    """One weight matrix of a block, [n_out, n_in]; `key` names it in a Plan, `kind` is "attn" or "mlp"."""

    layer: int
    name: str
    kind: str
    n_out: int
    n_in: int
    site: Site  # what it reads

    @property
    def key(self) -> str:
        return f"{self.layer}.{self.name}"


@dataclass(frozen=True)
class Shape:
    """`matrices` are those of the sublayers that are left; `layers` the blocks not wholly removed."""

    family: str
    width: int
    n_layers: int
    layers: tuple[int, ...]
    heads: Heads
    norm: str  # class name of the block's norm, for instance LayerNorm
    matrices: tuple[Matrix, ...]

    def chosen(self, which: str) -> tuple[Matrix, ...]:
        """The matrices of `which` sublayers: all, attn or mlp; refused when none is left."""
        found = tuple(m for m in self.matrices if which in ("all", m.kind))
        if not found:
            raise NotApplicable(f"There is no {'weight' if which == 'all' else which} matrix left to compress: every such sublayer has been removed.")
        return found


def site_of(layout: Layout, layer: int, name: str) -> tuple[str, Site]:
    """(kind, what it reads) of a block matrix."""
    inputs = {layout.attn_output: "z", layout.mlp_output: "mlp_post", layout.mlp_input: "mlp_in", layout.mlp_gated: "mlp_in"}
    return "attn" if name in (*layout.attn_inputs, layout.attn_output) else "mlp", Site(layer, inputs.get(name, "attn_in"))


def shape_of(model: Model) -> Shape:
    layout = model.layout
    found = []
    for layer, name, weight in model.matrices():
        kind, site = site_of(layout, layer, name)
        if (layer, kind) not in model.removed:
            found.append(Matrix(layer, name, kind, *weight.shape, site))
    norm = type(model.blocks[0].get_submodule(layout.attn_norm)).__name__
    return Shape(layout.family, model.config.hidden_size, model.n_layers, model.layers, heads(model.config), norm, tuple(found))


FUSED = ("attn.c_attn", "attention.query_key_value")  # Q, K and V in one matrix


def part_rows(matrix: Matrix) -> tuple[int, ...]:
    """How many rows each part of a matrix has: three where Q, K and V are fused."""
    return (matrix.n_out // 3,) * 3 if matrix.name in FUSED else (matrix.n_out,)


def row_parts(shape: Shape, matrix: Matrix) -> dict[str, torch.Tensor]:
    """Output rows of the matrices that an architecture keeps fused: {"q": rows, "k": rows, "v": rows}, or {"": all rows}."""
    rows = torch.arange(matrix.n_out)
    if matrix.name == "attn.c_attn":
        return dict(zip("qkv", rows.split(matrix.n_out // 3)))
    if matrix.name == "attention.query_key_value":
        return dict(zip("qkv", rows.view(shape.heads.n_heads, 3, -1).transpose(0, 1).reshape(3, -1)))
    return {"": rows}


def parts_by_key(shape: Shape, matrix: Matrix) -> dict[str, torch.Tensor]:
    """The same, keyed as in a Plan: {"3.attn.c_attn:q": rows, …}, or {the matrix's key: all rows}."""
    return {f"{matrix.key}:{part}" if part else matrix.key: rows for part, rows in row_parts(shape, matrix).items()}
