"""The Export popover of a figure card: size, format, caption, one download. PDF, SVG and PNG are drawn by a browser of their own
process; where there is none they are not offered and the popover says how to get one."""

from __future__ import annotations

import streamlit as st

from analysis import bundle
from analysis.contract import Figure
from export import files
from export.sizes import SIZES

LONG = 220  # characters of a caption that would push the button off the window
NAMES = {"pdf": "PDF", "svg": "SVG", "png": "PNG", "html": "HTML", "csv": "CSV", "parquet": "Parquet", "jsonl": "JSONL"}


def draw(figure: Figure, view: str, stem: str) -> None:
    reason = files.unavailable("pdf")
    formats = [fmt for fmt in files.FORMATS if not files.unavailable(fmt)]
    size = st.segmented_control("Size", list(SIZES), format_func=lambda s: SIZES[s].label, default="89mm", required=True, key=f"size_{figure.name}")
    fmt = st.segmented_control("Format", formats, format_func=NAMES.get, default=formats[0], required=True, key=f"format_{figure.name}")
    st.caption("Caption, offered beside the figure")
    st.code(figure.caption, language=None, wrap_lines=True, height=120 if len(figure.caption) > LONG else "content")
    st.download_button(
        "Download data" if fmt in files.DATA else "Download figure", lambda: files.figure_file(figure, view, fmt, size),
        f"{stem}-{files.file_name(figure, view, fmt)}", files.MIME[fmt], type="primary", icon=":material/download:", key=f"export_{figure.name}",
        on_click="ignore", width="stretch",
    )
    st.caption(reason or f"Light colours, {SIZES[size].points(figure.wide):g} pt text at this width, no title inside.")


def bundle_button(requests, runs, figures: list[Figure], name: str) -> None:
    """Everything the page shows in one zip: figures, data, captions, answer, provenance, the command."""
    st.download_button(
        "Download everything", lambda: bundle.bundle(requests, runs, figures), name, "application/zip", type="tertiary", icon=":material/folder_zip:",
        key="bundle", on_click="ignore", help="Figures in every format that can be drawn here, data, captions, provenance and the command, in one zip.",
    )
