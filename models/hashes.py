"""What a checkpoint is, as one hash: weights, config and tokenizer, wherever the folder lies and whatever it is called.

Reading gigabytes at each page would be slow, so file hashes are remembered by (path, size, mtime, inode) in
`home/hashes.json`; a changed file has another key and is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

CHUNK = 4 << 20
REMEMBERED = 20_000  # files; the oldest are forgotten


def of_files(folder: Path, names: tuple[str, ...], home: Path | None) -> str:
    """64 hex digits over the sorted (name, sha256) of `names`; shard names count, the folder's does not."""
    memory = _Memory(home)
    lines = [f"{name} {memory.sha256(folder / name)}" for name in sorted(names)]
    memory.save()
    return hashlib.sha256("\n".join(["checkpoint 1", *lines]).encode()).hexdigest()


class _Memory:
    """File hashes of earlier calls; a lost race between two writers costs only a second reading."""

    def __init__(self, home: Path | None):
        self.path = home / "hashes.json" if home else None
        self.known: dict[str, str] = {}
        self.new = False
        if self.path and self.path.is_file():
            try:
                self.known = json.loads(self.path.read_text())
            except ValueError:
                self.known = {}

    def sha256(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
        if key not in self.known:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
            self.known[key], self.new = digest.hexdigest(), True
        return self.known[key]

    def save(self) -> None:
        if self.path and self.new:
            write_json(self.path, dict(list(self.known.items())[-REMEMBERED:]))


def write_json(path: Path, value: object) -> None:
    """Write atomically: a reader sees the old or the new text, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
