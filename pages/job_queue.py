"""What the machine is doing, what waits, and what it did."""

import streamlit as st

from pages.shared import queue, redrawn
from pages.shared.wording import ago, duration, plain

COLORS = {"done": "green", "failed": "red", "cancelled": "gray", "running": "blue", "queued": "gray", "waiting": "gray"}
HISTORY = 50

st.title("Queue and history", anchor=False)


def row(job: queue.Standing) -> None:
    with st.container(border=True, key=f"foot_job_{job.id[:12]}", gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(job.state, color=COLORS.get(job.state, "gray"))
            st.markdown(f"**{plain(job.title)}**", width="content")
            st.space("stretch")
            if job.seconds:
                st.caption(f"in {duration(job.seconds)}", width="content")
            st.caption(ago(queue.age(job)), width="content")
            if job.active and job.mine:
                st.button("Cancel", type="tertiary", icon=":material/close:", key=f"cancel_{job.id}", on_click=queue.cancel, args=(job.id,))
            if job.page and st.button("Open", type="tertiary", icon=":material/arrow_forward:", key=f"open_{job.id}"):
                st.switch_page(f"{job.page}.py", query_params=job.query)
        if job.active:
            st.progress(job.fraction, text=plain(job.sentence) if job.mine else None)
        if job.failed and job.mine:
            st.markdown(plain(job.job.error))


def jobs() -> None:
    active, past = queue.active(), queue.history(HISTORY)
    st.markdown("##### Now")
    for job in active:
        row(job)
    if not active:
        st.caption("Nothing runs and nothing waits. Two workers stand ready: one for what takes seconds, one for what takes longer.")
    st.markdown("##### Before")
    for job in past:
        row(job)
    if not past:
        st.caption("What was computed on this machine will be listed here, with a way back to its page.")


redrawn.draw(jobs, every=1.0)
