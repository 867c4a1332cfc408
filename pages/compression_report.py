"""What did the compression change inside?"""

from dataclasses import replace

import streamlit as st

from analysis import report
from analysis.contract import module_docs
from models.refusal import Refused
from pages.report import bar, draw, sections
from pages.shared import frame, states, subject
from pages.shared import view as views

frame.carry("compression_report")
view = views.read(report, {k: v for k, v in st.query_params.to_dict().items() if k not in ("only", "corpus")}, subject.devices())
frame.remember("compression_report", st.query_params.to_dict())
subject.draw(report, view)
st.title(report.QUESTION, anchor=False)
frame.chips(report, replace(view, params={}), [])
states.notices(view.notices)


def body() -> None:
    asked = report.ask(view.a, view.b, bar.only(), view.device)
    bar.draw(view, asked)
    found = sections.read(asked)
    done = sum(section.complete for section in found)
    with st.container(horizontal=True, vertical_alignment="center", key="head_numbers"):
        st.markdown("##### Headline numbers", width="content")
        st.caption(f"{done} of {len(found)} analyses gave numbers. Nothing is averaged.", width="content")
        st.space("stretch")
        if done:
            draw.take_away(found, view.a, view.b)
    draw.numbers(found)
    draw.states(found)
    draw.figures(found)


if view.refused:
    frame.refused_subject(view)
elif not view.b:
    states.empty_card("This page runs every analysis on A and on a compressed B and puts their numbers and differences side by side. Choose B, or make one in the lab.",
                      lambda: frame.compare_button(view))
else:
    try:
        body()
    except Refused as error:
        states.error_card("This cannot be measured", error, "request", tag="not loaded")
with st.expander("Method", icon=":material/function:"):
    st.markdown(module_docs(report))
subject.queue_panel()
