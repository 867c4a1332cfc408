"""A piece of a page that is drawn again by itself, while something runs."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st


def draw(piece: Callable[[], None], every: float | None) -> None:
    """Draw `piece` now and again `every` so many seconds; None: only when something in it is used.

    It stands in a container of its own. Where a run of the whole page is followed at once by one of the fragment, Streamlit (1.67) drops what
    the first one wrote for the fragment; the browser then takes the fragment's place away, and the next drawing overwrites what stood after it.
    """
    with st.container():
        st.fragment(run_every=every)(piece)()
