"""Files dropped in the browser go to the upload route in pieces, never through this process's memory; see dropzone.js."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import streamlit as st

from models import uploads

HERE = Path(__file__).parent
HTML = """<div class="drop" tabindex="0" role="button" aria-label="Choose or drop the files of a checkpoint">
<p class="lead">Drop the files of a checkpoint here</p><p class="more">or <u>choose files</u></p>
<input type="file" multiple hidden></div>
<div class="rows" aria-live="polite"></div><p class="error" role="alert" hidden></p>
<div class="foot" hidden><span class="sum"></span><button class="hold">Pause</button><button class="stop">Cancel</button></div>"""


@lru_cache(maxsize=1)
def _component():
    return st.components.v2.component("microtome_dropzone", html=HTML, css=(HERE / "dropzone.css").read_text(), js=(HERE / "dropzone.js").read_text())


def draw(ticket: str) -> tuple[str, str] | None:
    """(id, what it was called in the browser) of an upload that has just arrived whole, once."""
    base = st.get_option("server.baseUrlPath").strip("/")
    told = getattr(st.session_state.get("dropzone"), "arrived", None)
    data = {"seen": told["id"] if isinstance(told, dict) else None, "ticket": ticket, "route": f"/{base}/upload" if base else "/upload", "limit": uploads.allowance().upload, "files": uploads.MAX_FILES}
    result = _component()(key="dropzone", data=data, on_arrived_change=lambda: None)
    arrived = result.arrived
    if not isinstance(arrived, dict) or not isinstance(arrived.get("id"), str):
        return None
    return arrived["id"], str(arrived.get("title", ""))[:80]
