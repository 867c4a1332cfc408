"""Bring a checkpoint, and look inside it. Everything the page shows is in its link: ?model=, ?with=, ?tensor=."""

import streamlit as st

from pages.checkpoint import add, compare, look, shelf_table, show, subject
from pages.shared.subject import queue_panel

source = subject.link("model")
subject.sidebar(source)
other = subject.link("with") if source and subject.link("with") != source else None
st.title("How do these two checkpoints differ?" if other else "What is in this checkpoint?" if source else "Bring your own checkpoint", anchor=False)

if source is None:
    add.draw()
    shelf_table.draw()
else:
    opened = [found for found in (show.opened(name) for name in filter(None, (source, other))) if found]
    if len(opened) == 2:
        show.chips(*opened)
        compare.draw(*opened)
    elif opened and opened[0].source == source:
        show.chips(*opened)
        look.draw(opened[0])
queue_panel()
