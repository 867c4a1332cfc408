"""The weight files of a folder as one table of tensors, checked before anything is loaded.

One `model.safetensors`, or shards with `model.safetensors.index.json`. The index is data from outside: its values must be
bare names of files inside the folder (transformers follows `../` and absolute paths), each tensor must be where the index
says, and nothing may be left over.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from models import headers
from models.headers import TensorInfo
from models.refusal import Refused, shown

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_SHARD = re.compile(r"(?P<stem>[\w.\-]+?)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors\Z")
_BARE = re.compile(r"[A-Za-z0-9][\w.\-]*\.safetensors\Z")


@dataclass(frozen=True)
class Weights:
    """Files and tensors of one checkpoint; `tensors` is keyed by name in the order of the files."""

    folder: Path
    files: tuple[str, ...]
    tensors: dict[str, TensorInfo]

    @property
    def n_parameters(self) -> int:
        return sum(t.n_elements for t in self.tensors.values())

    @property
    def n_bytes(self) -> int:
        return sum(t.n_bytes for t in self.tensors.values())

    @property
    def dtype(self) -> str:
        """The dtype that most elements have, as safetensors writes it (F32, BF16, …)."""
        count = Counter()
        for tensor in self.tensors.values():
            count[tensor.dtype] += tensor.n_elements
        return count.most_common(1)[0][0] if count else "F32"


def read(folder: Path) -> Weights:
    """All headers of the folder's checkpoint; raises Refused when files are missing, mixed or pointing elsewhere. A page asks many
    times: parsed again only when a file is another one (name, size, time, inode)."""
    return _read(folder, seen(folder))


def seen(folder: Path) -> tuple:
    """What tells that no file of a folder has changed: name, size, time and inode of each."""
    with os.scandir(folder) as entries:
        return tuple(sorted((e.name, s.st_size, s.st_mtime_ns, s.st_ino) for e in entries if e.is_file() for s in (e.stat(),)))


@lru_cache(maxsize=64)
def _read(folder: Path, now: tuple) -> Weights:
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name.endswith(".safetensors") and not p.name.startswith("."))
    if (folder / INDEX).is_file():
        return _indexed(folder, names)
    if SINGLE in names:
        return _union(folder, (SINGLE,))
    shards = [match for match in map(_SHARD.match, names) if match]
    if shards:
        return _union(folder, _complete(shards))
    if len(names) == 1 and names[0] != "adapter_model.safetensors":
        return _union(folder, tuple(names))
    if not names:
        raise Refused(_nothing(folder))
    raise Refused(f"Found {len(names)} weight files ({', '.join(names[:4])}…) and no index; expected {SINGLE} or shards with {INDEX}. Keep one model per folder.")


def is_shard(name: str) -> bool:
    """model-00001-of-00003.safetensors."""
    return _SHARD.match(name) is not None and name.startswith("model-")


def _nothing(folder: Path) -> str:
    found = sorted(p.name for p in folder.iterdir())[:6]
    pickles = [name for name in found if name.endswith(PICKLES)]
    if pickles:
        return f"Found {pickles[0]} and no .safetensors; a pickle can run code when it is opened. Convert it (python -m models.convert {pickles[0]} out/)."
    return f"Found no .safetensors file ({shown(', '.join(found)) or 'the folder is empty'}); expected {SINGLE} beside config.json."


def _indexed(folder: Path, names: list[str]) -> Weights:
    index = headers.strict_json(_bounded(folder / INDEX, headers.MAX_HEADER), INDEX)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise Refused(f"{INDEX} has no weight_map; expected a table from tensor names to shard files. Save the model again.")
    shards = sorted({_bare(value) for value in places.values()})
    missing = [shard for shard in shards if shard not in names]
    if missing:
        raise Refused(
            f"Shard {missing[0]} is missing ({len(missing)} of {len(shards)} named in {INDEX}). Add it, then open the folder again.",
            details=tuple(missing),
        )
    weights = _union(folder, tuple(shards))
    lost = [name for name, shard in places.items() if name not in weights.tensors or weights.tensors[name].file != shard]
    extra = [name for name in weights.tensors if name not in places]
    if lost or extra:
        raise Refused(
            f"{INDEX} and the shards disagree: {len(lost)} tensors are not where it says, {len(extra)} are not in it. "
            "The shards are of different models or saves: use those of one save.",
            details=tuple(f"not where the index says: {n}" for n in lost) + tuple(f"not in the index: {n}" for n in extra),
        )
    return weights


def _bare(value: object) -> str:
    if not isinstance(value, str) or not _BARE.match(value) or ".." in value:
        raise Refused(f"{INDEX} points to {shown(value, 80)}; a shard must be a plain file name inside the folder. The index was changed by hand: use the original.")
    return value


def _complete(shards: list[re.Match]) -> tuple[str, ...]:
    stems, counts = {m["stem"] for m in shards}, {m["count"] for m in shards}
    if len(stems) > 1 or len(counts) > 1:
        raise Refused(f"Shards of different saves lie together ({shards[0][0]}, {shards[-1][0]}); keep one set per folder.")
    count = int(counts.pop())
    missing = sorted(set(range(1, count + 1)) - {int(m["number"]) for m in shards})
    if missing:
        name = f"{shards[0]['stem']}-{missing[0]:05d}-of-{count:05d}.safetensors"
        raise Refused(f"Shard {name} is missing ({len(missing)} of {count}). Add it, then open the folder again.")
    return tuple(m[0] for m in shards)


def _union(folder: Path, files: tuple[str, ...]) -> Weights:
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for tensor in headers.read(folder / file).tensors:
            if tensor.name in tensors:
                raise Refused(f"Tensor {tensor.name} is in {tensors[tensor.name].file} and in {file}: the shards are of different saves. Use those of one save.")
            tensors[tensor.name] = tensor
    if not tensors:
        raise Refused(f"{files[0]} holds no tensor. Save the model again.")
    return Weights(folder, files, tensors)


def _bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise Refused(f"{path.name} has more than {limit:,} bytes; no real one has. Use the original.")
    return raw
