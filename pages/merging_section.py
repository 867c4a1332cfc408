"""Below the merging figures: a merge is opened as a model in any analysis, or written to a folder from a shell."""

from __future__ import annotations

import streamlit as st

import analysis
from analysis.merging.words import step_of

FIRST = "layer_redundancy"


def draw(view, page_now) -> None:
    if page_now is None or page_now.refused:
        return
    with st.expander("Use a merge as a model", icon=":material/merge:", expanded=True):
        merges = {step_of(m): m for m in page_now.runs[0].result.merges}
        pages = [name for name in analysis.ANALYSES if analysis.load(name).MODELS[0] == 1]
        with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
            chosen = st.selectbox("Merge", list(merges), key="merge_chosen")
            where = st.selectbox("Analysis", pages, format_func=lambda name: analysis.load(name).QUESTION, key="merge_where")
            if st.button("Open it as A", type="primary", icon=":material/biotech:", key="merge_open"):
                st.switch_page(f"{where}.py", query_params={"a": merges[chosen]})
        st.caption("In a shell, the same model as a Hugging Face folder:")
        st.code(f"python -m operators export '{merges[chosen]}' DIR", language="bash")
