"""Train a little after compressing, so that the model comes back towards the original.

Trained are norms and biases alone (PERP), or low-rank adapters on the matrices (LoRA), or both; every other tensor keeps its bits.
The loss is KL to the original, −ln p of the next token, or KL with the last blocks' streams drawn to the original's as well (tail
distillation: ‖h − h*‖² / ‖h*‖² per token, after FoldGPT, whose equations were not at hand). An eighth of the text is held out; the
state that is best there is kept, the start included.

Norms and biases leave every weight where it is: masks, integer grids and thin factors survive, and nothing more is stored. An adapter
W + B·A folded into a pruned or rounded matrix would destroy what was gained: it is kept beside the matrix, rank · (in + out) more
numbers, counted; or it is masked, and moves only weights that are not zero. A matrix that no step compressed takes it up for free.

Use it as the last step of any recipe that hurts; look at the same recipe without it beside. Not with the text that the result is
judged on, and not before compressing: what adapters learned would be rounded away. Sources: Zimmer et al., “PERP”, arXiv 2312.15230;
Hu et al., “LoRA”, ICLR 2022. Adapters are a few lines here and not PEFT's modules, so that every matrix keeps its name and shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from metrics import healing
from metrics.calibration import require_text
from metrics.healing import DOWN, UP
from metrics.stored_bits import dtype_bits, known_bits, note_bits, split_key
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import NotApplicable, Refused
from models.shape import Shape, shape_of
from operators.contract import Storage

TITLE = "Healing"


@dataclass(frozen=True)
class Params:
    train: Literal["norms", "lora", "both"] = param("norms", "Trained", first=True, help="Norms and biases; low-rank adapters; or both")
    loss: Literal["kl", "next token", "tail"] = param("kl", "Loss", first=True, help="KL to the original, the text itself, or KL and the streams of the last blocks")
    steps: int = param(100, "Steps", first=True, low=0, high=100_000)
    rate: float = param(2e-3, "Learning rate", low=0.0, high=10.0, help="At the start; it falls to zero along a line")
    batch: int = param(8, "Sequences in a step", low=1, high=4096)
    rank: int = param(4, "Rank of the adapters", low=1, high=4096)
    which: Literal["all", "attn", "mlp"] = param("all", "Adapters on")
    adapter: Literal["beside", "masked"] = param("beside", "Adapters on compressed matrices", help="Kept beside the matrix and counted, or moving only the weights that are not zero")
    tail: int = param(2, "Blocks of the tail", low=1, high=1024, help="Only with the loss “tail”")


NEUTRAL = (Params(steps=0), 0.0)
SWEEP = ("loss=next token",)  # alone it has nothing to heal; this is what the training itself changes


@dataclass(frozen=True, eq=False)
class Plan:
    """What was trained, and the held-out loss in nats per token at some steps; `kept` is the step that was taken."""

    values: dict[str, torch.Tensor]  # norms and biases by parameter name
    up: dict[str, torch.Tensor]  # B [out, rank] by matrix key
    down: dict[str, torch.Tensor]  # A [rank, in]
    masked: bool
    bits: dict[str, torch.Tensor]  # of compressed matrices, the adapter beside them included
    step: np.ndarray
    held: np.ndarray
    kept: int


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    if params.train != "norms":
        shape.chosen(params.which)
    if params.loss == "tail" and params.tail > shape.n_layers:
        raise Refused(f"The tail has {params.tail} blocks and the model {shape.n_layers}; choose at most that many.")
    if not shape.layers:
        raise NotApplicable("Every block has been removed; there is nothing to heal.")


def foresee(params: Params, outline: Outline) -> Outline:
    """Adapters beside what earlier steps stored; nothing else."""
    if params.train == "norms" or params.adapter == "masked" or params.steps == 0:
        return outline
    return outline.storing({m: outline.bits[outline.name(m)] + adapter_numbers(m.n_out, m.n_in, params.rank) * outline.dense
                            for m in outline.shape.chosen(params.which) if outline.name(m) in outline.bits})


def adapter_numbers(n_out: int, n_in: int, rank: int) -> int:
    return min(rank, n_out, n_in) * (n_out + n_in)


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    require_text(calibration)
    seed = torch.initial_seed() % 2**31
    groups = healing.norms_and_biases(model) if params.train != "lora" else {}
    parameters = dict(model.module.named_parameters(remove_duplicate=False))
    leaves = {name: parameters[name].detach().float().clone() for name in groups}
    matrices = shape_of(model).chosen(params.which) if params.train != "norms" and params.steps else ()
    leaves |= healing.adapters(matrices, params.rank, seed)
    how = dict(masked=params.adapter == "masked", tail=params.tail if params.loss == "tail" else 0, steps=params.steps, batch=params.batch, rate=params.rate,
               seed=seed, progress=progress)
    if params.loss == "next token":
        done = healing.heal(model, None, calibration.ids, calibration.keep, leaves, groups, **how)
    else:
        with calibration.original() as teacher:
            done = healing.heal(model, teacher, calibration.ids, calibration.keep, leaves, groups, **how)
    values = {n: done.values[name] for name, names in groups.items() for n in names} if params.steps else {}
    bits = {}
    if not how["masked"]:
        bits = {m.key: torch.tensor(known + adapter_numbers(m.n_out, m.n_in, params.rank) * dtype_bits(model)) for m in matrices if (known := known_bits(model, m)) is not None}
    take = lambda mark: {n.removeprefix(mark): x for n, x in done.values.items() if n.startswith(mark)}
    return Plan(values, take(UP), take(DOWN), how["masked"], bits, done.step, done.held, done.kept)


def apply(model: Model, plan: Plan) -> None:
    for key, up in plan.up.items():
        weight = model.matrix(*split_key(key))
        model.set_matrix(*split_key(key), healing.with_adapter(weight, up.to(weight.device), plan.down[key].to(weight.device), plan.masked))
    model.set_parameters(plan.values)
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    parameters = dict(model.module.named_parameters(remove_duplicate=False))
    vectors = sum(parameters[name].numel() for name in plan.values)
    matrices = {key: model.matrix(*split_key(key)).numel() for key in plan.up}
    bits = vectors * dtype_bits(model) + sum(float(plan.bits[key]) if key in plan.bits else n * dtype_bits(model) for key, n in matrices.items())
    return Storage(float(bits), vectors + sum(matrices.values()), False, "norms and biases as before; adapters beside compressed matrices are counted; as fast as before, or a little slower")
