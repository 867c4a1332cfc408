"""Below the bigram subnetwork's figures: a mask made elsewhere is brought, or one that is here is chosen."""

from __future__ import annotations

import tempfile
from pathlib import Path

import streamlit as st

from analysis import run
from models import mask_files, shelf
from models.refusal import Refused
from pages.shared import controls, states


def draw(view, page_now) -> None:
    """Writes the chosen mask's name into the link as the parameter `masks`."""
    with st.expander("A mask made elsewhere", icon=":material/upload_file:"):
        st.markdown(
            "Lay a published or your own subnetwork over the model: one safetensors file with a mask per attention and MLP weight matrix, by its Hugging Face name. The authors publish theirs "
            f"(`tylerachang/bigram-subnetworks-…`) as pickles, which can run code when opened and are refused here. Convert one on your own machine: `{mask_files.CONVERT.format('subnetwork_dict_lambda1e1.pickle')}`."
        )
        given = st.file_uploader("Mask file", key="mask_file", label_visibility="collapsed")
        if given is not None and st.session_state.get("mask_added") != given.file_id:
            _add(given)
        _choose(view)


def _add(given) -> None:
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "mask"
            file.write_bytes(given.getbuffer())
            name = mask_files.add(file, given.name, run.home())
    except Refused as refused:
        states.error_card("This mask was not taken", refused, "mask", tag="not loaded")
        return
    st.session_state["mask_added"] = given.file_id
    controls.write_link("masks", name)
    st.rerun()


def _choose(view) -> None:
    """The masks on this machine; somebody else's are not listed while the app serves others."""
    now = view.params.get("masks", "")
    names = sorted({*([] if shelf.public() else mask_files.known(run.home())), *([now] if now else [])})
    if names:
        st.selectbox("Mask laid over the model", ["", *names], key=controls.seed("mask_chosen", now), format_func=lambda name: name or "none", on_change=_chosen)


def _chosen() -> None:
    controls.write_link("masks", st.session_state["mask_chosen"] or None)
