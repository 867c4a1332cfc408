"""What the report still has to compute: which analyses, about how long, one job."""

from __future__ import annotations

import streamlit as st

import analysis
from analysis import run, sweep
from analysis.report import Asked
from jobs import client
from jobs.spec import job_id
from models.refusal import Refused
from pages.lab.waiting import wait_for
from pages.report import sections
from pages.shared import controls, queue, states
from pages.shared.view import View
from pages.shared.wording import duration


def only() -> tuple[str, ...]:
    """The analyses that the link names; none means all."""
    return tuple(name for name in st.query_params.get("only", "").split(".") if name in analysis.ANALYSES)


def draw(view: View, asked: list[Asked]) -> None:
    requests = [r for each in asked for r in each.requests]
    missing = sections.missing(asked)
    spec = sweep.spec(f"Report on {view.b}", requests, {"page": "compression_report", "query": st.query_params.to_dict()})
    job = client.status(job_id(spec)) if requests else None
    standing = None if job is None else queue.Standing(job)
    running = standing is not None and standing.active
    with st.container(border=True, key="runbar"):
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            _choose(asked, missing, running)
            st.space("stretch")
            if requests and not running:
                _go(spec, requests, missing)
        if running:
            wait_for([standing], "report", sweep.PARTS)
    if standing is not None and standing.failed:
        states.error_card("The report did not finish", standing.job.error, "report", standing.job.details)


def _choose(asked: list[Asked], missing: list[run.Request], running: bool) -> None:
    chosen = [each.name for each in asked]
    with st.popover(f"{len(chosen)} of {len(analysis.ANALYSES)} analyses", icon=":material/checklist:", key="report_choice"), st.container(width=460):
        st.multiselect("Analyses", list(analysis.ANALYSES), key=controls.seed("report_only", chosen), disabled=running, on_change=_store,
                       format_func=lambda name: name.replace("_", " "))
        for each in asked:
            own = [r for r in each.requests if r in missing]
            if own:
                st.caption(f"{each.name.replace('_', ' ')}: about {duration(_seconds(own))}")


def _store() -> None:
    chosen = st.session_state["report_only"]
    controls.write_link("only", ".".join(chosen) if chosen and len(chosen) < len(analysis.ANALYSES) else None)


def _seconds(requests: list[run.Request]) -> float:
    total = 0.0
    for request in requests:
        try:
            total += run.estimate(request).seconds
        except Refused:
            pass
    return total


def _go(spec: dict, requests: list[run.Request], missing: list[run.Request]) -> None:
    if not missing:
        st.badge("all from the store", icon=":material/database:", color="green")
        return
    seconds = _seconds(missing)
    st.caption(f"{len(missing)} of {len(requests)} computations, about {duration(seconds)}", width="content")
    st.button("Compute the rest" if len(missing) < len(requests) else "Compute the report", type="primary", icon=":material/play_arrow:", key="report_go",
              on_click=queue.ask, args=({**spec, "estimate": seconds, "lane": "batch"},))
