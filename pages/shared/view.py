"""What a page shows, as its link says it: subject, corpus, parameters, chosen views. The link is the only place it is kept.

Each run of a page reads the link; each control writes into it. So Back, Reload and a second browser show the same. Values in a
link come from outside: each is checked alone, a bad one is named in a sentence and replaced by its default, the rest stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import operators
from analysis import run
from models import shelf
from models.corpus import Corpus
from models.corpus import parse as parse_corpus
from models.params import fields_of, read_params
from models.refusal import Refused
from models.variant import write_value
from pages.shared import visitor
from pages.shared.wording import sentence

DEFAULT_MODEL = "demo/storyteller-a"
SUBJECT = ("a", "b", "more", "corpus", "device")
BETWEEN = ";"  # stands between the models of `more`; no written form holds it
IGNORED = ("embed", "embed_options")
VIEW = "view."


@dataclass(frozen=True)
class View:
    """A checked link. `refused` holds what is wrong with A, B or the corpus (then nothing can be computed), by name."""

    a: str = DEFAULT_MODEL
    b: str | None = None
    more: tuple[str, ...] = ()  # third model and further ones, for analyses that take them
    corpus: str = ""
    device: str = "cpu"
    params: dict[str, Any] = field(default_factory=dict)  # typed, only those that differ from their defaults
    views: dict[str, str] = field(default_factory=dict)  # figure's name -> view's name
    notices: tuple[str, ...] = ()
    refused: dict[str, Refused] = field(default_factory=dict)

    @property
    def corpus_spec(self) -> Corpus | None:
        return parse_corpus(self.corpus) if self.corpus else None


def read(module: ModuleType, query: Mapping[str, str], devices: tuple[str, ...] = ("cpu",)) -> View:
    """Check a link against an analysis."""
    notices: list[str] = []
    refused: dict[str, Refused] = {}
    a = _variant(query.get("a") or DEFAULT_MODEL, "a", refused)
    b = _variant(whole(query["b"], a), "b", refused) if query.get("b") else None
    if b == a:
        notices.append("B is the same as A, so there is nothing to compare; only A is shown.")
        b = None
    more = tuple(_variant(whole(text.strip(), a), "more", refused) for text in (query.get("more") or "").split(BETWEEN) if text.strip())
    corpus = "" if module.CORPUS is None else query.get("corpus") or module.CORPUS
    try:
        corpus = corpus and parse_corpus(corpus).written
    except Refused as error:
        refused["corpus"] = error
    if module.MODELS[1] <= 2:
        refused.pop("more", None)  # carried along from a page that takes them; not looked at here
    device = query.get("device") or devices[0]
    if device not in devices:
        notices.append(f"This machine has no device “{device[:20]}”; {devices[0]} is used.")
        device = devices[0]
    return View(a, b, tuple(m for m in more if m not in (a, b)), corpus, device, _params(module, query, notices), _views(query), tuple(notices), refused)


def whole(text: str, a: str) -> str:
    """`~drop_layers:blocks=3` is short for A followed by that step."""
    return a + text if text.startswith("~") else text


def requests(module_name: str, view: View) -> tuple[run.Request, ...]:
    found = run.requests(module_name, view.a, view.b, view.corpus, view.params, view.device, view.more)
    for source in {s for request in found for v in run.also(request) for s in _sources(v)}:  # a parameter may name models too
        shelf.require_use(source, run.home(), visitor.owner())
    return found


def differences(module: ModuleType, old: View, new: View) -> str:
    """What the figures of `old` were made from where it differs from `new`: "128 sequences, spans up to 12"."""
    parts = []
    if old.a != new.a:
        parts.append(f"A {old.a}")
    if old.b != new.b:
        parts.append(f"B {old.b}" if old.b else "A alone")
    if old.more != new.more and module.MODELS[1] > 2:
        parts.append(f"{len(old.more)} more models" if old.more else "no more models")
    if old.corpus != new.corpus:
        parts += _corpus_differences(old.corpus_spec, new.corpus_spec)
    if old.device != new.device:
        parts.append(old.device)
    for f, _ in fields_of(module.Params):
        was, now = (v.params.get(f.name, f.default) for v in (old, new))
        if was != now and not f.metadata.get("display"):
            parts.append(sentence(f.metadata.get("label", f.name), write_value(was), f.metadata.get("unit", "")))
    return ", ".join(parts)


def with_slice(corpus: str, **changes) -> str:
    return replace(parse_corpus(corpus), **changes).written


def _corpus_differences(old: Corpus, new: Corpus) -> list[str]:
    if old.source != new.source:
        return [old.written]
    if old.n_sequences != new.n_sequences:
        return [f"{old.n_sequences:,} sequences"]
    return [old.written]


def _variant(text: str, name: str, refused: dict[str, Refused]) -> str:
    try:
        v = operators.parse(text) if not text.startswith("v/") else run.variant(text)
        for source in _sources(v):
            shelf.require_use(source, run.home(), visitor.owner())
        return run.keep_recipe(v)
    except Refused as error:
        refused[name] = error
        return text


def _sources(v) -> list[str]:
    return [v.base] if not v.parents else [s for parent in v.parents for s in _sources(parent)]


def _params(module: ModuleType, query: Mapping[str, str], notices: list[str]) -> dict[str, Any]:
    known = {f.name: f for f, _ in fields_of(module.Params)}
    values = {}
    for name in query:
        if name in SUBJECT or name in IGNORED or name.startswith(VIEW):
            continue
        try:
            value = getattr(read_params(module.Params, {name: query[name]}), name)
        except Refused as error:
            kept = f" {name} = {write_value(known[name].default)} is used." if name in known else " It was left out."
            notices.append(f"{error}{kept}")
        else:
            if value != known[name].default:
                values[name] = value
    return values


def _views(query: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(VIEW): value for name, value in query.items() if name.startswith(VIEW)}
