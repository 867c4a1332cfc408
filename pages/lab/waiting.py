"""A job on its way: what it does, how far it is, Cancel; redrawn twice a second, the page again when it ends."""

from __future__ import annotations

import streamlit as st

from pages.shared import queue, redrawn
from pages.shared.queue import Standing
from pages.shared.wording import plain


def wait_for(jobs: list[Standing], key: str, pieces: int = 0) -> None:
    """`jobs` are active ones. With `pieces`, the page is drawn again whenever another so many steps are done, to show them."""
    ids = [job.id for job in jobs]
    began = _pieces(jobs, pieces)

    def bar() -> None:
        now = [job for job in queue.active() if job.id in ids]
        if not now or _pieces(now, pieces) != began:
            st.rerun()
        job = next((j for j in now if j.running), now[0])
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"foot_wait_{key}"):
            st.caption(plain(job.sentence))
            st.space("stretch")
            if any(j.mine for j in now):
                st.button("Cancel", icon=":material/close:", type="tertiary", key=f"cancel_{key}", on_click=_cancel, args=(ids,))
        st.progress(queue.fraction(now))

    redrawn.draw(bar, every=0.5)


def _pieces(jobs: list[Standing], pieces: int) -> int:
    return sum(job.job.i // pieces for job in jobs) if pieces else 0


def _cancel(ids: list[str]) -> None:
    for id in ids:
        queue.cancel(id)
