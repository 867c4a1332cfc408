"""A piece of labelled text, and the templates it is written with.

A template is ordinary text with fields in braces: `{hero}` is replaced by the value of
`hero`; `{colour|recall:colour}` is replaced too and the characters it fills are marked
with the span name `recall:colour`."""
import re
from dataclasses import dataclass
from functools import lru_cache

_FIELD = re.compile(r"\{(\w+)(?:\|([^}]+))?\}")


@dataclass(frozen=True)
class Document:
    """`spans` are (first character, one past the last, name), in text order."""

    text: str
    labels: dict[str, str | int | float | bool]
    spans: tuple[tuple[int, int, str], ...] = ()


@lru_cache(maxsize=None)
def _pieces(template: str) -> tuple[tuple[str, str, str | None], ...]:
    """(literal text before the field, field, span name or None); a last one without field."""
    pieces, at = [], 0
    for match in _FIELD.finditer(template):
        pieces.append((template[at : match.start()], match[1], match[2]))
        at = match.end()
    return (*pieces, (template[at:], "", None))


def fill(template: str, fields: dict[str, str], start: int = 0) -> tuple[str, list[tuple[int, int, str]]]:
    """The filled text and its spans, counted from character `start`."""
    parts, spans, at = [], [], start
    for literal, field, span in _pieces(template):
        parts.append(literal)
        at += len(literal)
        if field:
            value = fields[field]
            parts.append(value)
            if span:
                spans.append((at, at + len(value), span))
            at += len(value)
    return "".join(parts), spans
