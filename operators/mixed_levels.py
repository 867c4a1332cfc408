"""Compress with one operator, but give every block or matrix a level of its own.

`of` is any operator that changes block matrices one by one, `dial` the parameter that is its level, `levels` the values in question such as
8/4/3/2 (or keep: left as it is). `assign` says which of them, counted from 0: one number for all matrices, one for each block that is left,
or one for each matrix, block by block. Each level is decided as the operator itself would on the model before this step, all on the same
text, and each matrix is taken from its level; further parameters of the operator go into `more`, such as group:16;symmetric:true.

Use it to run an assignment that a search found under a budget (see Levels by search), or one of your own. Not for operators that change
what lies between the matrices: removing, sharing or slicing has no level for a matrix.

Source: the idea of Sieberling et al., “EvoPress”, 2024; which levels are chosen is another question.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from metrics.mixture import require_matrix_by_matrix
from metrics.stored_bits import dtype_bits, parameter_name, split_key
from models.loaded import Model
from models.outline import Outline
from models.params import param, read_params
from models.progress import Stage
from models.refusal import NotApplicable, Refused
from models.shape import Matrix, Shape, shape_of
from operators.contract import Storage

TITLE = "Mixed levels"
KEEP = "keep"


@dataclass(frozen=True)
class Params:
    of: str = param("round_to_nearest", "Operator", first=True, help="Its name, such as gptq")
    dial: str = param("bits", "Its level", first=True, help="The parameter that differs between matrices")
    levels: str = param("8/4/3/2", "Levels", first=True, help="Its values, such as 8/4/3/2; keep leaves a matrix as it is")
    assign: tuple[int, ...] = param((), "Assignment", first=True, low=0, help="Which level, from 0: one for all, one a block, or one a matrix; none changes nothing")
    more: str = param("", "Its other parameters", help="Such as group:16;symmetric:true")


NEUTRAL = (Params(), 0.0)
SWEEP = ("assign=1",)


@dataclass(frozen=True, eq=False)
class Plan:
    weight: dict[str, torch.Tensor]  # [out, in] by matrix key, where it is not left as it is
    bias: dict[str, torch.Tensor]  # [out], where the operator changed it too
    bits: dict[str, torch.Tensor]  # by parameter name


def inner(params: Params):
    """The operator whose levels are mixed."""
    from operators import OPERATORS  # the registry that lists this module too

    if params.of not in OPERATORS or params.of == "mixed_levels":
        raise Refused(f"of={params.of[:40]} is no operator whose levels could be mixed; known: {', '.join(n for n in OPERATORS if n != 'mixed_levels')}.")
    if getattr(OPERATORS[params.of], "TOGETHER", False):
        raise NotApplicable(f"What {params.of} stores serves several blocks at once, so a matrix has no bits of its own and its levels cannot be mixed; choose an operator that prunes, rounds or factors single matrices.")
    return OPERATORS[params.of]


def settings(params: Params) -> list:
    """The operator's Params at each level, None for keep; Refused where they cannot be read."""
    operator, others = inner(params), {}
    for pair in filter(None, params.more.split(";")):
        name, colon, value = pair.partition(":")
        if not colon:
            raise Refused(f"“{pair[:40]}” in more is not name:value.")
        others[name] = value
    return [None if level == KEEP else read_params(operator.Params, {**others, params.dial: level}) for level in params.levels.split("/")]


def level_of(params: Params, matrices: tuple[Matrix, ...]) -> dict[str, int]:
    """Matrix key -> index of its level; empty where nothing is assigned."""
    layers = sorted({m.layer for m in matrices})
    given = params.assign
    if len(given) == 1:
        given = given * len(matrices)
    elif len(given) == len(layers) and len(layers) != len(matrices):
        given = tuple(given[layers.index(m.layer)] for m in matrices)
    elif given and len(given) != len(matrices):
        raise Refused(f"assign has {len(given)} numbers; expected 1, {len(layers)} (one a block) or {len(matrices)} (one a matrix).")
    n_levels = params.levels.count("/") + 1
    if any(k >= n_levels for k in given):
        raise Refused(f"assign names level {max(given)}; there are {n_levels}, counted from 0: {params.levels}.")
    return dict(zip((m.key for m in matrices), given))


def calibrated(params: Params) -> bool:
    every = settings(params)
    return any(every[k] is not None and inner(params).calibrated(every[k]) for k in set(params.assign) if k < len(every))


def check(params: Params, shape: Shape) -> None:
    every, used = settings(params), set(level_of(params, shape.matrices).values())
    for k in used:
        if every[k] is not None:
            inner(params).check(every[k], shape)


def foresee(params: Params, outline: Outline) -> Outline:
    """Each matrix as the operator foresees it at its level."""
    every, level = settings(params), level_of(params, outline.shape.matrices)
    if not hasattr(inner(params), "foresee"):
        return replace(outline, known=False)
    made = {k: inner(params).foresee(every[k], outline) for k in set(level.values()) if every[k] is not None}
    bits, zeros = dict(outline.bits), dict(outline.zeros)
    for m in outline.shape.matrices:
        at = made.get(level.get(m.key, -1))
        for kind in ("weight", "bias") if at is not None else ():
            name = outline.name(m).removesuffix("weight") + kind
            bits |= {name: at.bits[name]} if name in at.bits else {}
            zeros |= {name: at.zeros[name]} if name in at.zeros else {}
    return replace(outline, bits=bits, zeros=zeros, sure=outline.sure and all(o.sure for o in made.values()))


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    matrices = shape_of(model).matrices
    every, level = settings(params), level_of(params, matrices)
    used = [k for k in sorted(set(level.values())) if every[k] is not None]
    seed, plan = torch.initial_seed(), Plan({}, {}, {})
    for i, k in enumerate(used):
        torch.manual_seed(seed)  # as if the operator stood alone in the recipe
        stage = Stage(progress, i / len(used), (i + 1) / len(used)).part(params.levels.split("/")[k])
        operator, made = inner(params), model.copy(f"level {k}")
        operator.apply(made, operator.decide(model, every[k], calibration if operator.calibrated(every[k]) else None, stage))
        require_matrix_by_matrix(model, made)
        for m in matrices:
            if level[m.key] == k:
                _take(plan, model, made, m)
    progress.step(1, 1, "")
    return plan


def _take(plan: Plan, model: Model, made: Model, m: Matrix) -> None:
    plan.weight[m.key] = made.matrix(m.layer, m.name).detach().clone().cpu()
    before, bias = (x.blocks[m.layer].get_submodule(m.name).bias for x in (model, made))
    if bias is not None and (before is None or not torch.equal(before, bias)):
        plan.bias[m.key] = bias.detach().clone().cpu()
    stem = parameter_name(made, m.layer, m.name).removesuffix("weight")
    plan.bits.update({n: torch.tensor(float(b)) for n, b in made.bits.items() if n.startswith(stem)})


def apply(model: Model, plan: Plan) -> None:
    for key, weight in plan.weight.items():
        bias = plan.bias.get(key)
        model.set_matrix(*split_key(key), weight.to(model.device), None if bias is None else bias.to(model.device))
    model.bits.update({name: float(bits) for name, bits in plan.bits.items()})


def storage(model: Model, plan: Plan) -> Storage:
    stored, weights = sum(float(b) for b in plan.bits.values()), 0
    for key, weight in plan.weight.items():
        weights += weight.numel()
        stored += 0 if parameter_name(model, *split_key(key)) in plan.bits else weight.numel() * dtype_bits(model)
    return Storage(stored, weights, False, "each matrix as its own level stores it; as fast as before")
