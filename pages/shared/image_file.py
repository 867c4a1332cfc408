"""Images from the visitor's computer for the labs of small networks, below the cards: chosen, checked, made the page's subject."""

from __future__ import annotations

import tempfile
from pathlib import Path

import streamlit as st

from analysis.run import home
from models import shelf
from models.refusal import Refused
from pages.shared import controls
from pages.shared.wording import plain

MEGABYTES = 200


def section(view, page_now) -> None:
    """Writes the name of the images into the link as `images`. While the app serves others only the digits are offered: a file
    and its name would be everybody's."""
    if shelf.public():
        return
    with st.expander("Images from a file", icon=":material/image:", expanded=False):
        st.markdown("MNIST and the like: an `.npz` with `x_train`, `y_train`, `x_test`, `y_test`; images [sample, height, width] in 0–255 or 0–1, labels from 0.")
        brought = st.file_uploader("Image file", type="npz", key="image_file", label_visibility="collapsed", max_upload_size=MEGABYTES)
        known = _known()
        with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
            if brought is not None and st.button("Use these images", type="primary", key="image_file_go"):
                _use(brought)
            for name in known:
                if view.params.get("images", known[0]) != name and st.button(name.removeprefix("images/"), key=f"image_{name}", icon=":material/image:"):
                    _write(name)


def _known() -> tuple[str, ...]:
    from models.small_nets import shelf as images

    return images.names(home())


def _use(brought) -> None:
    from models.small_nets import shelf as images

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        file.write_bytes(brought.getbuffer())
        try:
            name = images.add(file, home(), name=Path(brought.name).stem)
        except Refused as error:
            st.error(plain(error))
            return
    _write(name)


def _write(name: str) -> None:
    from models.small_nets.shelf import DIGITS

    controls.write_link("images", None if name == DIGITS else name)
    st.rerun()
