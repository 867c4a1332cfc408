"""Run the blocks in another order: some skipped, some twice, some elsewhere.

The chain names the blocks in the order in which they run, such as 0.1.1.2.4, or is made from all blocks with `skip` and `repeat` (each of
those runs twice in a row). A repeated block keeps one set of weights, norms included; skipped ones are not stored. A chain may be at most
as long as the model has blocks: a loop is paid for with a skip.

So that blocks keep their places in every figure, the chain is laid onto the positions of the model with as many blocks at home as its
order allows; positions that nothing runs in are removed as drop_layers removes them. No text is read: where the chain comes from is
another question (see Chains of layers, which searches for one).

Use it to run a chain that a search found, or to ask what a repeated block does. Not to save memory alone: sharing without healing hurts.
Source: CoLa, “Skip a Layer or Loop It? Test-Time Depth Adaptation of Pretrained LLMs” (2025), for chains of layers; the program is our own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from metrics.chains import laid_out
from metrics.stored_bits import dtype_bits, known_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import NotApplicable, Refused
from models.shape import Shape, shape_of
from operators.contract import Storage

TITLE = "Skip or loop"
KINDS = ("attn", "mlp")


@dataclass(frozen=True)
class Params:
    chain: tuple[int, ...] = param((), "Chain of blocks", first=True, low=0, help="Such as 0.1.1.2.4; none means all blocks, with the two fields after it")
    skip: tuple[int, ...] = param((), "Blocks skipped", first=True, low=0)
    repeat: tuple[int, ...] = param((), "Blocks run twice", first=True, low=0)


NEUTRAL = (Params(), 0.0)
SWEEP = ("skip=2", "skip=2,repeat=1")


@dataclass(frozen=True, eq=False)
class Plan:
    """`source` [position] int64: the block that runs there, −1 where none does; `bits` and `weights` of all block matrices."""

    source: torch.Tensor
    bits: float
    weights: int


def calibrated(params: Params) -> bool:
    return False


def chain_of(params: Params, layers: tuple[int, ...]) -> tuple[int, ...]:
    """The blocks in the order in which they run."""
    chain = params.chain or layers
    return tuple(i for i in chain for _ in range(0 if i in params.skip else 2 if i in params.repeat else 1))


def check(params: Params, shape: Shape) -> None:
    chain = chain_of(params, shape.layers)
    missing = sorted({*params.chain, *params.skip, *params.repeat} - set(shape.layers))
    if missing:
        raise Refused(f"There is no block {missing[0]} to run; left are {', '.join(map(str, shape.layers))}.")
    if not chain:
        raise Refused("The chain is empty; leave at least one block.")
    if len(chain) > shape.n_layers:
        raise Refused(f"The chain has {len(chain)} blocks and the model {shape.n_layers}; a block that runs twice is paid for with one that is skipped.")


def foresee(params: Params, outline: Outline) -> Outline:
    """Exact: which block runs where is given."""
    source = laid_out(chain_of(params, outline.layers), outline.shape.n_layers)
    removed = removed_by(source, outline.removed)
    matrices = tuple(replace(m, layer=p, site=replace(m.site, layer=p)) for p, c in enumerate(source) for m in outline.shape.matrices if m.layer == c)
    shape = replace(outline.shape, matrices=matrices, layers=tuple(p for p in range(len(source)) if not {(p, kind) for kind in KINDS} <= removed))
    bits = moved_bits(source, outline.bits, tuple(outline.sizes), outline.layout.blocks)
    zeros = moved_bits(source, outline.zeros, (), outline.layout.blocks)
    return replace(outline, shape=shape, removed=removed, bits=bits, zeros=zeros)


def removed_by(source: tuple[int, ...], removed: frozenset) -> frozenset:
    """(position, kind) without function afterwards: nothing runs there, or the block that does had lost it."""
    return frozenset((p, kind) for p, c in enumerate(source) for kind in KINDS if c < 0 or (c, kind) in removed)


def moved_bits(source: tuple[int, ...], bits, names: tuple[str, ...], blocks: str) -> dict[str, float]:
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


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    source = laid_out(chain_of(params, model.layers), model.n_layers)
    kinds = getattr(model.config, "layer_types", None)
    for p, c in enumerate(source):
        if kinds and c >= 0 and kinds[p] != kinds[c]:
            raise NotApplicable(f"Block {c} has {kinds[c]} and position {p} {kinds[p]}; blocks of this model cannot run in each other's places.")
    matrices = shape_of(model).matrices
    stored = sum(m.n_out * m.n_in * dtype_bits(model) if (known := known_bits(model, m)) is None else known for m in matrices if m.layer in source)
    progress.step(1, 1, "")
    return Plan(torch.tensor(source, dtype=torch.int64), float(stored), sum(m.n_out * m.n_in for m in matrices))


def apply(model: Model, plan: Plan) -> None:
    source = tuple(plan.source.tolist())
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


def storage(model: Model, plan: Plan) -> Storage:
    fewer = bool((plan.source < 0).any())
    return Storage(plan.bits, plan.weights, fewer, "one copy of each block that runs; " + ("skipped blocks cost no time" if fewer else "as many blocks run as before"))
