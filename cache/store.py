"""A folder of finished results, one directory each, that several processes share.

    <root>/<key>/arrays.safetensors   table-<name>.parquet   record.json
    <root>/.tmp/    entries being written or removed          <root>/.locks/    one lock file per key being computed
    <root>/.pins/   keys that eviction spares

An entry is written under a temporary name, synced, and renamed; `record.json` comes last and carries the digests of the
other files and of itself. So an entry is whole or absent, whatever is killed when, and a damaged one reads as absent.

The time of the last reading is the modification time of the entry's own directory: it costs no file and no database,
needs no lock, survives a crash, and nothing else moves it once the entry stands.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from cache.tensorfile import TensorFile, sync, write

log = logging.getLogger("cache")

BUDGET = 20 * 10**9  # bytes
SPARE = 600.0  # seconds: an entry read this recently may be on somebody's screen, and is not evicted by itself
TOUCH_EVERY = 30.0  # seconds between two notes of a reading
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}\Z")


class Entry:
    """A stored result: `record` (dict), arrays and tables read on demand."""

    def __init__(self, path: Path, record: dict, files: dict):
        self.path, self.record, self._files = path, record, files

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def bytes(self) -> int:
        return sum(f["bytes"] for f in self._files.values())

    @cached_property
    def _arrays(self) -> TensorFile:
        return TensorFile(self.path / "arrays.safetensors")

    def array_names(self) -> tuple[str, ...]:
        return self._arrays.names() if "arrays.safetensors" in self._files else ()

    def array(self, name: str) -> np.ndarray:
        """A read-only view of the mapped file; bfloat16 comes as float32 of the same values."""
        return self._arrays.array(name)

    def tensor(self, name: str):
        return self._arrays.tensor(name)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: self.array(name) for name in self.array_names()}

    def table_names(self) -> tuple[str, ...]:
        return tuple(unquote(f[len("table-") : -len(".parquet")]) for f in self._files if f.startswith("table-"))

    def table_path(self, name: str) -> Path:
        return self.path / _table_file(name)

    def table(self, name: str, columns: list[str] | None = None):
        """A pyarrow.Table, whole or some columns of it."""
        import pyarrow.parquet as parquet

        return parquet.read_table(self.table_path(name), columns=columns, partitioning=None)


class Store:
    """get, put, lock, touch, evict, pin, size. Any number of processes and threads may use the same root."""

    def __init__(self, root: Path, budget_bytes: int = BUDGET):
        self.root = Path(root)
        self.budget_bytes = budget_bytes
        self._verified: dict[Path, tuple] = {}  # file -> (size, mtime, inode) whose digest was right
        for folder in (self.root, self.root / ".tmp", self.root / ".locks", self.root / ".pins"):
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Entry | None:
        """The entry, noted as read; None where there is none or where it is damaged."""
        path = self._path(key)
        try:
            content = json.loads((path / "record.json").read_bytes())
            if content["digest"] != _digest_of_record(content):
                raise ValueError("record.json is not what was written")
            for name, file in content["files"].items():
                self._verify(path / name, file)
        except FileNotFoundError as missing:
            if path.is_dir():
                log.warning("entry %s is damaged and will be computed again: %s", key, missing)
            return None
        except (ValueError, KeyError, TypeError, OSError) as damage:
            log.warning("entry %s is damaged and will be computed again: %s", key, damage)
            return None
        self.touch(key)
        return Entry(path, content["record"], content["files"])

    def put(self, key: str, arrays: dict | None = None, tables: dict | None = None, record: dict | None = None,
            *, replace: bool = False) -> Entry:
        """Store and return the entry. A key that is already there keeps its first content unless `replace` says otherwise;
        a damaged entry is replaced."""
        found = None if replace else self.get(key)
        if found is not None:
            return found
        temporary = self.root / ".tmp" / f"{key}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        temporary.mkdir()
        try:
            self._write(temporary, arrays or {}, tables or {}, record or {})
            self._install(temporary, self._path(key), replace)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        entry = self.get(key)
        if entry is None:
            raise OSError(f"entry {key} could not be read back from {self.root}; is the disk full or failing?")
        self.evict(spare=key)
        return entry

    def _write(self, folder: Path, arrays: dict, tables: dict, record: dict) -> None:
        if arrays:
            write(folder / "arrays.safetensors", arrays)
        if tables:
            import pyarrow.parquet as parquet

            for name, table in tables.items():
                parquet.write_table(table, folder / _table_file(name), compression="zstd")
                sync(folder / _table_file(name))
        files = {f.name: {"bytes": f.stat().st_size, "sha256": _digest_of_file(f)} for f in sorted(folder.iterdir())}
        content = json.loads(json.dumps({"record": record, "files": files, "created": time.time()}))
        content["digest"] = _digest_of_record(content)
        (folder / "record.json").write_text(json.dumps(content, indent=1))
        sync(folder / "record.json")
        sync(folder)

    def _install(self, temporary: Path, path: Path, replace: bool) -> None:
        """Rename into place. Where another process was faster its entry stays, unless that one is damaged."""
        while True:
            try:
                os.rename(temporary, path)
                return sync(self.root)
            except OSError as failure:
                if failure.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if not replace and self.get(path.name) is not None:
                return
            self._remove(path)

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the key so that no other process or thread computes it. `waiting` is called ten times a second meanwhile,
        and may raise to give up. Not re-entrant."""
        path = self.root / ".locks" / self._path(key).name
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _flock(descriptor, waiting)
                if _is_still(descriptor, path):
                    yield
                    return
            finally:
                os.close(descriptor)

    def touch(self, key: str) -> None:
        """Note that the entry was read just now."""
        path = self._path(key)
        try:
            if time.time() - path.stat().st_mtime > TOUCH_EVERY:
                os.utime(path)
        except (FileNotFoundError, PermissionError):
            pass  # evicted meanwhile, or a store that this user may only read

    def last_read(self, key: str) -> float:
        """Seconds since the epoch, to within TOUCH_EVERY."""
        return self._path(key).stat().st_mtime

    def pin(self, key: str) -> None:
        (self.root / ".pins" / self._path(key).name).touch()

    def unpin(self, key: str) -> None:
        (self.root / ".pins" / self._path(key).name).unlink(missing_ok=True)

    def pinned(self) -> frozenset[str]:
        return frozenset(os.listdir(self.root / ".pins"))

    def keys(self) -> list[str]:
        return sorted(name for name in os.listdir(self.root) if not name.startswith("."))

    def describe(self, key: str) -> dict | None:
        """The record alone, its content not verified and not noted as read; None where it cannot be read."""
        try:
            return json.loads((self._path(key) / "record.json").read_bytes())["record"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def sizes(self) -> dict[str, int]:
        """Bytes on disk by key."""
        return {key: _bytes_under(self._path(key)) for key in self.keys()}

    def size(self) -> int:
        return sum(self.sizes().values())

    def evict(self, keep_bytes: int | None = None, *, spare: str | None = None, spare_seconds: float = SPARE) -> list[str]:
        """Remove the least recently read entries until `keep_bytes` (the budget) remain; returns their keys. Pinned
        entries, those whose key is locked, and those read in the last `spare_seconds` stay."""
        self._sweep()
        budget = self.budget_bytes if keep_bytes is None else keep_bytes
        sizes = self.sizes()
        total, removed = sum(sizes.values()), []
        if total <= budget:
            return removed
        stay, now = self.pinned() | {spare}, time.time()
        read = {key: _mtime(self._path(key)) for key in sizes}
        for key in sorted(set(sizes) - stay, key=read.__getitem__):
            if total <= budget or now - read[key] < spare_seconds:
                break
            if self._remove_unless_locked(key):
                total -= sizes[key]
                removed.append(key)
        return removed

    def remove(self, key: str) -> None:
        """Take one entry away, pinned or not."""
        self._remove(self._path(key))

    def _remove_unless_locked(self, key: str) -> bool:
        path = self.root / ".locks" / key
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove(self._path(key))
            path.unlink(missing_ok=True)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)

    def _remove(self, path: Path) -> None:
        aside = self.root / ".tmp" / f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return  # somebody else removed it
        shutil.rmtree(aside, ignore_errors=True)

    def _sweep(self) -> None:
        """Clear what a process that is gone left half written. Recent ones stay: it may run in another container."""
        for name in os.listdir(self.root / ".tmp"):
            path, pid = self.root / ".tmp" / name, name.rsplit(".", 2)[1]
            if time.time() - _mtime(path) > SPARE and not _alive(int(pid)):
                shutil.rmtree(path, ignore_errors=True)

    def _verify(self, path: Path, expected: dict) -> None:
        """Check a file against its digest, once as long as its size, time and inode stay."""
        stat = path.stat()
        state = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if self._verified.get(path) == state:
            return
        if stat.st_size != expected["bytes"] or _digest_of_file(path) != expected["sha256"]:
            raise ValueError(f"{path.name} is not what was written")
        self._verified[path] = state

    def _path(self, key: str) -> Path:
        if not _KEY.match(key):
            raise ValueError(f"“{key[:40]}” is no key of a store; expected letters, digits, . _ -")
        return self.root / key


def _flock(descriptor: int, waiting: Callable[[], None] | None) -> None:
    if waiting is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            time.sleep(0.1)


def _is_still(descriptor: int, path: Path) -> bool:
    """False where the lock file was removed while we waited for it: holding it would exclude nobody."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (os.fstat(descriptor).st_dev, os.fstat(descriptor).st_ino)


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_record(content: dict) -> str:
    body = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _table_file(name: str) -> str:
    return f"table-{quote(name, safe='')}.parquet"


def _bytes_under(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in os.scandir(folder))
    except FileNotFoundError:
        return 0


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
