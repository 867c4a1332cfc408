"""Flat dataclasses and plain values as arrays, tables and JSON, and back, bit for bit.

`plain` mirrors the value in JSON: scalars, text and lists stand for themselves; whatever JSON would lose is a dictionary
with one key that names its form: {"tuple": […]}, {"dict": {…}}, {"array": "name"}, {"tensor": "name"}, {"table": "name"} …
Arrays are named by their path: field, field.key, field.0.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from typing import Any

import numpy as np

STORABLE = frozenset("float64 float32 float16 int64 uint64 int32 uint32 int16 uint16 int8 uint8 bool".split())


def encode(obj) -> tuple[dict, dict, dict]:
    """(arrays, tables, plain) of a dataclass instance.

    Fields are numpy arrays, torch tensors, scalars, text, None, pyarrow Tables, and tuples, lists and dicts of these.
    Anything else is a TypeError that names the field.
    """
    if not dataclasses.is_dataclass(obj) or isinstance(obj, type):
        raise TypeError(f"{type(obj).__name__} cannot be stored; expected an instance of a dataclass.")
    arrays, tables = {}, {}
    plain = {f.name: _write(getattr(obj, f.name), f.name, arrays, tables) for f in dataclasses.fields(obj) if f.init}
    return arrays, tables, plain


def decode(cls, entry):
    """The dataclass again. `entry` has `.record["plain"]`, `.array(name)`, `.tensor(name)`, `.table(name)`; arrays may be
    read-only views of the file."""
    plain = entry.record["plain"]
    return cls(**{name: _read(value, entry) for name, value in plain.items()})


def encode_value(value) -> tuple[dict, dict, Any]:
    """(arrays, tables, plain) of one nested value, as `encode` does for a dataclass's fields."""
    arrays, tables = {}, {}
    plain = _write(value, "", arrays, tables)
    return arrays, tables, plain


def decode_value(plain, entry):
    return _read(plain, entry)


def _write(value, name: str, arrays: dict, tables: dict):
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.ndarray):
        return _write_array(value, name, arrays)
    if isinstance(value, np.generic):
        return {"scalar": _write_array(np.asarray(value), name, arrays)}
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, (list, tuple)):
        if hasattr(value, "_fields"):
            raise TypeError(f"{name or 'value'} is a named tuple ({type(value).__name__}), which would come back nameless; use a plain tuple.")
        items = [_write(v, _join(name, str(i)), arrays, tables) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        return _write_dict(value, name, arrays, tables)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if kind.startswith("torch.") and hasattr(value, "data_ptr"):
        return _write_tensor(value, name, arrays)
    if kind == "pyarrow.lib.Table":
        return {"table": _fresh(name, value, tables)}
    raise TypeError(f"{name or 'value'} is {kind}, which cannot be stored; expected arrays, tensors, tables, plain values, and tuples, lists or dicts of them.")


def _write_dict(value: dict, name: str, arrays: dict, tables: dict):
    if all(isinstance(k, str) for k in value):
        return {"dict": {k: _write(v, _join(name, k), arrays, tables) for k, v in value.items()}}
    for k in value:
        if not isinstance(k, (str, int, float, tuple, type(None))) or isinstance(k, np.generic):
            raise TypeError(f"{name or 'value'} has a key of type {type(k).__name__}; expected text or plain numbers.")
    return {"items": [[_write(k, name, arrays, tables), _write(v, _join(name, str(k)), arrays, tables)] for k, v in value.items()]}


def _write_array(value: np.ndarray, name: str, arrays: dict):
    if type(value) is not np.ndarray and not isinstance(value, np.memmap):
        raise TypeError(f"{name} is {type(value).__name__}; expected a plain numpy array.")
    if value.dtype.kind == "U":
        return {"strings": value.ravel().tolist(), "shape": list(value.shape), "dtype": value.dtype.str}
    if value.dtype.name in ("complex64", "complex128"):
        real = np.ascontiguousarray(value).reshape(-1).view(value.real.dtype)
        return {"complex": _fresh(name, real, arrays), "shape": list(value.shape)}
    if value.dtype.name not in STORABLE:
        raise TypeError(f"{name} is an array of {value.dtype}, which has no lossless form here; expected numbers, bool or text.")
    return {"array": _fresh(name, np.asarray(value, dtype=value.dtype.newbyteorder("="), order="C"), arrays)}


def _write_tensor(value, name: str, arrays: dict):
    value = value.detach()
    if value.is_sparse or value.is_quantized:
        raise TypeError(f"{name} is a sparse or quantized tensor; store its parts (indices, values, scales) instead.")
    form = "tensor"
    if value.is_complex():
        import torch

        value, form = torch.view_as_real(value.resolve_conj()), "complex_tensor"
    return {form: _fresh(name, value.cpu().contiguous(), arrays)}


def _read(plain, entry):
    if isinstance(plain, list):
        return [_read(v, entry) for v in plain]
    if not isinstance(plain, dict):
        return plain
    (form, content), *rest = plain.items()
    match form:
        case "array":
            return entry.array(content)
        case "tensor":
            return entry.tensor(content)
        case "table":
            return entry.table(content)
        case "tuple":
            return tuple(_read(v, entry) for v in content)
        case "dict":
            return {k: _read(v, entry) for k, v in content.items()}
        case "items":
            return {_read(k, entry): _read(v, entry) for k, v in content}
        case "float":
            return float(content)
        case "bytes":
            return base64.b64decode(content)
        case "scalar":
            return _read(content, entry)[()]
        case "strings":
            return np.array(content, dtype=plain["dtype"]).reshape(plain["shape"])
        case "complex":
            real = entry.array(content)
            return real.view({"float32": "complex64", "float64": "complex128"}[real.dtype.name]).reshape(plain["shape"])
        case "complex_tensor":
            import torch

            return torch.view_as_complex(entry.tensor(content))
    raise ValueError(f"stored form “{form}” is not known to this version of the program.")


def _fresh(name: str, value, into: dict) -> str:
    """A name not taken yet: {"a.b": x, "a": {"b": y}} must not collide."""
    name = name or "value"
    while name in into:
        name += "'"
    into[name] = value
    return name


def _join(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part
