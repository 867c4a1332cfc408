"""The door for checkpoints: from the visitor's computer, from a folder of this machine, from a hub. Limits are said first."""

from __future__ import annotations

import re

import streamlit as st

from analysis import run
from models import examine, hub, shelf, uploads
from models.refusal import Refused
from pages.checkpoint import arriving
from pages.checkpoint.subject import go
from pages.shared import states, visitor
from pages.shared.wording import prose, size

WAYS = ("From your computer", "A folder of this machine", "From a hub")


def draw() -> None:
    with st.container(border=True, key="bring"):
        if arriving.now() is not None:
            arriving.draw()
            return
        computer, folder, from_hub = st.tabs(WAYS)
        with computer:
            _computer()
        with folder:
            _folder()
        with from_hub:
            _hub()


def _computer() -> None:
    allowed = uploads.allowance()
    st.markdown(prose(
        f"Up to **{size(allowed.upload)}** in one upload and {uploads.MAX_FILES} files; {size(max(allowed.quota - uploads.used(run.home(), visitor.owner()), 0))} of your room are free. "
        "A larger checkpoint comes from " + ("a hub." if shelf.public() else "a folder of this machine or from a hub.")
    ))
    arriving.drop()
    pickles = "" if not shelf.public() else " Pickles (.bin, .pt, .pth) are not opened while the app serves others; convert one on your machine with `python -m models.convert in.bin out/`."
    st.caption(
        "model.safetensors with config.json and tokenizer.json; shards; one .zip, .tar, .tar.gz or .tar.zst of them; a .gguf; "
        + ("a .bin, .pt or .pth state dict; " if not shelf.public() else "") + "a LoRA adapter. Drop the files of one model together, or its folder." + pickles
    )
    arriving.unfinished()


def _folder() -> None:
    if shelf.public():
        st.markdown("While the app serves others, folders of its machine are closed. Upload the checkpoint, or name one of a hub.")
        return
    st.markdown("A folder with safetensors and config.json, of any size. Its files stay where they are; a folder without a config can be examined.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        path = st.text_input("Folder", placeholder="/models/my-llama", key="folder_path")
        if st.button("Open it", key="open_folder", type="primary", disabled=not path):
            _open(lambda: examine.register(path, run.home(), visitor.owner()), "folder")


def _hub() -> None:
    st.markdown(prose(f"`owner/name`, with `@revision` if you like. Only safetensors, JSON and tokenizer files are fetched, never code; at most **{hub.limit_bytes() / 1e9:.0f} GB**."))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("Name on the hub", placeholder="owner/name@revision", key="hub_name")
        if st.button("Examine", key="open_hub", type="primary", disabled=not name):
            _open(lambda: _hub_name(name), "hub")


def _hub_name(name: str) -> str:
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9._\-]*/[A-Za-z0-9][A-Za-z0-9._\-]*(@[A-Za-z0-9._/\-]+)?\Z", name.strip()) or name.startswith(("demo/", "shelf/")):
        raise Refused("This is not a name on a hub; expected owner/name or owner/name@revision. Copy it from the model's page.")
    return name.strip()


def _open(get, key: str) -> None:
    try:
        go(model=get())
    except Refused as refusal:
        states.error_card("This cannot be opened", refusal, f"add_{key}", tag="not opened")
    else:
        st.rerun()
