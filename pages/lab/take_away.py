"""Take B away: a Hugging Face folder, checked by loading it again; downloaded, or put on the shelf as a checkpoint of its own."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import streamlit as st

import operators
from analysis import run
from jobs import client, take_away
from jobs.spec import job_id
from models import shelf
from models.refusal import Refused
from models.variant import Variant
from pages.lab.waiting import wait_for
from pages.shared import controls, queue, states
from pages.shared.view import View
from pages.shared.wording import plain, size

MOST = 512 << 20  # bytes of a folder that is handed to the browser as one zip


def draw(view: View, b: Variant) -> None:
    """Call inside a popover or a container."""
    st.markdown("**A Hugging Face folder**")
    st.caption(plain(what(b)))
    done = take_away.taken(b)
    spec = take_away.spec(b, view.device, {"page": "compression", "query": st.query_params.to_dict()})
    job = client.status(job_id(spec))
    if done is not None:
        _done(b, done)
    elif job is not None and job.state in queue.ASKED:
        wait_for([queue.Standing(job)], "export")
    else:
        if job is not None and job.state == "failed":
            states.error_card("It was not exported", job.error, "export", job.details)
        st.button("Export", type="primary", icon=":material/ios_share:", key="export_go", width="stretch", on_click=queue.ask, args=({**spec, "lane": "batch"},))


def what(b: Variant) -> str:
    """What the folder will hold, before it is made."""
    last = operators.OPERATORS[b.steps[-1].operator] if b.steps else None
    removes = any(operators.leaves_out(step) for step in b.steps)
    parts = ["Config, safetensors, tokenizer and a card with the recipe; plain transformers loads it. It is loaded again and its logits compared before it is called done."]
    if removes:
        parts.append("Blocks that were removed whole are left out, so it is really smaller; single sublayers stay as zeros.")
    if last is not None and hasattr(last, "physical"):
        parts.append("It is written really smaller where its architecture has a config for that, else in full shape, and says which.")
    elif not removes:
        parts.append("Pruned, rounded or shared weights are written as the values they stand for: same logits, full size, because the format has no place for masks, codes or copies.")
    return " ".join(parts)


def _done(b: Variant, done: take_away.Taken) -> None:
    st.markdown(f":green[:material/check:] {plain(done.said)}")
    if done.n_bytes <= MOST:
        st.download_button("Download", lambda: zipped(done.folder), f"{done.folder.name}.zip", "application/zip", key="export_zip", icon=":material/download:", on_click="ignore", width="stretch")
    if not shelf.public():
        st.caption(f"{size(done.n_bytes)} in")
        st.code(str(done.folder), language=None, wrap_lines=True)
        st.button("Put it on the shelf as a checkpoint and make it B", key="export_shelf", icon=":material/shelves:", width="stretch", on_click=_to_shelf, args=(done.folder,))
    st.button("Delete the folder", type="tertiary", key="export_delete", icon=":material/delete:", on_click=take_away.delete, args=(b,))


def zipped(folder: Path) -> bytes:
    """The folder as one archive; weights do not compress, so they are stored."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{folder.name}/{file.name}")
    return out.getvalue()


def _to_shelf(folder: Path) -> None:
    try:
        controls.write_link("b", "shelf/" + shelf.register(folder, run.home()))
    except Refused as error:
        st.session_state["shelf_error"] = str(error)
