"""What a sweep makes of a model: every chosen operator at the settings worth comparing, once for each calibration seed."""

from __future__ import annotations

import typing
from dataclasses import replace
from types import ModuleType
from typing import Literal

from analysis import run
from models.params import fields_of, key_params, read_params
from models.refusal import Refused
from models.variant import Step, Variant, write_value
from models.variant import parse as grammar


HEALING = Step("heal")


def on_top(a: Variant, steps: tuple[Step, ...]) -> Variant:
    """A with these steps; Refused where their order makes no sense or a step cannot be done to A."""
    made = run.operators.canonical(replace(a, steps=(*a.steps, *steps)))
    run.require_possible(made)
    return made


def settings(operator: ModuleType) -> tuple[str, ...]:
    """What is worth comparing of an operator: what it names itself, else steps of its first parameter around the default."""
    if hasattr(operator, "SWEEP"):
        return operator.SWEEP
    first, kind = next(((f, kind) for f, kind in fields_of(operator.Params) if f.metadata.get("first")), (None, None))
    if first is None:
        return ("",)
    if typing.get_origin(kind) is Literal:
        values = typing.get_args(kind)
    elif kind in (int, float):
        low, high = first.metadata.get("low"), first.metadata.get("high")
        inside = lambda v: (low is None or v >= low) and (high is None or v <= high)
        values = [v for v in dict.fromkeys(kind(first.default * share) for share in (0.5, 1, 1.5)) if inside(v)]
    else:
        return ("",)
    return tuple(f"{first.name}={write_value(v)}" for v in values)


def variants(a: Variant, before: tuple[Step, ...], names: tuple[str, ...], seeds: int, heal: bool = False) -> tuple[list[Variant], list[str]]:
    """(what a sweep makes, why some of it cannot be made): every setting of every operator, after the steps `before`; with `heal` each
    of them once more with a healing step after it."""
    made, left_out = [], []
    for name in names:
        for setting in settings(run.operators.OPERATORS[name]):
            step = grammar(f"demo/x~{name}{':' + setting if setting else ''}").steps[0]
            try:
                first = on_top(a, (*before, step))
            except Refused as error:
                left_out.append(f"{name} {setting}: {error}")
                continue
            again = range(seeds) if first.steps[-1].on else range(1)
            own = [replace(first, steps=(*first.steps[:-1], replace(first.steps[-1], seed=first.steps[-1].seed + k))) for k in again]
            made += own
            if heal:
                try:
                    made += [on_top(v, (HEALING,)) for v in own]
                except Refused as error:
                    left_out.append(f"{name} {setting}, healed: {error}")
    return list(dict.fromkeys(made)), left_out


def label(a: Variant, v: Variant) -> str:
    """What a variant is called on the plane: the words of the steps it adds to A."""
    added = v.steps[len(a.steps):] if v.steps[: len(a.steps)] == a.steps else v.steps
    return ", ".join(words(step) for step in added) or "A"


def words(step: Step) -> str:
    """"gptq bits=3, group=64": the operator, its first parameter, and what else differs from the defaults."""
    operator = run.operators.OPERATORS[step.operator]
    values, default = key_params(read_params(operator.Params, dict(step.params))), key_params(operator.Params())
    first = next(iter(values), None)
    told = {name: value for name, value in values.items() if value != default[name]}
    if first in values and values[first] != () and not told.keys() & {"rank", "blocks", "attn", "mlp"}:
        told = {first: values[first], **told}
    return " ".join([step.operator, ", ".join(f"{name}={write_value(value)}" for name, value in told.items())]).strip()
