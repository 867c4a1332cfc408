"""Blocks run in each other's places: what a model is afterwards, what it will be, and what has to be kept of it.

`source` [position] names the block that runs at each position, −1 where none does. A block that runs twice is one set of weights,
norms included; where none runs, both sublayers are removed as dropping removes them.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from metrics.stored_bits import dtype_bits, known_bits
from models.loaded import Model
from models.outline import Outline
from models.refusal import NotApplicable
from models.shape import shape_of

Source = tuple[int, ...]
KINDS = ("attn", "mlp")


def require_same_kind(model: Model, source: Source) -> None:
    """Refuses a block in the place of one that attends differently."""
    kinds = getattr(model.config, "layer_types", None)
    for p, c in enumerate(source):
        if kinds and c >= 0 and kinds[p] != kinds[c]:
            raise NotApplicable(f"Block {c} has {kinds[c]} and position {p} {kinds[p]}; blocks of this model cannot run in each other's places.")


def removed_by(source: Source, removed: frozenset) -> frozenset:
    """(position, kind) without function afterwards: nothing runs there, or the block that does had lost it."""
    return frozenset((p, kind) for p, c in enumerate(source) for kind in KINDS if c < 0 or (c, kind) in removed)


def moved_bits(source: Source, bits, names: tuple[str, ...], blocks: str) -> dict[str, float]:
    """Model.bits afterwards: a block's go with it to its first position, and are none at its others. `names` are all parameters."""
    inside = lambda i: {n.removeprefix(f"{blocks}.{i}.") for n in (*names, *bits) if n.startswith(f"{blocks}.{i}.")}
    out, stored = {n: b for n, b in bits.items() if not n.startswith(f"{blocks}.")}, set()
    for p, c in enumerate(source):
        for name in inside(c) if c >= 0 else ():
            before = bits.get(f"{blocks}.{c}.{name}")
            if c in stored or before is not None:
                out[f"{blocks}.{p}.{name}"] = 0.0 if c in stored else before
        stored.add(c)
    return out


def rearranged(outline: Outline, source: Source) -> Outline:
    """What `rearrange` will leave of a model; exact."""
    removed = removed_by(source, outline.removed)
    matrices = tuple(replace(m, layer=p, site=replace(m.site, layer=p)) for p, c in enumerate(source) for m in outline.shape.matrices if m.layer == c)
    shape = replace(outline.shape, matrices=matrices, layers=tuple(p for p in range(len(source)) if not {(p, kind) for kind in KINDS} <= removed))
    bits = moved_bits(source, outline.bits, tuple(outline.sizes), outline.layout.blocks)
    zeros = moved_bits(source, outline.zeros, (), outline.layout.blocks)
    return replace(outline, shape=shape, removed=removed, bits=bits, zeros=zeros)


def rearrange(model: Model, source: Source) -> None:
    names = tuple(n for n, _ in model.module.named_parameters(remove_duplicate=False))
    bits, removed = moved_bits(source, model.bits, names, model.layout.blocks), removed_by(source, model.removed)
    held = {c: {path: dict(module.named_parameters(recurse=False)) for path, module in model.blocks[c].named_modules()} for c in {*source} - {-1}}
    for p, c in enumerate(source):
        if c >= 0 and c != p:
            for path, parameters in held[c].items():
                place = model.blocks[p].get_submodule(path)
                for kind, value in parameters.items():  # the same storage, not a copy
                    setattr(place, kind, torch.nn.Parameter(value.data, requires_grad=False))
    model.removed = frozenset(r for r in removed if source[r[0]] >= 0)
    model.remove(removed)
    model.bits = bits


def kept_bits(model: Model, source: Source) -> tuple[float, int]:
    """(bits of the matrices of the blocks that run, each once; weights of all block matrices)."""
    matrices = shape_of(model).matrices
    stored = sum(m.n_out * m.n_in * dtype_bits(model) if (known := known_bits(model, m)) is None else known for m in matrices if m.layer in source)
    return float(stored), sum(m.n_out * m.n_in for m in matrices)
