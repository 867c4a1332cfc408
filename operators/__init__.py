"""The compression operators, by name, and the reading of recipes.

An operator is one module with

    TITLE                                  shown in the lab; the docstring is its Method
    Params                                 frozen dataclass (models.params)
    Plan                                   frozen dataclass of tensors, arrays, scalars: what was decided, as stored
    NEUTRAL                                (params, tolerance) that leave the logits unchanged, or None
    calibrated(params) -> bool             whether decide looks at text
    check(params, shape) -> None           refuses in words, before any computation
    decide(model, params, calibration, progress) -> Plan    expensive; calibration is a Capture of the parent, or None
    apply(model, plan) -> None             mechanical; replays at every load on a private copy
    storage(model, plan) -> Storage        honest bits, and whether it is faster or only smaller
"""

from __future__ import annotations

from dataclasses import replace

from models.corpus import parse as parse_corpus
from models.params import key_params, read_params
from models.refusal import Refused
from models.variant import Step, Variant, parse as parse_grammar
from operators import drop_layers

CALIBRATION = "demo/mixed:train:64x128"  # where a recipe names no text

OPERATORS = {module.__name__.rpartition(".")[2]: module for module in (drop_layers,)}


def parse(text: str) -> Variant:
    """Read a variant's written form with every step's operator and parameters checked; canonical, so one recipe has one form."""
    return canonical(parse_grammar(text))


def canonical(variant: Variant) -> Variant:
    steps = tuple(_checked(step) for step in variant.steps)
    return replace(variant, steps=steps, parents=tuple(canonical(p) for p in variant.parents))


def _checked(step: Step) -> Step:
    operator = OPERATORS.get(step.operator)
    if operator is None:
        raise Refused(f"There is no operator “{step.operator}”; known: {', '.join(OPERATORS)}.")
    params = read_params(operator.Params, dict(step.params))
    default = key_params(operator.Params())
    given = tuple((name, value) for name, value in key_params(params).items() if value != default[name])
    on = parse_corpus(step.on or CALIBRATION).written if operator.calibrated(params) else None
    return Step(step.operator, given, on, step.seed)
