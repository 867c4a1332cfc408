"""Masks made elsewhere: one safetensors file per subnetwork, on a shelf of its own, written `masks/<title>-<12 hex of its content>`.

Per masked parameter, by its Hugging Face name and in its own orientation, either the mask itself (BOOL or U8, 0 or 1) or its
rows packed to bits (U8 [rows, ceil(columns / 8)], first column in the lowest bit), with the numbers of columns as JSON in the
metadata entry `columns`. `original` in the metadata names the model.

The published bigram subnetworks are pickles, which can run code when they are opened; they are refused here and converted once
on your own machine by `python -m models.convert_masks subnetwork_dict.pickle out.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models import headers
from models.refusal import Refused, shown

NAME = re.compile(r"masks/[a-z0-9][a-z0-9\-]{0,39}-[0-9a-f]{12}\Z")
MOST_BYTES = 1 << 30
CONVERT = "python -m models.convert_masks {} out.safetensors"


@dataclass(frozen=True, eq=False)
class MaskFile:
    """Masks by parameter name, bool, each in its parameter's own orientation; `original` names the model, where it is known."""

    masks: dict[str, np.ndarray]
    original: str


def add(file: Path, title: str, home: Path) -> str:
    """Check a file and keep a copy of it; returns its name. Refused in words where it is not a mask file."""
    _refuse_pickles(file, title)
    if file.stat().st_size > MOST_BYTES:
        raise Refused(f"{shown(title, 60)} has {file.stat().st_size / 1e9:.1f} GB; a mask file is at most {MOST_BYTES / 1e9:.1f} GB. Convert it with packed rows.")
    _load(file, title)
    slug = re.sub(r"[^a-z0-9]+", "-", Path(title).stem.lower()).strip("-")[:32].strip("-") or "mask"
    name = f"masks/{slug}-{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
    target = home / f"{name}.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(file.read_bytes())
    temporary.replace(target)
    return name


def known(home: Path) -> tuple[str, ...]:
    return tuple(f"masks/{p.stem}" for p in sorted((home / "masks").glob("*.safetensors")))


def read(name: str, home: Path) -> MaskFile:
    """The masks of a name that `add` gave; Refused where there is none."""
    file = home / f"{name}.safetensors"
    if not NAME.match(name) or not file.is_file():
        raise Refused(f"There is no mask {shown(name, 60)} here; add its file again on the bigram subnetwork's page.")
    return _load(file, name)


def write(file: Path, masks: dict[str, np.ndarray], original: str) -> None:
    """Packed rows."""
    from safetensors.numpy import save_file

    columns = {name: int(mask.shape[1]) for name, mask in masks.items()}
    save_file({name: np.packbits(mask, axis=1, bitorder="little") for name, mask in masks.items()}, file, {"columns": json.dumps(columns), "original": original})


def _refuse_pickles(file: Path, title: str) -> None:
    with file.open("rb") as opened:
        start = opened.read(9)
    pickled = start[:1] == b"\x80" and start[8:] != b"{"  # a header whose length ends in 0x80 begins like a pickle
    if pickled or zipfile.is_zipfile(file) or Path(title).suffix.lower() in (".pickle", ".pkl", ".pt", ".pth", ".bin"):
        raise Refused(f"{shown(title, 60)} is a pickle, which can run code when it is opened; it was not opened. Convert it once on your own machine: "
                      f"{CONVERT.format('subnetwork_dict.pickle')}, and add out.safetensors here.")


def _load(file: Path, title: str) -> MaskFile:
    header = headers.read(file)
    columns = _columns(header.metadata.get("columns"), title)
    masks = {}
    for tensor in header.tensors:
        if tensor.dtype not in ("BOOL", "U8") or len(tensor.shape) != 2:
            raise Refused(f"{shown(title, 60)}: {shown(tensor.name, 80)} is {tensor.dtype} {list(tensor.shape)}; a mask is BOOL or U8, rows by columns.")
        data = np.fromfile(file, np.uint8, tensor.n_bytes, offset=tensor.begin).reshape(tensor.shape)
        if tensor.name in columns:
            if -(-columns[tensor.name] // 8) != tensor.shape[1]:
                raise Refused(f"{shown(title, 60)}: {shown(tensor.name, 80)} has {tensor.shape[1]} bytes a row, which do not hold {columns[tensor.name]} columns. Convert it again.")
            masks[tensor.name] = np.unpackbits(data, axis=1, count=columns[tensor.name], bitorder="little").astype(bool)
        elif data.max(initial=0) > 1:
            raise Refused(f"{shown(title, 60)}: {shown(tensor.name, 80)} holds other numbers than 0 and 1. Save the mask, not the masked weights.")
        else:
            masks[tensor.name] = data.astype(bool)
    if not masks:
        raise Refused(f"{shown(title, 60)} holds no masks; expected one per attention and MLP weight matrix.")
    return MaskFile(masks, header.metadata.get("original", "")[:200])


def _columns(text: str | None, title: str) -> dict[str, int]:
    if text is None:
        return {}
    found = headers.strict_json(text.encode(), "the numbers of columns", 1 << 22)
    if not isinstance(found, dict) or not all(isinstance(n, int) and 0 < n < 1 << 24 for n in found.values()):
        raise Refused(f"{shown(title, 60)}: its metadata “columns” is not a table from names to numbers. Convert it again.")
    return found
