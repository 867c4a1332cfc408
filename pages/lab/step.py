"""One step of the recipe: its parameters, generated from the operator's Params, its calibration text, its place."""

from __future__ import annotations

import re
import typing
from dataclasses import replace
from types import ModuleType
from typing import Literal

import streamlit as st

import operators
from analysis import run
from demo.world import STRANDS
from models import corpus as corpora
from models.corpus import parse as parse_corpus
from models.params import fields_of, key_params, read_params
from models.refusal import Refused
from models.variant import Step, write_value
from pages.lab import link
from pages.shared import controls
from pages.shared.wording import prose

REFUSAL = "lab_refusal"


def when(operator: ModuleType) -> str:
    """The operator's own words on when to use it, and when not."""
    text = " ".join((operator.__doc__ or "").split())
    found = re.search(r"Use it .*?(?= Sources?: |$)", text)
    return found.group(0) if found else text.partition(". ")[0]


def draw(steps: tuple[Step, ...], i: int) -> None:
    """Call inside the step's popover."""
    step = steps[i]
    operator = operators.OPERATORS[step.operator]
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key=f"foot_step_{i}"):
        st.markdown(f"**{operator.TITLE}**", width="content")
        st.space("stretch")
        st.button("Earlier", icon=":material/arrow_back:", type="tertiary", key=f"earlier_{i}", disabled=i == 0, on_click=_move, args=(i, i - 1))
        st.button("Later", icon=":material/arrow_forward:", type="tertiary", key=f"later_{i}", disabled=i == len(steps) - 1, on_click=_move, args=(i, i + 1))
        st.button("Remove", icon=":material/delete:", type="tertiary", key=f"remove_{i}", on_click=_remove, args=(i,))
    st.caption(prose(when(operator)))
    params = read_params(operator.Params, dict(step.params))
    with st.grid(2, min_column_width=150, gap="small"):
        for f, kind in sorted(fields_of(operator.Params), key=lambda pair: not pair[0].metadata.get("first")):
            _control(i, step, f, kind, getattr(params, f.name))
    if operator.calibrated(params):
        _calibration(i, step)


def _control(i: int, step: Step, f, kind, value) -> None:
    key, about = f"step{i}_{step.operator}_{f.name}", f.metadata.get("help") or None
    text = f.metadata.get("label", f.name).replace("{}", "…")
    changed = dict(on_change=_changed, args=(i, f.name, key))
    if kind is bool:
        st.toggle(text, key=controls.seed(key, value), help=about, **changed)
    elif typing.get_origin(kind) is Literal:
        st.selectbox(text, [write_value(v) for v in typing.get_args(kind)], key=controls.seed(key, write_value(value)), help=about, **changed)
    elif kind in (int, float):
        low, high = f.metadata.get("low"), f.metadata.get("high")
        st.number_input(text, None if low is None else kind(low), None if high is None else kind(high), key=controls.seed(key, kind(value)), help=about,
                        step=1 if kind is int else 0.05, format=None if kind is int else "%g", **changed)
    else:
        st.text_input(text, key=controls.seed(key, "" if value in ((), "") else write_value(value)), placeholder="none", help=about, **changed)


def _calibration(i: int, step: Step) -> None:
    spec = parse_corpus(step.on or operators.default_text(step.operator))
    st.caption("Calibration text, read before it decides")
    with st.grid(2, min_column_width=150, gap="small"):
        key = f"step{i}_on_source"
        sources = [f"demo/{strand}" for strand in STRANDS] + list(corpora.texts(run.home()))
        st.selectbox("Text", list(dict.fromkeys([*sources, spec.source])), key=controls.seed(key, spec.source), accept_new_options=True, on_change=_recalibrated,
                     args=(i, "source", key), help="Text that training saw, not the text of the measurement: calibrating on that would flatter the method.")
        for name, label, low, high in (("n_sequences", "Sequences", 1, 4096), ("length", "Tokens each", 4, 8192)):
            key = f"step{i}_on_{name}"
            st.number_input(label, low, high, key=controls.seed(key, getattr(spec, name)), on_change=_recalibrated, args=(i, name, key))
        key = f"step{i}_seed"
        st.number_input("Calibration seed", 0, 10**9 - 1, key=controls.seed(key, step.seed), on_change=_reseeded, args=(i, key), help="Draws another calibration text from the same source.")


def _steps() -> list[Step]:
    return list(link.recipe(st.query_params.get("recipe")).steps)


def _changed(i: int, name: str, key: str) -> None:
    """Another value of a parameter; one that the operator cannot read is told beside the recipe and not written."""
    step, value = _steps()[i], st.session_state[key]
    given = {**dict(step.params), name: value if isinstance(value, (str, bool)) else write_value(value)}
    _put(i, lambda: link.checked(Step(step.operator, _fields(step.operator, given), step.on, step.seed)))


def _fields(operator: str, given: dict) -> tuple:
    """Parameters as the grammar takes them, those of the defaults left out."""
    params = operators.OPERATORS[operator].Params
    values, default = key_params(read_params(params, given)), key_params(params())
    return tuple((name, write_value(value)) for name, value in values.items() if value != default[name])


def _recalibrated(i: int, name: str, key: str) -> None:
    step, value = _steps()[i], st.session_state[key]
    spec = parse_corpus(step.on or operators.default_text(step.operator))

    def changed() -> Step:
        new = parse_corpus(value) if name == "source" and ":" in str(value) else replace(spec, **{name: value})
        return link.checked(replace(step, on=parse_corpus(new.written).written))

    _put(i, changed)


def _reseeded(i: int, key: str) -> None:
    _put(i, lambda: replace(_steps()[i], seed=int(st.session_state[key])))


def _put(i: int, make) -> None:
    try:
        step = make()
    except Refused as error:
        st.session_state[REFUSAL] = str(error)
        return
    steps = _steps()
    steps[i] = step
    link.write(steps)


def _move(i: int, to: int) -> None:
    steps = _steps()
    steps.insert(to, steps.pop(i))
    link.write(steps)


def _remove(i: int) -> None:
    steps = _steps()
    del steps[i]
    link.write(steps)


def add(key: str) -> None:
    """Append the operator chosen under `key` with its defaults."""
    link.write([*_steps(), link.checked(Step(st.session_state[key]))])
