"""Bring a checkpoint, and look inside it. Everything the page shows is in its link: ?model=, ?with=, ?tensor=."""

import streamlit as st

from pages.checkpoint import add, compare, look, shelf_table, show, subject
from pages.shared.subject import queue_panel

source = subject.link("model")
subject.sidebar(source)
st.title("What is in this checkpoint?" if source else "Bring your own checkpoint", anchor=False)

if source is None:
    add.draw()
    shelf_table.draw()
else:
    other = subject.link("with")
    opened = [found for found in (show.opened(name) for name in dict.fromkeys([source, *([other] if other else [])])) if found]
    if len(opened) == 2:
        show.chips(*opened)
        compare.draw(*opened)
    elif opened and opened[0].source == source:
        show.chips(*opened)
        look.draw(opened[0])
queue_panel()
