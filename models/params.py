"""Typed parameters of analyses and operators: one frozen dataclass each, read from untrusted text, written into keys.

Fields are bool, int, float, str, Literal or tuple[int, ...], all with defaults; controls, links, the command line and
recipes are generated from them.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import field
from typing import Any, Literal

from models.refusal import Refused


def param(default, label: str, *, help: str = "", first: bool = False, low=None, high=None, unit: str = "", display: bool = False, slider: bool = False,
          labels: bool = False):
    """A field of Params. `first`: shown in the run bar, not folded under More. `display`: changes figures only and is
    no part of the key, so moving it never computes again. `slider`: the values of a Literal, in order, on a slider under More. `labels`: the
    name of one of the text's labels; those it has are offered under More."""
    return field(default=default, metadata=dict(label=label, help=help, first=first, low=low, high=high, unit=unit, display=display, slider=slider, labels=labels))


def fields_of(params_class) -> list[tuple[dataclasses.Field, Any]]:
    """(field, type) of a Params class, in order, annotations resolved."""
    hints = typing.get_type_hints(params_class)
    return [(f, hints[f.name]) for f in dataclasses.fields(params_class)]


def read_params(params_class, given: dict[str, Any]):
    """Params from untrusted values (text from a link, JSON from a job); Refused names the field, the value and what fits."""
    known = dict((f.name, (f, kind)) for f, kind in fields_of(params_class))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise Refused(f"There is no parameter “{str(unknown[0])[:40]}”; known: {', '.join(known) or 'none'}.")
    values = {name: _read(name, given[name], *known[name]) for name in given}
    return params_class(**values)


def _read(name: str, value: Any, f: dataclasses.Field, kind: Any):
    value = _typed(name, value, kind)
    low, high = f.metadata.get("low"), f.metadata.get("high")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            if (low is not None and number < low) or (high is not None and number > high) or number != number:
                raise Refused(f"{name} = {number} is out of range; expected {_range(low, high)}.")
    return value


def _range(low, high) -> str:
    if low is None or high is None:
        return f"at least {low}" if high is None else f"at most {high}"
    return f"{low} to {high}"


def _typed(name: str, value: Any, kind: Any):
    text = value if isinstance(value, str) else None
    if typing.get_origin(kind) is Literal:
        for choice in typing.get_args(kind):
            if value == choice or text == str(choice):
                return choice
        raise Refused(f"{name} = “{str(value)[:40]}” is not one of {', '.join(map(str, typing.get_args(kind)))}.")
    if typing.get_origin(kind) is tuple:
        parts = [] if text in ("", "none") else text.split(".") if text is not None else value
        if isinstance(parts, (list, tuple)) and all(_whole(p) for p in parts):
            return tuple(int(p) for p in parts)
        raise Refused(f"{name} = “{str(value)[:40]}” is not a list of whole numbers such as 3.4.")
    if kind is bool:
        if isinstance(value, bool) or text in ("true", "false"):
            return value if isinstance(value, bool) else text == "true"
        raise Refused(f"{name} = “{str(value)[:40]}” is neither true nor false.")
    if kind is int and _whole(value):
        return int(value)
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    if kind is str and text is not None:
        return text
    raise Refused(f"{name} = “{str(value)[:40]}” is not {'a whole number' if kind is int else 'a number' if kind is float else 'text'}.")


def _whole(value: Any) -> bool:
    if isinstance(value, str):
        return value.removeprefix("-").isdigit() and value.isascii() and len(value) < 12
    return isinstance(value, int) and not isinstance(value, bool)


def key_params(params) -> dict:
    """The parameters that define a computation: display fields left out."""
    return {f.name: getattr(params, f.name) for f in dataclasses.fields(params) if not f.metadata.get("display")}
