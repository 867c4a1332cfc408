"""The page when there is nothing to draw yet, or nothing that can be drawn: error cards, empty state, skeletons."""

from __future__ import annotations

import streamlit as st

from models.refusal import Refused
from pages.shared.wording import plain, prose


def error_card(title: str, error: Refused | str, key: str, details: tuple[str, ...] = (), tag: str = "not run") -> None:
    """What was found, what was expected, what to do; a long list (missing tensors) folds away. Never a traceback."""
    details = details or getattr(error, "details", ())
    with st.container(border=True, key=f"error_{key}"):
        with st.container(horizontal=True, vertical_alignment="center", key=f"head_error_{key}"):
            st.markdown(f"##### :red[:material/error:] {prose(title)}", width="content")
            st.space("stretch")
            st.badge(tag, color="red")
        if hasattr(error, "found"):
            with st.grid(3, min_column_width=240):
                for word, text in (("Found", error.found), ("Expected", error.expected), ("What to do", error.todo)):
                    with st.container(gap=None):
                        st.caption(word)
                        st.markdown(plain(text[:1].upper() + text[1:]))
        else:
            st.markdown(plain(error))
        if details:
            with st.container(horizontal=True, key=f"foot_error_{key}"):
                with st.popover(f"{len(details):,} lines of detail", type="tertiary", icon=":material/list:"):
                    st.code("\n".join(details[:500]), language=None, height=320 if len(details) > 14 else "content")


def empty_card(what: str, buttons) -> None:
    """Teaches what will stand here; `buttons` draws the ways to get it."""
    with st.container(border=True, key="empty"):
        st.markdown("##### Nothing measured yet")
        st.markdown(prose(what), width=720)
        with st.container(horizontal=True, gap="small"):
            buttons()


def skeleton_cards(n: int = 4, height: int = 344) -> None:
    """Cards keep their place while the first result is on its way."""
    with st.grid(2, min_column_width=430, gap=18, border=True) as grid:
        for _ in range(n):
            with grid.cell():
                st.skeleton(24, width=260)
                st.skeleton(height)
                st.skeleton(44)


def notices(sentences: tuple[str, ...]) -> None:
    """What of the link could not be used, one line each."""
    for sentence in sentences:
        st.warning(plain(sentence), icon=":material/link_off:")
