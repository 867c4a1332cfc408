"""The text of a module that can change numbers: without comments, docstrings, blank lines, drawing, and order of imports.

Works on positions that `ast` and `tokenize` give, never on their dumps or tokens, so every Python from 3.9 on agrees.
"""

from __future__ import annotations

import ast
import io
import tokenize
from functools import lru_cache

DRAWING = frozenset({"figures", "answer", "headlines"})


@lru_cache(maxsize=1024)
def essence(text: str, name: str, package: bool, draws: bool) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """The text that matters of the module `name` (a `package` if it is an `__init__`), and its imports: for each the modules
    it may mean, the likeliest first. `draws`: leave out what only its drawing functions need."""
    text = text.replace("\r\n", "\n")
    tree = ast.parse(text)
    inner = {top: list(_nodes(top)) for top in tree.body}
    dropped, only_drawn = _drawing(inner) if draws else (set(), set())
    parent = name if package else name.rpartition(".")[0]
    lines, imports, erased = [], [], []
    for top, nodes in inner.items():
        if isinstance(top, (ast.Import, ast.ImportFrom)):
            erased.append(_span(top))
            for alias in top.names:
                bound = alias.asname or alias.name.partition(".")[0]
                if not draws or (bound not in DRAWING and bound not in only_drawn):
                    lines.append(f"{_source(top, parent)} import {alias.name} as {bound}")
                    imports.append(_meaning(top, alias, parent))
        elif top in dropped or _type_checking(top):
            erased.append(_span(top))
        else:
            imports += [_meaning(n, alias, parent) for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)) for alias in n.names]
    nodes = [tree, *(n for each in inner.values() for n in each)]
    docstrings = [doc for n in nodes if (doc := _docstring(n)) is not None]
    erased += [_span(doc) for doc in docstrings]
    verbatim = _inside_strings(nodes, docstrings)
    return "\n".join([*sorted(lines), *_without(text, erased, verbatim)]), tuple(imports)


def _nodes(top: ast.AST):
    """A node and all below it, as `ast.walk`, at half its cost."""
    waiting = [top]
    while waiting:
        node = waiting.pop()
        yield node
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, ast.AST):
                waiting.append(value)
            elif isinstance(value, list):
                waiting += [v for v in value if isinstance(v, ast.AST)]


def _drawing(inner: dict[ast.stmt, list[ast.AST]]) -> tuple[set[ast.stmt], set[str]]:
    """The drawing functions with the private names at module level that nothing but them refers to; and all names that only
    they read."""
    reads = {top: {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} for top, nodes in inner.items()}
    named = {name: top for top in inner for name in _bound(top)}
    dropped = {top for top in inner if isinstance(top, ast.FunctionDef) and top.name in DRAWING}
    while True:
        kept = {name for top in inner if top not in dropped and not _type_checking(top) for name in reads[top]}
        only_drawn = {name for top in dropped for name in reads[top]} - kept
        more = {named[name] for name in only_drawn & set(named) if name.startswith("_")} - dropped
        if not more:
            return dropped, only_drawn
        dropped |= more


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return [node.targets[0].id]
    return []


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


def _docstring(node: ast.AST) -> ast.Expr | None:
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or not node.body:
        return None
    first = node.body[0]
    written = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return first if written else None


Span = tuple[int, int, int, int]  # first line (from 1), byte column; last line, byte column


def _span(node: ast.stmt) -> Span:
    decorators = getattr(node, "decorator_list", [])
    first = min((d.lineno, 0) for d in decorators) if decorators else (node.lineno, node.col_offset)
    return (*first, node.end_lineno, node.end_col_offset)


def _without(text: str, erased: list[Span], verbatim: set[int]) -> list[str]:
    """The lines with spans and comments cut out, trailing space and empty lines dropped except inside long strings."""
    source = text.split("\n")
    lines = [line.encode() for line in source]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            start = len(source[row - 1][:column].encode())
            erased = [*erased, (row, start, row, start + len(token.string.encode()))]
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


def _inside_strings(nodes: list[ast.AST], docstrings: list[ast.Expr]) -> set[int]:
    """Rows of string literals over several lines, where space and empty lines are content."""
    docs = {doc.value for doc in docstrings}
    long = [n for n in nodes if isinstance(n, (ast.Constant, ast.JoinedStr)) and n.end_lineno > n.lineno and n not in docs]
    return {row for n in long for row in range(n.lineno, n.end_lineno + 1)}
