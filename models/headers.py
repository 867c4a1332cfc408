"""Read the header of a safetensors file and believe none of it.

The format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian length n, n bytes of JSON, then the
data. Every tensor says dtype, shape and [begin, end) relative to the data. Read here without the data, in Python, so that
a page can list a terabyte checkpoint and so that what a hostile file may claim is decided in one place:

- the header fits in the file and in MAX_HEADER; names are unique, printable and free of markup;
- dtype is known, shape is small whole numbers, end − begin is exactly the bytes they need;
- tensors follow each other without gap or overlap and end where the file ends.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from models.refusal import Refused, shown

MAX_HEADER = 32 << 20  # bytes; the format allows 100 MB, 200,000 tensors need about 25
MAX_TENSORS = 200_000
MAX_RANK = 8
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}
FLOATS = ("F64", "F32", "F16", "BF16")
_NAME = re.compile(r"[A-Za-z0-9_.\-/:+ \[\]|@#=,()]{1,512}\Z")


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor: `begin` and `end` are byte positions in the file, not in its data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file: str

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """What one file says it holds, checked; `metadata` is the file's own str → str notes."""

    path: Path
    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]


def read(path: Path) -> Header:
    """Parse and check the header of `path`; raises Refused in words. Reads at most MAX_HEADER + 8 bytes."""
    name, size = path.name, path.stat().st_size
    if size < 10:
        raise Refused(f"{name} has {size} bytes; a safetensors file has a header of at least 10. Upload the file again.")
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER:
            raise Refused(
                f"{name} announces a header of {length:,} bytes; at most {MAX_HEADER:,} are read. "
                "It is not a safetensors file, or it is damaged: save it again with safetensors."
            )
        if length > size - 8:
            raise Refused(
                f"{name} announces a header of {length:,} bytes but holds {size:,} in all: it is cut short. Copy or download it again."
            )
        raw = file.read(length)
    if not raw.startswith(b"{"):
        raise Refused(f"{name} does not start like a safetensors file. If it is a pickle (.bin, .pt), convert it (python -m models.convert in.bin out/).")
    return check(strict_json(raw, name), name, length + 8, size, path)


def check(header: object, name: str, start: int, size: int, path: Path) -> Header:
    """The parsed header against the file's size; `start` is where the data begins."""
    if not isinstance(header, dict):
        raise Refused(f"The header of {name} is not a table of tensors. Save it again with safetensors.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused(f"The __metadata__ of {name} is not a table of text. Save it again with safetensors.")
    if len(header) > MAX_TENSORS:
        raise Refused(f"{name} lists {len(header):,} tensors; at most {MAX_TENSORS:,} are read.")
    tensors = sorted((_tensor(key, entry, name, start, size) for key, entry in header.items()), key=lambda t: (t.begin, t.end))
    position = start
    for tensor in tensors:
        if tensor.begin != position:
            what = "overlaps the one before it" if tensor.begin < position else f"leaves a gap of {tensor.begin - position:,} bytes"
            raise Refused(f"In {name}, tensor {tensor.name} {what}: the file is damaged or made by hand. Save it again with safetensors.")
        position = tensor.end
    if position != size:
        what = f"{size - position:,} bytes follow the last tensor" if position < size else f"the last {position - size:,} bytes are missing"
        raise Refused(f"In {name}, {what}: expected {position:,} bytes, found {size:,}. Copy or download it again.")
    return Header(path, tuple(tensors), metadata)


def _tensor(key: str, entry: object, file: str, start: int, size: int) -> TensorInfo:
    if not _NAME.match(key):
        raise Refused(f"{file} holds a tensor whose name no framework writes ({shown(key, 60)}). Rename it and save again.")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Refused(f"In {file}, tensor {key} lacks dtype, shape or data_offsets, or says more. Save it again with safetensors.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise Refused(f"In {file}, tensor {key} has the dtype {shown(dtype, 40)}; expected one of {', '.join(BITS)}.")
    if not _whole(shape) or len(shape) > MAX_RANK:
        raise Refused(f"In {file}, tensor {key} has the shape {shown(shape, 80)}; expected at most {MAX_RANK} whole numbers.")
    if not _whole(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise Refused(f"In {file}, tensor {key} has the offsets {shown(offsets, 80)}; expected two rising whole numbers.")
    bits = math.prod(shape) * BITS[dtype]
    begin, end = offsets
    if bits != 8 * (end - begin):
        raise Refused(
            f"In {file}, tensor {key} of shape {'×'.join(map(str, shape)) or 'scalar'} and dtype {dtype} needs {-(-bits // 8):,} bytes, "
            f"but its place in the file has {end - begin:,}. The header lies or the file is damaged: save it again."
        )
    if start + end > size:
        raise Refused(f"{file} is cut short: tensor {key} ends at byte {start + end:,}, the file at {size:,}. Copy or download it again.")
    return TensorInfo(key, dtype, tuple(shape), start + begin, start + end, file)


def _whole(values: object) -> bool:
    return isinstance(values, list) and len(values) <= 32 and all(type(v) is int and 0 <= v < 1 << 48 for v in values)


def strict_json(raw: bytes, name: str, limit: int = MAX_HEADER) -> object:
    """JSON with unique keys, without NaN or Infinity, in UTF-8; anything else is Refused."""
    if len(raw) > limit:
        raise Refused(f"{name} has {len(raw):,} bytes; at most {limit:,} are read.")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise Refused(f"{name} is not text in UTF-8 (byte {error.start:,}). It is damaged or has the wrong extension.") from error
    except RecursionError as error:
        raise Refused(f"{name} is nested deeper than any real file. It is damaged or made to do harm.") from error
    except ValueError as error:
        raise Refused(f"{name} is not valid JSON: {shown(str(error), 120)}. Save it again.") from error


def _unique(pairs: list[tuple[str, object]]) -> dict:
    table = dict(pairs)
    if len(table) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in table if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice, 60)} appears twice")
    return table


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")
