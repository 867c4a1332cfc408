"""One question to the worker, on the page: its stored answer, or how far it is, or a button that asks."""

from __future__ import annotations

import streamlit as st

from analysis import run
from cache.store import Entry
from jobs import client
from jobs.spec import job_id
from models import examine, hub
from models.examine import Ask
from pages.checkpoint.names import in_markdown
from pages.shared import queue, redrawn, states
from pages.shared.queue import Standing
from pages.shared.wording import duration, plain, prose

BY_ITSELF = 10.0  # seconds: what is estimated to take less needs no click
STALE = 60.0  # seconds after which a finished job without a stored answer is of older code or an emptied store


def answer(ask: Ask, what: str, key: str, by_itself: bool = True) -> Entry | None:
    """The stored answer; None while it is asked for, and then the place shows why, how far, or the button.

    `what` completes "Compute …"; `key` names the widgets. Refused where the files cannot be read.
    """
    found = examine.stored(ask, run.home())
    if found is not None:
        return found
    job = standing(ask)
    seconds = examine.seconds(ask, run.home())
    if (job is None or job.state == "done" and queue.age(job) > STALE) and by_itself and seconds < BY_ITSELF:
        submit(ask)
        job = standing(ask)
    if job is not None and job.active:
        _progress(ask, key)
        return None
    if job is not None and job.failed:
        states.error_card(f"{examine.TITLES[ask.task]} did not finish", job.job.error, key, job.job.details, tag="not done")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if st.button(f"Compute {what}" if ask.task != "fetch" else what, key=f"ask_{key}", icon=":material/play_arrow:", type="primary"):
            submit(ask)
            st.rerun()
        if ask.task != "fetch":
            st.caption(f"about {duration(seconds)}", width="content")
    return None


def _progress(ask: Ask, key: str) -> None:
    def bar() -> None:
        job = standing(ask)
        if job is None or not job.active:
            st.rerun()
        with st.container(gap="xsmall", key=f"work_{key}"):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.caption(plain(job.sentence))
                st.button("Cancel", icon=":material/close:", type="tertiary", key=f"cancel_{key}", on_click=queue.cancel, args=(job.id,))
            st.progress(job.fraction)

    redrawn.draw(bar, every=0.5)


def standing(ask: Ask) -> Standing | None:
    job = client.status(job_id(ask.spec(run.home())))
    return None if job is None else Standing(job)


def submit(ask: Ask) -> str | None:
    return queue.ask(ask.spec(run.home(), examine.seconds(ask, run.home())))


def fetch(source: str) -> None:
    """The place of a hub's checkpoint that is not here yet."""
    with st.container(border=True, key="fetch"):
        st.markdown(f"##### {in_markdown(source)} is not on this machine")
        st.markdown(prose(f"Its safetensors, config and tokenizer are fetched once, no code among them; at most {hub.limit_bytes() / 1e9:.0f} GB. Without a network, what an earlier download left is used."))
        if answer(Ask("fetch", source), "Fetch it", "fetch", by_itself=False) is not None:
            st.rerun()
