"""One safetensors file: written from numpy arrays and torch tensors alike, read lazily, never imported as code.

torch is imported only to give tensors back, so a page that draws numpy arrays does not pay for it.
"""

from __future__ import annotations

import json
import mmap
import os
from functools import cached_property
from pathlib import Path

import numpy as np

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "U64": np.uint64, "I32": np.int32, "U32": np.uint32,
    "I16": np.int16, "U16": np.uint16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}


def write(path: Path, arrays: dict, metadata: dict[str, str] | None = None) -> None:
    """Write and sync to disk. `arrays`: numpy arrays or torch tensors (any dtype of safetensors, bfloat16 included)."""
    from safetensors import TensorSpec, serialize_file

    held = {name: _dense(value) for name, value in arrays.items()}  # serialize_file takes bare pointers
    specs = {
        name: TensorSpec(dtype=str(v.dtype).removeprefix("torch."), shape=list(v.shape), data_len=v.nbytes,
                         data_ptr=v.data_ptr() if hasattr(v, "data_ptr") else v.ctypes.data)
        for name, v in held.items()
    }
    serialize_file(specs, path, metadata=metadata)
    sync(path)


def _dense(value):
    if hasattr(value, "data_ptr"):
        return value.detach().cpu().contiguous()
    value = np.asarray(value)
    return np.asarray(value, dtype=value.dtype.newbyteorder("="), order="C")


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class TensorFile:
    """Reads `path` on demand. Arrays are read-only views of the mapped file; they stay valid after the file is removed."""

    def __init__(self, path: Path):
        self.path = Path(path)

    @cached_property
    def _mapped(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def _header(self) -> tuple[dict, int]:
        length = int.from_bytes(self._mapped[:8], "little")
        return json.loads(self._mapped[8 : 8 + length]), 8 + length

    @property
    def metadata(self) -> dict[str, str]:
        return self._header[0].get("__metadata__", {})

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._header[0] if name != "__metadata__")

    def array(self, name: str) -> np.ndarray:
        """As numpy. bfloat16, which numpy lacks, comes as float32 of the same values; `tensor` keeps it."""
        header, start = self._header
        found = header[name]
        if found["dtype"] == "BF16":
            bits = np.ndarray(found["shape"], np.uint16, self._mapped, start + found["data_offsets"][0])
            return (bits.astype(np.uint32) << 16).view(np.float32)
        if found["dtype"] not in DTYPES:
            raise TypeError(f"{name} is {found['dtype']}, which numpy has no type for; read it as a tensor.")
        if 0 in found["shape"]:
            return np.empty(found["shape"], DTYPES[found["dtype"]])
        return np.ndarray(found["shape"], DTYPES[found["dtype"]], self._mapped, start + found["data_offsets"][0])

    def tensor(self, name: str):
        """As a torch tensor of the stored dtype, in memory of its own."""
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name).clone()
