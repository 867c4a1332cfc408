"""Names for values and for code: two things with the same fingerprint may stand for each other in a key.

Values are written in one canonical byte form (a tag, a length, the content) and hashed. What cannot be written down is a
TypeError: no pickle, no `str(obj)`, no `id`.

Code is identified by its text, because an identity must not depend on the Python version (`ast.dump` does). Comments,
docstrings, blank lines, the order of imports, and whatever only draws are left out, so that a new colour is still a hit
and a changed constant is a miss.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import io
import sys
import tokenize
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

ROOTS = ("analysis", "operators", "models", "metrics", "kernels")
DRAWING = frozenset({"figures", "answer", "headlines"})
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
        text, imports = _essence(_text(path), name, path.name == "__init__.py", name == own or name.startswith(own + "."))
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
        self.texts: dict[str, str] = {}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in WITNESSED:
            spec = PathFinder.find_spec(name, path, target)
            if spec is not None and spec.origin and spec.origin.endswith(".py"):
                self.note(spec.origin)
        return None

    def note(self, origin: str) -> None:
        path = Path(origin).resolve()
        self.texts[str(path)] = path.read_text(encoding="utf-8")


WITNESSED = frozenset({*ROOTS, "demo"})
_witness = _Witness()
for _module in list(sys.modules.values()):
    if getattr(_module, "__name__", "").partition(".")[0] in WITNESSED and (getattr(_module, "__file__", None) or "").endswith(".py"):
        _witness.note(_module.__file__)
sys.meta_path.insert(0, _witness)


def _text(path: Path) -> str:
    return _witness.texts.get(str(path)) or path.read_text(encoding="utf-8")


@lru_cache(maxsize=1024)
def _essence(text: str, name: str, package: bool, draws: bool) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """The text that matters, and its imports: for each the modules it may mean, the likeliest first."""
    text = text.replace("\r\n", "\n")
    tree = ast.parse(text)
    dropped = _drawing(tree) if draws else []
    body = [node for node in tree.body if node not in dropped and not _type_checking(node)]
    used, used_drawing = _names(body), _names(dropped)
    parent = name if package else name.rpartition(".")[0]
    lines, imports, erased = [], [], []
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            erased.append(_span(node))
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                if draws and (bound in DRAWING or (bound in used_drawing and bound not in used)):
                    continue
                lines.append(f"{_source(node, parent)} import {alias.name} as {bound}")
                imports.append(_meaning(node, alias, parent))
        elif node not in body:
            erased.append(_span(node))
    for node in (inner for top in body for inner in ast.walk(top) if top is not inner):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports += [_meaning(node, alias, parent) for alias in node.names]
    docstrings = _docstrings(tree)
    erased += [_span(node) for node in docstrings]
    return "\n".join([*sorted(lines), *_without(text, tree, erased, docstrings)]), tuple(imports)


def _drawing(tree: ast.Module) -> list[ast.stmt]:
    """The drawing functions, and the private names at module level that nothing but them refers to."""
    named = {name: node for node in tree.body for name in _bound(node)}
    dropped = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in DRAWING]
    while True:
        only_drawn = _names(dropped) - _names([node for node in tree.body if node not in dropped])
        more = {name: named[name] for name in only_drawn & set(named) if name.startswith("_") and named[name] not in dropped}
        if not more:
            return dropped
        dropped += [node for node in tree.body if node in more.values()]


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return [node.targets[0].id]
    return []


def _names(nodes: list[ast.stmt]) -> set[str]:
    """Names read by these statements."""
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _source(node: ast.Import | ast.ImportFrom, parent: str) -> str:
    """The absolute name of the module that a `from` names; empty for a plain import."""
    if isinstance(node, ast.Import):
        return ""
    above = parent.split(".")[: len(parent.split(".")) - (node.level - 1)] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def _meaning(node: ast.Import | ast.ImportFrom, alias: ast.alias, parent: str) -> tuple[str, ...]:
    source = _source(node, parent)
    return (alias.name,) if not source else (f"{source}.{alias.name}", source)


def _docstrings(tree: ast.Module) -> list[ast.Expr]:
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, holders) and node.body]
    return [e for e in first if isinstance(e, ast.Expr) and isinstance(e.value, ast.Constant) and isinstance(e.value.value, str)]


Span = tuple[int, int, int, int]  # first line (from 1), byte column; last line, byte column


def _span(node: ast.stmt) -> Span:
    decorators = getattr(node, "decorator_list", [])
    first = min((d.lineno, 0) for d in decorators) if decorators else (node.lineno, node.col_offset)
    return (*first, node.end_lineno, node.end_col_offset)


def _without(text: str, tree: ast.Module, erased: list[Span], docstrings: list[ast.Expr]) -> list[str]:
    """The lines with spans and comments cut out, trailing space and empty lines dropped except inside long strings."""
    source = text.split("\n")
    lines = [line.encode() for line in source]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            start = len(source[row - 1][:column].encode())
            erased = [*erased, (row, start, row, start + len(token.string.encode()))]
    verbatim = _inside_strings(tree, docstrings)
    for row, start, end_row, end in reversed(_outermost(erased)):
        after = lines[end_row - 1][end:]
        lines[row - 1] = lines[row - 1][:start] + (after if row == end_row else b"")
        if row < end_row:
            lines[end_row - 1] = after
            lines[row : end_row - 1] = [b""] * (end_row - 1 - row)
    whole = [line if number in verbatim else line.rstrip() for number, line in enumerate(lines, 1)]
    return [line.decode() for number, line in enumerate(whole, 1) if line or number in verbatim]


def _outermost(spans: list[Span]) -> list[Span]:
    """In order, without those that lie inside another."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda s: (s[0], s[1], -s[2], -s[3])):
        if not kept or span[:2] >= kept[-1][2:]:
            kept.append(span)
    return kept


def _inside_strings(tree: ast.Module, docstrings: list[ast.Expr]) -> set[int]:
    """Rows of string literals over several lines, where space and empty lines are content."""
    rows: set[int] = set()
    docs = {id(doc.value) for doc in docstrings}
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and id(node) not in docs):
            if node.end_lineno > node.lineno:
                rows |= set(range(node.lineno, node.end_lineno + 1))
        if not isinstance(node, ast.JoinedStr):  # positions inside an f-string differ between Python versions
            waiting += ast.iter_child_nodes(node)
    return rows
