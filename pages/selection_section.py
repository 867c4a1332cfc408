"""Below the figures of data selection: which SAE is read, and what a method takes, as a file to train on."""

from __future__ import annotations

from functools import partial

import streamlit as st

from analysis.data_selection import leaving, words
from export import files
from pages import sae_section
from pages.shared.exporting import NAMES


def draw(view, page_now) -> None:
    sae_section.draw(view)
    if page_now is None or not page_now.figures:
        return
    runs = page_now.runs
    choices = [(i, m) for i, run in enumerate(runs) for m in range(len(run.result.methods))]
    named = lambda c: words.method(runs[c[0]], c[1]) + (f", {runs[c[0]].label}" if len(runs) > 1 else "")
    with st.container(border=True):
        st.markdown("**Take the selection away**")
        with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
            which = st.selectbox("Taken by", choices, format_func=named, key="selection_method", width=280)
            run, method = runs[which[0]], which[1]
            for fmt in ("jsonl", "parquet", "csv"):
                st.download_button(NAMES[fmt], partial(_file, run, method, fmt), f"selection.{fmt}", files.MIME[fmt], key=f"selection_{fmt}", icon=":material/download:", on_click="ignore")
        st.caption(f"{len(words.taken(run, method)):,} samples at {run.params.budget:g} % of the pool, best first: text, label, rank, likeness, and on every row the model, pool, SAE, target and result "
                   "that it comes from.")


def _file(run, method: int, fmt: str) -> bytes:
    return files.table_bytes(leaving.selection(run, method), fmt)
