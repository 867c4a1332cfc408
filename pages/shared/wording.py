"""How numbers, names and times are written on the page; plain functions from values to text."""

from __future__ import annotations

import math
import re

NBSP, JOINER = "\u00a0", "\u2060"
_UNITS = r"nats/token|nats|bits|tokens|blocks|sequences|%|×|MB|GB|KB|ms|s|min|h"


def plain(text: str) -> str:
    """Escape what Markdown would read as markup: a variant of two steps, a~b~c, would come out struck through."""
    return re.sub(r"([\\`*_{}\[\]<>~$#|:])", r"\\\1", str(text))


def prose(text: str) -> str:
    """A sentence of ours, with its bold kept: only tildes, dollars and colons-as-icons are made harmless; numbers stay with units."""
    return bind(re.sub(r"([~$])", r"\\\1", text).replace(":material", r"\:material"))


def bind(text: str) -> str:
    """A no-break space between a number and its unit, a word joiner around the dash of an interval."""
    text = re.sub(rf"(?<=\d) (?=(?:{_UNITS})(?:\W|$))", NBSP, text)
    return re.sub(r"(?<=\d)–(?=[\d−-])", f"{JOINER}–{JOINER}", text)


def number(value: float | int | str) -> str:
    """Three significant digits, thousands separated, a true minus; whole numbers and words as they are."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    value = float(value)
    if not math.isfinite(value):
        return "not measured" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == int(value) and abs(value) < 1e15:
        text = f"{int(value):,}"
    elif abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) < 1e-4:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        text = f"{mantissa}·10{_superscript(int(exponent))}"
    else:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.replace("-", "−")


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def interval(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}"


def duration(seconds: float) -> str:
    """4.2 s, 48 s, 3 min, 2.5 h."""
    if seconds < 10:
        return f"{max(seconds, 0.1):.1f}{NBSP}s"
    if seconds < 90:
        return f"{seconds:.0f}{NBSP}s"
    return f"{seconds / 60:.0f}{NBSP}min" if seconds < 5400 else f"{seconds / 3600:.1f}{NBSP}h"


def ago(seconds: float) -> str:
    if seconds < 45:
        return "just now"
    if seconds < 5400:
        return f"{max(round(seconds / 60), 1)}{NBSP}min ago"
    return f"{seconds / 3600:.0f}{NBSP}h ago" if seconds < 129600 else f"{seconds / 86400:.0f}{NBSP}days ago"


def size(n_bytes: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f}{NBSP}{unit}" if n_bytes < 10 * scale else f"{n_bytes / scale:.0f}{NBSP}{unit}"
    return f"{n_bytes:.0f}{NBSP}bytes"


def short_hash(text: str) -> str:
    return f"{text[:4]}…{text[-2:]}" if len(text) > 12 else text


def short_variant(written: str, beside: str | None = None) -> str:
    """What fits into the sidebar: the steps alone where the base is the one beside it."""
    if beside and written.startswith(beside + "~"):
        return written[len(beside):]
    return written


def sentence(label: str, value: str, unit: str = "") -> str:
    """A parameter with its value: "removing {}" says where the value goes, a plain label is followed by it."""
    return label.format(value) if "{}" in label else f"{label} {value}{' ' + unit if unit else ''}"
