"""One figure: title, choice of view, plot, one-sentence reading, and a footer with Export, Data, Method."""

from __future__ import annotations

from functools import partial

import streamlit as st

from analysis.contract import Figure
from export import files
from pages.shared import controls, exporting, style
from pages.shared.drawn import Drawn
from pages.shared.view import VIEW
from pages.shared.wording import plain, prose

CONFIG = {"displayModeBar": False, "responsive": True, "scrollZoom": False, "doubleClick": False, "showTips": False}
PREVIEW = 100  # rows of a table that are sent to the browser; the whole is a download
ROW = 3  # a popover's table shows this many more rows than fit before it scrolls


def draw(page_now: Drawn, figure: Figure, method: str, stem: str, stale: bool) -> None:
    """Call inside a cell. A fragment: choosing a view or opening Export redraws this card alone."""

    @st.fragment
    def card() -> None:
        with st.container(key=f"{'stale' if stale else 'fresh'}_{figure.name}", gap="small", height="stretch"):
            view = _head(figure)
            _plot(figure, page_now.plot(figure, view, style.theme()))
            st.markdown(prose(figure.reading))
            _foot(figure, view, method, stem)

    card()


def _head(figure: Figure) -> str:
    names = list(figure.views)
    with st.container(horizontal=True, wrap=False, vertical_alignment="center", key=f"head_{figure.name}"):
        st.markdown(f"##### {prose(figure.title)}", width="stretch")
        if len(names) < 2:
            return names[0]
        chosen = st.query_params.get(VIEW + figure.name)
        key = controls.seed(f"view_{figure.name}", chosen if chosen in names else names[0])
        return st.segmented_control(
            "View", names, key=key, required=True, label_visibility="collapsed", on_change=_keep_view, args=(key, figure.name, names[0]),
        )


def _keep_view(key: str, name: str, default: str) -> None:
    value = st.session_state[key]
    controls.write_link(VIEW + name, None if value == default else value)


def _plot(figure: Figure, plot) -> None:
    if not figure.links:
        st.plotly_chart(plot, theme=None, key=f"plot_{figure.name}", alt=figure.alt, config=CONFIG)
        return
    event = st.plotly_chart(plot, theme=None, key=f"plot_{figure.name}", alt=figure.alt, config=CONFIG, on_select="rerun", selection_mode="points")
    for point in event.selection.points[:1]:
        for label in (point.get("y"), point.get("x"), _own(point.get("customdata"))):
            target = figure.links.get(str(label))
            if target is not None:
                page, _, query = target.partition("?")
                st.switch_page(f"{page}.py", query_params=dict(pair.split("=", 1) for pair in query.split("&") if pair))


def _own(customdata) -> str | None:
    """What a point says it is: the first of its custom data, which comes as a list or as a table of positions."""
    values = customdata.values() if isinstance(customdata, dict) else customdata or ()
    return next(iter(values), None) if not isinstance(values, str) else values


def _foot(figure: Figure, view: str, method: str, stem: str) -> None:
    with st.container(horizontal=True, gap="small", key=f"foot_{figure.name}"):
        with st.popover("Export", type="tertiary", icon=":material/ios_share:"):
            with st.container(width=390):
                exporting.draw(figure, view, stem)
        with st.popover("Data", type="tertiary", icon=":material/table:"):
            _data(figure, stem)
        with st.popover("Method", type="tertiary", icon=":material/function:", width="content"):
            st.markdown(method, width=560)


def _data(figure: Figure, stem: str) -> None:
    table = figure.data
    shown = f"first {PREVIEW} of {table.num_rows:,}" if table.num_rows > PREVIEW else f"{table.num_rows:,}"
    st.caption(f"{shown} rows, {table.num_columns} columns: {plain(', '.join(table.column_names))}", width=520)
    st.dataframe(table.slice(0, PREVIEW), hide_index=True, height=min(280, 36 * (min(table.num_rows, PREVIEW) + 1) + ROW), width=520)
    with st.container(horizontal=True, gap="small"):
        for fmt in ("csv", "parquet", "jsonl"):
            st.download_button(
                exporting.NAMES[fmt], partial(files.figure_file, figure, "", fmt), f"{stem}-{files.file_name(figure, '', fmt)}", files.MIME[fmt],
                key=f"data_{fmt}_{figure.name}", icon=":material/download:", on_click="ignore",
            )
