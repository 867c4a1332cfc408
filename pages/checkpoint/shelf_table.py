"""The shelf: what one can choose, what room it takes, until when it stays; look, open, share, delete."""

from __future__ import annotations

import time
from pathlib import Path

import streamlit as st

from analysis import run
from models import shelf, uploads
from models.refusal import Refused
from models.shelf import ShelfEntry
from pages.checkpoint.names import in_markdown
from pages.checkpoint.subject import entries, go
from pages.shared import visitor
from pages.shared.wording import plain, size

KINDS = {"demo": "gray", "folder": "green", "upload": "blue"}
DAY = 86_400


def draw() -> None:
    st.markdown("##### On the shelf")
    owner = visitor.owner()
    listed = entries()
    _quota(owner)
    _past_refusal()
    for entry in (e for e in listed if "-steps/" not in e.source):
        _row(entry, owner)
    steps = [e.source for e in listed if "-steps/" in e.source]
    if steps:
        with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
            chosen = st.selectbox(f"{len(steps)} checkpoints along training runs", steps, index=None, placeholder="choose one to examine", key="step_checkpoint", width=380)
            st.button("Examine", disabled=chosen is None, key="look_step", on_click=go, kwargs={"model": chosen})


def _quota(owner: str) -> None:
    used, allowed = uploads.used(run.home(), owner), uploads.allowance()
    stays = f"; an upload stays {allowed.stays // DAY} days" if allowed.stays else "; uploads stay until they are deleted"
    st.progress(min(used / allowed.quota, 1.0), text=plain(f"Uploads take {size(used)} of {size(allowed.quota)}{stays}"))


def _row(entry: ShelfEntry, owner: str) -> None:
    mine = entry.kind != "demo" and entry.owner == owner
    with st.container(border=True, gap=None, key=f"foot_shelf_{entry.source}"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge(entry.kind, color=KINDS.get(entry.kind, "gray"))
            st.markdown(f"**{in_markdown(entry.title)}**", width="content")
            st.caption(in_markdown(entry.source, 24), width="content")
            st.space("stretch")
            with st.container(horizontal=True, vertical_alignment="center", gap="small", width="content"):  # wraps as one where it is narrow
                st.caption(", ".join(filter(None, [_size(entry), expiry(entry.expires, time.time()), "" if entry.runnable else "to examine only"])), width="content")
                _actions(entry, mine)


def _actions(entry: ShelfEntry, mine: bool) -> None:
    st.button("Examine", type="tertiary", icon=":material/search:", key=f"look_{entry.source}", on_click=go, kwargs={"model": entry.source})
    if entry.runnable and st.button("Open in analysis", type="tertiary", icon=":material/biotech:", key=f"analyse_{entry.source}"):
        st.switch_page("layer_redundancy.py", query_params={"a": entry.source})
    if mine and shelf.public():
        st.toggle("Shared", entry.shared, key=f"share_{entry.source}", on_change=_share, args=(entry.alias, f"share_{entry.source}"),
                  help="Everybody who uses this app may then choose it. Its name is random and shown to nobody else before.")
    if mine:
        with st.popover("Delete", type="tertiary", icon=":material/delete:"):
            st.markdown("The uploaded files are removed for good." if entry.kind == "upload" else "It is taken off the shelf; its folder stays as it is.", width=280)
            st.button("Delete it", key=f"delete_{entry.source}", type="primary", on_click=_delete, args=(entry.alias,))


def _size(entry: ShelfEntry) -> str:
    if entry.n_bytes:
        return size(entry.n_bytes)
    folder = Path(entry.path)
    return size(sum(p.stat().st_size for p in folder.glob("*.safetensors"))) if folder.is_dir() else "folder gone"


def expiry(expires: float | None, now: float) -> str:
    """"expires in 3 days", "" where it stays."""
    if expires is None:
        return ""
    days = max(expires - now, 0) / DAY
    return f"expires in {days:.0f} days" if days >= 2 else f"expires in {max(days * 24, 1):.0f} h"


def _share(alias: str, key: str) -> None:
    _try(lambda: shelf.share(alias, visitor.owner(), run.home(), st.session_state[key]))


def _delete(alias: str) -> None:
    _try(lambda: shelf.delete(alias, visitor.owner(), run.home()))


def _try(change) -> None:
    try:
        change()
    except Refused as refusal:
        st.session_state["shelf_refusal"] = str(refusal)


def _past_refusal() -> None:
    sentence = st.session_state.pop("shelf_refusal", None)
    if sentence:
        st.warning(plain(sentence))
