"""A checkpoint or a text that is not in the sidebar's lists yet: opened by its folder or its name on a hub, with what it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import streamlit as st

import operators
from analysis import run
from models import corpus as corpora
from models import examine, shelf, weights
from models.hub import NotHere
from models.refusal import Refused
from models.variant import DTYPES
from pages.shared import controls, room, visitor
from pages.shared.view import View
from pages.shared.wording import plain

LOCAL = ("/", "~", ".")  # what a folder's path begins with


def draw(view: View) -> None:
    _model(view)
    if not shelf.public():
        _text(view)


def _model(view: View) -> None:
    label, example = ("Its name on a hub", "owner/name@revision") if shelf.public() else ("Folder of a checkpoint, or its name on a hub", "/models/my-llama, owner/name@revision")
    path = st.text_input(label, placeholder=example, key="open_model").strip()
    dtype = st.selectbox("Computed in", DTYPES, key="open_dtype_a", help="float32 is the most exact; the others take half the memory and round every activation.")
    try:
        device = _room_for(path, dtype, view.device) if path else None
        if st.button("Make it A", key="open_model_go", disabled=device is None):
            if path.startswith(LOCAL):
                path = "shelf/" + shelf.register(path, run.home(), visitor.owner())
            opened = operators.parse(path)
            controls.write_link("a", replace(opened, dtype=opened.dtype if dtype == DTYPES[0] else dtype).written)
            controls.write_link("device", None if device == room.devices()[0] else device)
            st.rerun()
    except Refused as error:
        st.error(plain(error))


def _room_for(path: str, dtype: str, device: str) -> str | None:
    """Says what it takes beside what is free; where it will run, None where it fits nowhere and is not to be offloaded."""
    try:
        needed = room.needs(weights.read(_folder(path)), dtype)
    except NotHere:
        st.caption("It is fetched first; its size is checked then.")
        return device
    places = [p for p in dict.fromkeys((device, *room.devices())) if p != room.OFFLOAD]
    place = next((p for p in places if room.fits(needed, room.free_on(p))), None)
    st.caption(room.said(needed, room.free_on(place or places[0]), place or places[0]))
    if place is None and st.toggle(f"offload: what does not fit stays on disk, {room.SLOWER}", key="open_offload"):
        return room.OFFLOAD
    return place


def _folder(path: str) -> Path:
    if not path.startswith(LOCAL):
        v = operators.parse(path)
        shelf.require_use(v.base, run.home(), visitor.owner())
        return examine.folder_of(f"{v.base}@{v.revision}" if v.revision else v.base, run.home())
    if shelf.public():
        raise Refused("Folders of the server cannot be opened while the app serves others. Upload the checkpoint or name one of a hub.")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise Refused(f"Found no folder {str(folder)[:200]}; expected one with config.json and model.safetensors. Check the path.")
    return folder


def _text(view: View) -> None:
    """The slice stays as it is on the page, so that labelled documents are read one by one where the page reads them so."""
    path = st.text_input("File on this machine: text, JSONL, CSV, Parquet", placeholder="/data/pool.jsonl", key="open_text",
                         help="Paragraphs of text, or a text a row such as {\"text\": \"…\", \"label\": \"…\"}; what stands beside the text becomes its labels.")
    if st.button("Make it the corpus", key="open_text_go", disabled=not path):
        try:
            opened, _, cut = corpora.register_text(Path(path), run.home()), *(view.corpus or "").partition(":")[1:]
            controls.write_link("corpus", f"{opened}:{cut}" if cut else opened)
            st.rerun()
        except Refused as error:
            st.error(plain(error))
