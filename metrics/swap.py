"""One part of a model put into another: what a variant costs where it differs in that part alone, and what it costs from there on.

Both models have the same names and blocks (removal is by mask), so a part is named by its block and its path in it. The parts
before it are the original's, so a swap in block i starts from the recorded stream and runs blocks i, i + 1, … only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metrics.residuals import Residuals, run_on
from models.loaded import Model


@contextmanager
def swapped(host: Model, donor: Model, layer: int, name: str) -> Iterator[None]:
    """`host` has the donor's submodule in that place, until the block ends. Give a copy as host: it is changed meanwhile."""
    block = host.blocks[layer]
    parent, _, leaf = name.rpartition(".")
    place = block.get_submodule(parent)
    own = getattr(place, leaf)
    setattr(place, leaf, donor.blocks[layer].get_submodule(name))
    try:
        yield
    finally:
        setattr(place, leaf, own)


def with_part(model: Model, host: Model, donor: Model, seen: Residuals, i: int, name: str) -> torch.Tensor:
    """The stream after the last block of `model` with one part of block layers[i] from `donor`; `host` is a copy of `model`."""
    layer = seen.layers[i]
    with swapped(host, donor, layer, name):
        x = _block(host, seen, i, seen.pre[i])
    return run_on(model, seen, i + 1, x)


def with_block(model: Model, donor: Model, seen: Residuals, i: int) -> torch.Tensor:
    """The same with the whole block layers[i], its norms included."""
    return run_on(model, seen, i + 1, _block(donor, seen, i, seen.pre[i]))


def _block(model: Model, seen: Residuals, i: int, x: torch.Tensor) -> torch.Tensor:
    args, kwargs = seen.calls[i]
    return model.blocks[seen.layers[i]](x, *args, **kwargs)


def differs(a: Model, b: Model, layer: int, name: str) -> bool:
    """Whether a part of a block is another in B: its weights, or its biases."""
    one, other = (dict(m.blocks[layer].get_submodule(name).named_parameters()) for m in (a, b))
    return one.keys() != other.keys() or any(one[k].data_ptr() != other[k].data_ptr() and not torch.equal(one[k], other[k]) for k in one)


def elsewhere(a: Model, b: Model) -> bool:
    """Whether B differs outside its blocks: embeddings, final norm or head."""
    inside = f"{a.layout.blocks}."
    one, other = (dict(m.module.named_parameters(remove_duplicate=False)) for m in (a, b))
    outside = [n for n in {*one, *other} if not n.startswith(inside)]
    return any(n not in one or n not in other or (one[n].data_ptr() != other[n].data_ptr() and not torch.equal(one[n], other[n])) for n in outside)
