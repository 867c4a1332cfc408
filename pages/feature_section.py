"""Below the browser's figures: which SAE is read, and the slider that steers."""

from __future__ import annotations

import streamlit as st

from pages import sae_section
from pages.shared import controls

MOST = 5.0  # of the slider, either way; the run bar takes more


def draw(view, page_now) -> None:
    """Writes `sae` and `strength` into the link, like the run bar does."""
    left, right = st.columns(2)
    with left:
        sae_section.draw(view)
    with right:
        strength = max(-MOST, min(MOST, float(view.params.get("strength", 1.0))))
        st.slider("Steering strength, × the feature’s largest activation", -MOST, MOST, key=controls.seed("steering_slider", strength), step=0.25, on_change=_strength)


def _strength() -> None:
    value = st.session_state["steering_slider"]
    controls.write_link("strength", None if value == 1.0 else str(value))
