"""From a checkpoint to the analyses: in which dtype and where it runs, with what that takes beside what is free."""

from __future__ import annotations

import streamlit as st

from models.variant import DTYPES
from pages.checkpoint.subject import Subject
from pages.shared import room
from pages.shared.room import OFFLOAD


def draw(subject: Subject) -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="open_in"):
        dtype = st.segmented_control("Computed in", DTYPES, default=DTYPES[0], required=True, key="open_dtype", label_visibility="collapsed",
                                     help="float32 gives the most exact numbers; bfloat16 and float16 take half the memory and round every activation.")
        needed, free = room.needs(subject.table, dtype), {place: room.free_on(place) for place in room.devices()}
        fits = [place for place in room.devices() if room.fits(needed, free[place])]
        device = st.segmented_control("Where", (*room.devices(), OFFLOAD), default=(fits or [OFFLOAD])[0], required=True, key="open_device", label_visibility="collapsed",
                                      help=f"offload keeps the layers that do not fit in memory on disk, {room.SLOWER}; weights cannot be changed there.")
        st.caption(room.said(needed, free.get(device), device), width="content")
        blocked = device != OFFLOAD and device not in fits
        if st.button("Open in analysis", type="primary", icon=":material/biotech:", key="open_analysis", disabled=blocked, help="Makes it A on the analysis pages."):
            written = subject.source + ("" if dtype == DTYPES[0] else f"!{dtype}")
            st.switch_page("layer_redundancy.py", query_params={"a": written} | ({} if device == room.devices()[0] else {"device": device}))
