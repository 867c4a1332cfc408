"""Opening a checkpoint on the page: it, or a card that says why not and a way out."""

from __future__ import annotations

import streamlit as st

from models.hub import NotHere
from models.refusal import Refused
from pages.checkpoint import subject, working
from pages.checkpoint.names import in_markdown
from pages.checkpoint.subject import Subject
from pages.shared import states


def opened(source: str) -> Subject | None:
    try:
        return subject.find(source)
    except NotHere:
        working.fetch(source)
    except Refused as error:
        states.error_card("This checkpoint cannot be opened", error, f"open_{len(source)}", tag="not loaded")
        st.button("Back to the shelf", icon=":material/arrow_back:", key=f"back_{len(source)}", on_click=subject.go, kwargs={"model": None, "with": None})
    return None


def chips(a: Subject, b: Subject | None = None) -> None:
    with st.container(horizontal=True, gap="xsmall", key="chips"):
        st.badge(f"**A** {in_markdown(a.source)}", color="blue")
        if b:
            st.badge(f"**B** {in_markdown(b.source)}", color="orange")
        elif a.title != a.source:
            st.badge(in_markdown(a.title), color="gray")
