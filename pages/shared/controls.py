"""Controls generated from a Params class, their values kept in the link.

A control never holds state of its own: before it is drawn it takes its value from the link, when it is moved it writes there.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, Literal

import streamlit as st

from models.params import fields_of
from models.variant import write_value
from pages.shared.wording import sentence

FIRST = 3  # how many parameters stand in the run bar, where none is marked


def split(params_class) -> tuple[list, list]:
    """(field, type) pairs for the run bar, and those folded under More."""
    fields = fields_of(params_class)
    marked = [pair for pair in fields if pair[0].metadata.get("first")] or fields[:FIRST]
    return marked[:FIRST], [pair for pair in fields if pair not in marked[:FIRST]]


def seed(key: str, value: Any) -> str:
    """Give a control its value before it is drawn; returns the key."""
    st.session_state[key] = value
    return key


def write_link(name: str, text: str | None) -> None:
    """Put one value into the link, or take it out."""
    if text is None:
        st.query_params.pop(name, None)
    else:
        st.query_params[name] = text


def bar(f, kind, value: Any, disabled: bool = False) -> None:
    """One control of the run bar: no label above, the value carries the name; a text field has it in front."""
    label = f.metadata.get("label", f.name)
    help_text = f.metadata.get("help") or None
    if kind is bool:
        _toggle(f, value, disabled)
        return
    choices = _choices(f, kind, value)
    if choices is None:
        st.caption(_label(f), width="content")
        _text(f, value, disabled, collapsed=True)
        return
    unit = f.metadata.get("unit", "")
    st.selectbox(
        label.replace("{}", "…"), choices, key=seed(f"param_{f.name}", write_value(value)), label_visibility="collapsed", disabled=disabled,
        width=width(sentence(label, write_value(value), unit)), format_func=lambda text: sentence(label, text, unit), help=help_text, accept_new_options=kind in (int, float),
        on_change=_store, args=(f"param_{f.name}", f.name, write_value(f.default)),
    )


def width(text: str) -> int:
    """px of a select that shows this text without clipping it."""
    return min(round(7.0 * len(text)) + 48, 260)


def folded(f, kind, value: Any, disabled: bool = False, labels: Callable[[], tuple[str, ...]] = tuple) -> None:
    """One control under More, with its label and help; `labels` reads the names of the text's labels."""
    if f.metadata.get("labels"):
        st.selectbox(
            _label(f), list(dict.fromkeys(["", *labels(), value])), key=seed(f"param_{f.name}", value), disabled=disabled, accept_new_options=True,
            format_func=lambda name: name or "by itself", help=f.metadata.get("help") or None, on_change=_store, args=(f"param_{f.name}", f.name, ""),
        )
    elif kind is bool:
        _toggle(f, value, disabled)
    elif typing.get_origin(kind) is Literal:
        draw = st.select_slider if f.metadata.get("slider") else st.selectbox
        draw(
            _label(f), [write_value(v) for v in typing.get_args(kind)], key=seed(f"param_{f.name}", write_value(value)), disabled=disabled,
            help=f.metadata.get("help") or None, on_change=_store, args=(f"param_{f.name}", f.name, write_value(f.default)),
        )
    elif kind in (int, float):
        low, high = f.metadata.get("low"), f.metadata.get("high")
        st.number_input(
            _label(f), min_value=None if low is None else kind(low), max_value=None if high is None else kind(high),
            key=seed(f"param_{f.name}", kind(value)), disabled=disabled, step=1 if kind is int else None, format=None if kind is int else "%g",
            help=f.metadata.get("help") or None, on_change=_store, args=(f"param_{f.name}", f.name, write_value(f.default)),
        )
    else:
        _text(f, value, disabled, collapsed=False)


def _label(f) -> str:
    label, unit = f.metadata.get("label", f.name).replace("{}", "…"), f.metadata.get("unit", "")
    return f"{label}, {unit}" if unit else label


def _toggle(f, value: bool, disabled: bool) -> None:
    st.toggle(
        f.metadata.get("label", f.name), key=seed(f"param_{f.name}", value), disabled=disabled, help=f.metadata.get("help") or None,
        on_change=_store, args=(f"param_{f.name}", f.name, write_value(f.default)),
    )


def _text(f, value: Any, disabled: bool, collapsed: bool) -> None:
    st.text_input(
        _label(f), key=seed(f"param_{f.name}", "" if value == () else write_value(value)), disabled=disabled,
        placeholder=_label(f), label_visibility="collapsed" if collapsed else "visible", width=max(width(write_value(value)), 140) if collapsed else "stretch", help=f.metadata.get("help") or None,
        on_change=_store, args=(f"param_{f.name}", f.name, write_value(f.default)),
    )


def _store(key: str, name: str, default: str) -> None:
    value = st.session_state[key]
    text = write_value(value) if value is not None else default
    write_link(name, None if text == default else text)


def _choices(f, kind, value: Any) -> list[str] | None:
    """Values offered in the run bar, as text, the present one among them; None where only free text will do."""
    if typing.get_origin(kind) is Literal:
        return [write_value(v) for v in typing.get_args(kind)]
    if kind not in (int, float):
        return None
    low, high = f.metadata.get("low"), f.metadata.get("high")
    around = [f.default * factor for factor in (0.25, 0.5, 1, 2, 4)] if f.default else [0, 1, 2, 4, 8]
    values = {kind(v) for v in (*around, f.default, value)} | {v for v in (kind(low) if low is not None else None,) if v is not None}
    kept = [v for v in values if (low is None or v >= low) and (high is None or v <= high)]
    return [write_value(v) for v in sorted(kept)]
