"""Names for values and for code: two things with the same fingerprint may stand for each other in a key.

Values are written in one canonical byte form (a tag, a length, the content) and hashed. What cannot be written down is a
TypeError: no pickle, no `str(obj)`, no `id`.

Code is identified by its text, because an identity must not depend on the Python version (`ast.dump` does). Comments,
docstrings, blank lines, the order of imports, and whatever only draws are left out, so that a new colour is still a hit
and a changed constant is a miss.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from cache.source import essence

ROOTS = ("analysis", "operators", "models", "metrics", "kernels")
# A kernel's fast versions are equal to its reference by test; what they may change numerically carries kernels.VERSION.
BESIDE_THE_REFERENCE = frozenset({"cpu", "gpu", "cases", "bench"})


def fingerprint(*parts) -> str:
    """64 hex digits of plain values: None, bool, int, float, str, bytes, list and tuple (alike), dict in any order,
    dataclasses, and things with a `.fingerprint` (text, or a method that gives it). Anything else is a TypeError."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(_written(part))
    return digest.hexdigest()


def _written(value) -> bytes:
    if value is None:
        return b"n;"
    if isinstance(value, bool):
        return b"b1;" if value else b"b0;"
    if isinstance(value, int):
        return _tagged(b"i", b"%d" % int(value))
    if isinstance(value, float):
        return _tagged(b"f", float(value).hex().encode())
    if isinstance(value, str):
        return _tagged(b"s", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, (bytes, bytearray)):
        return _tagged(b"y", bytes(value))
    if isinstance(value, (list, tuple)):
        return _tagged(b"l", b"".join(_written(v) for v in value))
    if isinstance(value, dict):
        pairs = sorted((_written(k), _written(v)) for k, v in value.items())
        return _tagged(b"d", b"".join(k + v for k, v in pairs))
    if hasattr(value, "fingerprint") and not isinstance(value, type):
        own = value.fingerprint() if callable(value.fingerprint) else value.fingerprint
        if not isinstance(own, str):
            raise TypeError(f"{type(value).__name__}.fingerprint is {type(own).__name__}; expected text.")
        return _tagged(b"p", own.encode())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return _tagged(b"c", _written(type(value).__qualname__) + _written(fields))
    raise TypeError(f"{type(value).__name__} has no fingerprint; expected plain values, dataclasses of them, or a `.fingerprint`.")


def _tagged(tag: bytes, content: bytes) -> bytes:
    return tag + b"%d:" % len(content) + content


def code_identity(module: ModuleType, roots: tuple[str, ...] = ROOTS) -> str:
    """64 hex digits of a module's text and of all first-party modules that it imports, directly or through others.

    First party are `roots` and the module's own package. Imports are read from the text, also inside functions; what only
    `figures`, `answer` and `headlines` of this module need is not followed. A package's `__init__` counts where something
    is imported from it, not for being a parent, so that a registry of all analyses is no part of each.
    """
    known = _identities.get((module.__name__, roots))
    if known is None or known[0] is not module or not _witness.unchanged(known[2]):
        sources: dict[Path, int] = {}
        known = _identities[module.__name__, roots] = (module, _identity(module, roots, sources), sources)
    return known[1]


_identities: dict[tuple, tuple] = {}  # (module name, roots) -> module, identity, what it was read from


def _identity(module: ModuleType, roots: tuple[str, ...], sources: dict[Path, int]) -> str:
    own = module.__name__
    first_party = {*roots, own.partition(".")[0]}
    place = _place(module)
    kept: dict[str, str] = {}
    waiting = [own]
    while waiting:
        name = waiting.pop()
        if name in kept:
            continue
        path = _file(place, name)
        text, imports = essence(_witness.text(path, sources), name, path.name == "__init__.py", name == own or name.startswith(own + "."))
        kept[name] = text
        for choices in imports:
            found = next((c for c in choices if _file(place, c)), None) if choices[-1].partition(".")[0] in first_party else None
            if found and not (found.startswith("kernels.") and found.rpartition(".")[2] in BESIDE_THE_REFERENCE):
                waiting.append(found)
    return fingerprint(kept)


def _place(module: ModuleType) -> Path:
    """The folder that the module's top-level package lies in."""
    if not getattr(module, "__file__", None):
        raise TypeError(f"module {module.__name__} has no source file, so its code has no identity.")
    file = Path(module.__file__).resolve()
    levels = module.__name__.count(".") + (file.name == "__init__.py")
    return file.parents[levels]


def _file(place: Path, name: str) -> Path | None:
    stem = place.joinpath(*name.split("."))
    return next((p for p in (stem.parent / f"{stem.name}.py", stem / "__init__.py") if p.is_file()), None)


class _Witness:
    """Notes the text of each first-party module at the moment it is imported: read later, the file on disk may already
    describe code that is not running."""

    def __init__(self):
        self.texts: dict[Path, tuple[str, int]] = {}  # file -> its text, and a number that grows with each import of it
        self.imports = 0
        self._stamps: dict[Path, int] = {}  # file -> time of the version last found to mean the same as the imported one

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in WITNESSED:
            spec = PathFinder.find_spec(name, path, target)
            if spec is not None and spec.origin and spec.origin.endswith(".py"):
                self.note(spec.origin)
        return None

    def note(self, origin: str) -> None:
        path = Path(origin).resolve()
        self.imports += 1
        self._stamps[path] = path.stat().st_mtime_ns
        self.texts[path] = (path.read_text(encoding="utf-8"), self.imports)

    def text(self, path: Path, sources: dict[Path, int]) -> str:
        """As imported; from the disk where it has not been imported yet. `sources` notes which reading this is."""
        if path not in self.texts:
            sources[path] = -path.stat().st_mtime_ns
            return path.read_text(encoding="utf-8")
        text, sources[path] = self.texts[path]
        return text

    def outdated(self) -> bool:
        """Whether a file has another meaning now than when it was imported. One that does not parse is being edited: not yet."""
        for path, (text, _) in list(self.texts.items()):
            stamp = _mtime(path)
            if stamp and self._stamps.get(path) != stamp:
                try:
                    same = essence(path.read_text(encoding="utf-8"), "", False, False) == essence(text, "", False, False)
                except (SyntaxError, FileNotFoundError):
                    continue
                if not same:
                    return True
                self._stamps[path] = stamp
        return False

    def unchanged(self, sources: dict[Path, int]) -> bool:
        return all(self.texts[path][1] == state if path in self.texts else -_mtime(path) == state for path, state in sources.items())


def _mtime(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def outdated() -> bool:
    """True once a first-party module that this process imported means something else on the disk: what it computes now is
    not what a fresh process would."""
    return _witness.outdated()


WITNESSED = frozenset({*ROOTS, "demo"})
_witness = _Witness()
for _module in list(sys.modules.values()):
    if getattr(_module, "__name__", "").partition(".")[0] in WITNESSED and (getattr(_module, "__file__", None) or "").endswith(".py"):
        _witness.note(_module.__file__)
sys.meta_path.insert(0, _witness)
