"""Which SAE a page reads: one at hand for A, or a folder of this machine that is put on the shelf."""

from __future__ import annotations

import streamlit as st

from analysis import run
from models.refusal import Refused
from models.saes import saes_for, shelf
from models.serving import public
from models.variant import parse
from pages.shared import controls
from pages.shared.wording import plain


def draw(view, page_now=None) -> None:
    """Writes `sae` into the link, like the run bar does."""
    now = view.params.get("sae", "")
    names = [sae.name for sae in saes_for(parse(view.a), run.home()) if not public() or sae.name.startswith("demo/")]
    st.selectbox("SAE", ["", *dict.fromkeys([*names, *([now] if now else [])])], key=controls.seed("sae_chosen", now), format_func=lambda name: name or "the first at hand", on_change=_chosen)
    if not public():
        with st.expander("An SAE made elsewhere", icon=":material/folder_open:"):
            _open()


def _open() -> None:
    st.markdown("A folder of sae-lens (`cfg.json`, `sae_weights.safetensors`) or of EleutherAI’s sparsify (`cfg.json`, `sae.safetensors`). Its files stay where they are. From the hub, in a shell: "
                "`python -m models.saes fetch OWNER/NAME FOLDER`, or `release RELEASE ID` for one of sae-lens’s releases.")
    path = st.text_input("Folder on this machine", placeholder="/data/saes/blocks.3.hook_resid_post", key="open_sae")
    if st.button("Read this SAE", key="open_sae_go", disabled=not path):
        try:
            name = shelf.register(path, run.home())
        except Refused as error:
            st.error(plain(error))
            return
        controls.write_link("sae", name)
        st.rerun()


def _chosen() -> None:
    controls.write_link("sae", st.session_state["sae_chosen"] or None)
