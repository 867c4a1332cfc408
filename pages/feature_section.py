"""Below the browser's figures: which SAE is read, and the slider that steers."""

from __future__ import annotations

import streamlit as st

from analysis import run
from models.saes import saes_for
from models.serving import public
from models.variant import parse
from pages.shared import controls

MOST = 5.0  # of the slider, either way; the run bar takes more


def draw(view, page_now) -> None:
    """Writes `sae` and `strength` into the link, like the run bar does."""
    now = view.params.get("sae", "")
    names = [sae.name for sae in saes_for(parse(view.a), run.home()) if not public() or sae.name.startswith("demo/")]
    left, right = st.columns(2)
    with left:
        st.selectbox("SAE", ["", *dict.fromkeys([*names, *([now] if now else [])])], key=controls.seed("sae_chosen", now), format_func=lambda name: name or "the first at hand", on_change=_sae)
    with right:
        strength = max(-MOST, min(MOST, float(view.params.get("strength", 1.0))))
        st.slider("Steering strength, × the feature’s largest activation", -MOST, MOST, key=controls.seed("steering_slider", strength), step=0.25, on_change=_strength)


def _sae() -> None:
    controls.write_link("sae", st.session_state["sae_chosen"] or None)


def _strength() -> None:
    value = st.session_state["steering_slider"]
    controls.write_link("strength", None if value == 1.0 else str(value))
