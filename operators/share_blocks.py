"""Let runs of consecutive blocks use one block's matrices, each keeping its own norms.

The blocks that are left (or those named) are cut into runs of `group`; all blocks of a run use the matrices and biases of its
first block, its centre, or the mean of the run. With `remove` the blocks with the lowest gates go first: gates trained on
calibration text with the weights frozen (see metrics.gates), a reading of FoldGPT, whose equations were not at hand.
Memory falls, operations do not; only as many copies as there are runs are kept. Groups of one change nothing.

Use it to see how alike neighbours really are, and before healing: without healing sharing hurts far more than dropping.
Not for speed. Source: Liu et al., “FoldGPT”, arXiv 2407.00928 (sharing and ranking); CRaSh, EMNLP 2023 (centre).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from metrics.calibration import require_text
from metrics.gates import gate_importance
from metrics.stored_bits import dtype_bits, known_bits, parameter_name
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import Refused
from models.shape import Shape, shape_of
from operators.contract import Storage

TITLE = "Block sharing"


@dataclass(frozen=True)
class Params:
    group: int = param(2, "Blocks per run", first=True, low=1, high=64)
    representative: Literal["first", "centre", "mean"] = param("first", "Whose matrices", first=True)
    remove: int = param(0, "Blocks removed first", first=True, low=0, high=64, help="Those with the lowest trained gates; needs calibration text")
    blocks: tuple[int, ...] = param((), "Only these blocks", help="Block indices such as 2.3.4; none means all that are left")
    steps: int = param(80, "Gate training steps", low=1, high=2_000)


NEUTRAL = (Params(group=1), 0.0)
SWEEP = ("group=2", "group=3")


@dataclass(frozen=True, eq=False)
class Plan:
    runs: torch.Tensor  # int64 [block, 2]: a block and the block whose matrices it uses
    removed: torch.Tensor  # int64 [block]
    mean: dict[str, torch.Tensor]  # averaged matrices and biases of runs shared by their mean, keyed "first block.name.weight"
    gates: torch.Tensor  # float64 [step, block]; empty when nothing is removed


def calibrated(params: Params) -> bool:
    return params.remove > 0


def check(params: Params, shape: Shape) -> None:
    unknown = sorted(set(params.blocks) - set(shape.layers))
    if unknown:
        raise Refused(f"Block {unknown[0]} is not left in this model; left are {', '.join(map(str, shape.layers))}.")
    if params.remove >= len(shape.layers):
        raise Refused(f"{params.remove} blocks cannot be removed from {len(shape.layers)}; at most {len(shape.layers) - 1}.")
    partly = {m.layer for m in shape.matrices if m.kind == "attn"} ^ {m.layer for m in shape.matrices if m.kind == "mlp"}
    if partly & set(params.blocks or shape.layers) and params.group > 1:
        raise Refused(f"Block {min(partly)} has lost its attention or its MLP, so it cannot share a whole block's matrices; name the blocks to share.")


def foresee(params: Params, outline: Outline) -> Outline:
    """Which blocks go is decided by the gates; as many, here the last ones."""
    layers = outline.shape.layers
    outline = outline.without(frozenset((i, kind) for i in layers[len(layers) - params.remove :] for kind in ("attn", "mlp")), sure=params.remove == 0)
    wanted = [i for i in outline.shape.layers if not params.blocks or i in params.blocks]
    copies = {i for run in runs_of(wanted, params.group) for i in run if i != owner(run, params)}
    free = [outline.name(m).removesuffix("weight") + kind for m in outline.shape.matrices if m.layer in copies for kind in ("weight", "bias")]
    return replace(outline, bits={**outline.bits, **dict.fromkeys(free, 0.0)})


def runs_of(blocks: list[int], group: int) -> list[list[int]]:
    return [blocks[i : i + group] for i in range(0, len(blocks), group)]


def owner(run: list[int], params: Params) -> int:
    """The block whose matrices a run keeps."""
    return run[(len(run) - 1) // 2] if params.representative == "centre" else run[0]


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    removed, gates = [], torch.zeros(0, model.n_layers, dtype=torch.float64)
    if params.remove:
        require_text(calibration)
        target = 1 - params.remove / len(model.layers)
        gates = gate_importance(model, calibration.ids, calibration.keep, target, steps=params.steps, progress=progress)
        removed = sorted(sorted(model.layers, key=lambda i: float(gates[-1, i]))[: params.remove])
    wanted = [i for i in model.layers if i not in removed and (not params.blocks or i in params.blocks)]
    pairs, mean = [], {}
    for run in runs_of(wanted, params.group):
        chosen = owner(run, params)
        pairs += [(i, chosen) for i in run]
        if params.representative == "mean" and len(run) > 1:
            for name in model.layout.matrices():
                modules = [model.blocks[i].get_submodule(name) for i in run]
                mean[f"{chosen}.{name}.weight"] = torch.stack([model.matrix(i, name).double() for i in run]).mean(0).float()
                if modules[0].bias is not None:
                    mean[f"{chosen}.{name}.bias"] = torch.stack([m.bias.double() for m in modules]).mean(0).float()
    return Plan(torch.tensor(pairs, dtype=torch.int64).view(-1, 2), torch.tensor(removed, dtype=torch.int64), mean, gates)


def apply(model: Model, plan: Plan) -> None:
    for block, chosen in plan.runs.tolist():
        for name in model.layout.matrices():
            weight, bias = plan.mean.get(f"{chosen}.{name}.weight"), plan.mean.get(f"{chosen}.{name}.bias")
            if block == chosen and weight is not None:
                model.set_matrix(block, name, weight, bias)
    for block, chosen in plan.runs.tolist():
        if block != chosen:
            for name in model.layout.matrices():  # the same storage, not a copy
                model.set_matrix(block, name, model.matrix(chosen, name), model.blocks[chosen].get_submodule(name).bias)
                kept = parameter_name(model, block, name)
                model.bits[kept] = model.bits[kept.removesuffix("weight") + "bias"] = 0.0
    model.remove(frozenset((block, kind) for block in plan.removed.tolist() for kind in ("attn", "mlp")))


def storage(model: Model, plan: Plan) -> Storage:
    users = dict(plan.runs.tolist())
    bits, weights = 0.0, 0
    for m in shape_of(model).matrices:
        if m.layer in users or m.layer in plan.removed.tolist():
            weights += m.n_out * m.n_in
            if users.get(m.layer) == m.layer:
                known = known_bits(model, m)
                bits += known if known is not None else m.n_out * m.n_in * dtype_bits(model)
    return Storage(bits, weights, False, "one copy of each shared matrix; operations do not fall")
