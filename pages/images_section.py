"""Below the memorized images' figures: which pipeline is looked at, the digits or a folder of this machine."""

from __future__ import annotations

import streamlit as st

from models.diffusion import subject
from models.refusal import Refused
from models.serving import public
from pages.shared import controls
from pages.shared.wording import plain


def draw(view, page_now=None) -> None:
    """Writes `subject` into the link. While the app serves others only the digits are offered."""
    if public():
        return
    with st.expander("A pipeline of your own", icon=":material/folder_open:"):
        st.markdown(
            "A folder as diffusers’ `save_pretrained` writes it, shaped as Stable Diffusion 1 and 2, in safetensors: `unet/`, `scheduler/`, `tokenizer/`, `text_encoder/`, `vae/`. Beside them `memorized.txt` "
            "(prompts whose images it has by heart, one a line), `others.txt` (prompts that should not change) and `training.npz` with `images` [memorized prompt, height, width, channel] in 0–1, of the size it "
            "draws. Stable Diffusion is mostly drawn with 50 steps at guidance 7.5 (under More), and needs a GPU: this page draws hundreds of images. Its files stay where they are."
        )
        path = st.text_input("Folder on this machine", placeholder="/data/my-pipeline", key="open_pipeline")
        with st.container(horizontal=True, gap="small"):
            if st.button("Look into this folder", key="open_pipeline_go", disabled=not path):
                _use(path)
            if view.params.get("subject", subject.DIGITS) != subject.DIGITS and st.button("Back to digits", key="back_to_digits", icon=":material/undo:"):
                controls.write_link("subject", None)
                st.rerun()


def _use(path: str) -> None:
    try:
        folder = subject.place(path.strip())
    except Refused as error:
        st.error(plain(error))
        return
    controls.write_link("subject", str(folder))
    st.rerun()
