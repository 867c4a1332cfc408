"""Which checkpoint the page is about, as its link says: `?model=`, `?with=`; who may see it; where its files lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from analysis import run
from models import configs, examine, shelf, weights
from models.refusal import Refused
from models.shelf import ShelfEntry
from pages.shared import visitor


@dataclass(frozen=True)
class Subject:
    """A checkpoint that lies here and may be seen; `config` is empty and `why` a sentence where it has none to believe."""

    source: str
    folder: Path
    title: str
    kind: str  # demo, folder, upload or hub
    config: dict
    left_out: tuple[str, ...]
    why: str
    runnable: bool
    table: weights.Weights
    entry: ShelfEntry | None


def entries() -> list[ShelfEntry]:
    """What this visitor may choose."""
    return shelf.shelf(run.home(), visitor.owner(), inspectable=True)


def find(source: str) -> Subject:
    """Refused in words: unknown, not this visitor's, gone or broken; hub.NotHere for a hub's that was not fetched."""
    entry = next((e for e in entries() if e.source == source), None)
    if source.startswith("v/") or not re.match(r"[A-Za-z0-9][A-Za-z0-9._\-]*(/[A-Za-z0-9][A-Za-z0-9._\-]*){1,2}(@[A-Za-z0-9._/\-]+)?\Z", source):
        raise Refused(f"“{source[:80]}” is not a model's name; expected demo/…, shelf/… or owner/name of a hub.")
    if entry is None and source.startswith(("demo/", "shelf/")):
        raise Refused(f"Nothing called {source[:80]} is on your shelf: deleted, expired, somebody else's or never there. Choose another one.")
    folder = examine.folder_of(source, run.home())
    table, config, left_out, why = weights.read(folder), {}, (), ""
    try:
        clean = configs.read(folder)
        config, left_out = clean.fields, clean.left_out
    except Refused as refusal:
        why = str(refusal)
    if entry is not None and not entry.runnable:
        why = entry.why or why
    if config and not why and config["model_type"] not in configs.ARCHITECTURES:
        why = f"The architecture {config['model_type']} is not one this app runs; its tensors can be examined."
    return Subject(source, folder, entry.title if entry else source, entry.kind if entry else "hub", config, left_out, why, not why, table, entry)


def link(name: str) -> str | None:
    value = st.query_params.get(name)
    return value[:300] if value else None


def sidebar(source: str | None) -> None:
    """The checkpoint of the page and the one it is compared with."""
    known = [e.source for e in entries()]
    with st.sidebar:
        st.markdown("**Subject**")
        for label, name, value, without in (("Checkpoint A", "model", source, None), ("B, compared with A", "with", link("with"), source)):
            options = [s for s in dict.fromkeys([*known, *([value] if value else [])]) if s != without]
            st.session_state[f"checkpoint_{name}"] = value
            st.selectbox(label, options, key=f"checkpoint_{name}", placeholder="choose" if name == "model" else "none", on_change=_choose, args=(name,), disabled=name == "with" and not source)


def _choose(name: str) -> None:
    go(**{name: st.session_state[f"checkpoint_{name}"], "tensor": None, "page": None})


def go(**values: str | None) -> None:
    """Write several values into the link; a button's callback."""
    for name, value in values.items():
        if value is None:
            st.query_params.pop(name, None)
        else:
            st.query_params[name] = value
