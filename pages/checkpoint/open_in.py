"""From a checkpoint to the analyses: in which dtype and where it runs, with what that takes beside what is free."""

from __future__ import annotations

import subprocess

import streamlit as st

from models import checkpoints
from models.variant import DTYPES
from pages.checkpoint.subject import Subject
from pages.shared.subject import OFFLOAD, devices
from pages.shared.wording import size


def draw(subject: Subject) -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="open_in"):
        dtype = st.segmented_control("Computed in", DTYPES, default=DTYPES[0], required=True, key="open_dtype", label_visibility="collapsed",
                                     help="float32 gives the most exact numbers; bfloat16 and float16 take half the memory and round every activation.")
        places = (*devices(), OFFLOAD)
        needed, free = needs(subject, dtype), {place: free_on(place) for place in devices()}
        fits = [place for place in devices() if needed + checkpoints.HEADROOM <= free[place]]
        device = st.segmented_control("Where", places, default=(fits or [OFFLOAD])[0], required=True, key="open_device", label_visibility="collapsed",
                                      help="offload keeps the layers that do not fit in memory on disk and reads them at every pass: slow, and weights cannot be changed there.")
        st.caption(said(needed, free.get(device), device), width="content")
        blocked = device != OFFLOAD and device not in fits
        if st.button("Open in analysis", type="primary", icon=":material/biotech:", key="open_analysis", disabled=blocked, help="Makes it A on the analysis pages."):
            written = subject.source + ("" if dtype == DTYPES[0] else f"!{dtype}")
            st.switch_page("layer_redundancy.py", query_params={"a": written} | ({} if device == devices()[0] else {"device": device}))


def free_on(device: str) -> int:
    """Free bytes; of a GPU as its driver says, since asking through PyTorch would make this process one of its users."""
    if device == "cpu":
        return checkpoints.available("cpu")
    asked = ["nvidia-smi", f"--id={device.partition(':')[2]}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(asked, capture_output=True, text=True, timeout=5).stdout.strip()) << 20
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0


def needs(subject: Subject, dtype: str) -> int:
    """Bytes at the highest while it is loaded: the weights in `dtype`, and the largest stored tensor once more."""
    table = subject.table
    return table.n_parameters * checkpoints.DTYPE_BYTES[dtype] + max(t.n_bytes for t in table.tensors.values())


def said(needed: int, free: int | None, device: str) -> str:
    if device == OFFLOAD:
        return f"takes {size(needed)} in all; what does not fit stays on disk"
    if needed + checkpoints.HEADROOM > free:
        return f":red[takes {size(needed)}, more than the {size(max(free - checkpoints.HEADROOM, 0))} that {device} can give]; choose a smaller dtype or offload"
    return f"takes {size(needed)} of the {size(free)} free on {device}"
