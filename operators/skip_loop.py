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

from dataclasses import dataclass

import torch

from metrics.chains import laid_out
from metrics.rearrangement import kept_bits, rearrange, rearranged, require_same_kind
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import Refused
from models.shape import Shape
from operators.contract import Storage

TITLE = "Skip or loop"


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
    return rearranged(outline, laid_out(chain_of(params, outline.layers), outline.shape.n_layers))


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    source = laid_out(chain_of(params, model.layers), model.n_layers)
    require_same_kind(model, source)
    progress.step(1, 1, "")
    return Plan(torch.tensor(source, dtype=torch.int64), *kept_bits(model, source))


def apply(model: Model, plan: Plan) -> None:
    rearrange(model, tuple(plan.source.tolist()))


def storage(model: Model, plan: Plan) -> Storage:
    fewer = bool((plan.source < 0).any())
    return Storage(plan.bits, plan.weights, fewer, "one copy of each block that runs; " + ("skipped blocks cost no time" if fewer else "as many blocks run as before"))
