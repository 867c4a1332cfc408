"""The foot of a page: what exactly was computed, with what, and the one line that computes it again."""

from __future__ import annotations

import time

import streamlit as st

from analysis import bundle, run
from analysis.contract import Run
from pages.shared import exporting
from pages.shared.drawn import Drawn
from pages.shared.view import View
from pages.shared.wording import duration, plain, short_hash, short_variant


def draw(view: View, requests: tuple[run.Request, ...], page_now: Drawn) -> None:
    runs = list(page_now.runs)
    with st.container(horizontal=True, vertical_alignment="center", key="head_provenance"):
        st.markdown("##### Provenance", width="content")
        st.space("stretch")
        with st.container(key="foot_bundle", width="content"):
            exporting.bundle_button(requests, runs, list(page_now.figures), f"{requests[0].analysis}-bundle.zip")
    with st.grid(4, min_column_width=180, gap=(12, 18)):
        for name, value in rows(view, runs):
            with st.container(gap=None):
                st.caption(name)
                st.markdown(plain(value))
    st.code(bundle.command(requests), language=None, wrap_lines=True)
    changed = [text for text in map(elsewhere, (r.record for r in runs)) if text]
    if changed:
        st.caption(plain(changed[0]))


def rows(view: View, runs: list[Run]) -> list[tuple[str, str]]:
    """Name and value of each fact, as stored with the results."""
    first = runs[0].record
    identities = [identity for r in runs for identity in r.record["identity"]]
    models = (view.a, *(short_variant(m, view.a) for m in (view.b, *view.more) if m))
    out = [(label, f"{text}, {short_hash(identity)}") for label, text, identity in zip("ABCDEFGH", models, identities)]
    read = f"{first['n_tokens']:,} in {first['n_sequences']:,} sequences" if first["n_tokens"] else f"none; {first['n_sequences']:,} inputs" if first["n_sequences"] else "none"
    out += [
        ("Corpus", f"{first['corpus']}, {short_hash(first['corpus_identity'])}" if first["corpus"] else "none: inputs of its own"),
        ("Result", ", ".join(short_hash(r.record["key"]) for r in runs) + f", code {short_hash(first['code'])}"),
        ("Tokens", read),
        ("Computed", time.strftime("%d %b %Y, %H:%M", time.localtime(first["computed"])) + f", {duration(sum(r.record['seconds'] for r in runs))}"),
        ("Device", first["device"]),
        ("Versions", f"torch {first['versions']['torch']}, transformers {first['versions']['transformers']}, commit {first['commit']}"),
    ]
    return out


def elsewhere(record: dict) -> str:
    """A sentence when the stored result was computed with other library versions than are installed now."""
    now = run.versions()
    other = [f"{name} {version} (now {now.get(name)})" for name, version in record["versions"].items() if now.get(name) != version]
    return f"Computed with {', '.join(other)}; Run again to compute it with what is installed now." if other else ""
