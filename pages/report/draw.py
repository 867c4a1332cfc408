"""Table, figures and downloads of the report."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from analysis.report import Row, Section
from analysis.report.rows import table
from export import files
from export import report as exporting
from pages.shared import figure_card
from pages.shared.drawn import Drawn
from pages.shared.wording import interval, number, plain, prose

COLOURS = {"not applicable": "gray", "refused": "red", "failed": "red", "not computed yet": "yellow"}


def numbers(sections: list[Section]) -> None:
    """One row for each headline number, and for each analysis that gave none."""
    rows = [_row(row) for section in sections for row in section.rows]
    frame = pd.DataFrame(rows, columns=["analysis", "number", "A", "B", "B − A", "unit", "null", "n", "text"])
    widths = {"analysis": 150, "number": 210, "A": 170, "B": 170, "B − A": 80, "unit": 90, "null": 120, "n": 110, "text": "medium"}
    st.dataframe(frame, hide_index=True, height=min(36 * (len(rows) + 1) + 3, 620), placeholder="", alt="Headline numbers of every analysis for A and B, with interval and null",
                 column_config={name: st.column_config.TextColumn(name, width=width) for name, width in widths.items()})


def _row(row: Row) -> dict:
    if row.state != "done":
        return {"analysis": row.title, "number": row.label or "–", "A": row.state, "text": row.why or row.corpus}
    return {"analysis": row.title, "number": row.label, "A": _side(row.a), "B": _side(row.b), "B − A": "" if row.difference is None else number(row.difference), "unit": row.unit,
            "null": row.null, "n": row.n, "text": row.corpus}


def _side(headline) -> str:
    """The number, its interval in brackets."""
    if headline is None:
        return ""
    between = f" ({interval(headline.low, headline.high)})" if headline.low is not None and headline.high is not None else ""
    return number(headline.value) + between


def states(sections: list[Section]) -> None:
    """The analyses that gave no number, with the reason, in words that a table would cut."""
    told = [(section, row) for section in sections for row in section.rows if row.state not in ("done", "not computed yet")]
    if told:
        with st.expander(f"{len(told)} without a number", icon=":material/info:"):
            for section, row in told:
                st.markdown(f":{COLOURS.get(row.state, 'gray')}-badge[{row.state}] **{plain(section.title)}** {plain(row.label)} {plain(row.why)}")


def figures(sections: list[Section]) -> None:
    for section in sections:
        if not section.complete:
            continue
        with st.container(horizontal=True, vertical_alignment="center", key=f"head_{section.name}"):
            st.markdown(f"##### {prose(section.question)}", width="content")
            st.space("stretch")
            if st.button("Open", type="tertiary", icon=":material/arrow_forward:", key=f"open_{section.name}"):
                page, _, query = section.link.partition("?")
                st.switch_page(f"{page}.py", query_params=dict(pair.split("=", 1) for pair in query.split("&")))
        st.markdown(prose(section.answer))
        with st.grid(2, min_column_width=430, gap=18, border=True, key=f"cards_{section.name}") as grid:
            for figure, view in section.figures:
                with grid.cell(column_span="all" if figure.wide else 1):
                    _card(section, figure, view)


def _card(section: Section, figure, view: str) -> None:
    from pages.shared import style

    with st.container(key=f"fresh_{section.name}_{figure.name}", gap="small", height="stretch"):
        with st.container(horizontal=True, wrap=False, vertical_alignment="center", key=f"head_{section.name}_{figure.name}"):
            st.markdown(f"##### {prose(figure.title)}", width="stretch")
            if view:
                st.badge(plain(view), color="gray")
        st.plotly_chart(Drawn(()).plot(figure, view, style.theme()), theme=None, key=f"plot_{section.name}_{figure.name}", alt=figure.alt, config=figure_card.CONFIG)
        st.markdown(prose(figure.reading))


def take_away(sections: list[Section], a: str, b: str) -> None:
    reason = files.unavailable("pdf")
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="foot_report"):
        st.download_button("HTML", lambda: exporting.html_page(sections, a, b), "compression-report.html", files.MIME["html"], key="report_html", icon=":material/download:",
                           type="tertiary", on_click="ignore")
        if not reason:
            st.download_button("PDF", lambda: exporting.pdf(sections, a, b), "compression-report.pdf", files.MIME["pdf"], key="report_pdf", icon=":material/download:",
                               type="tertiary", on_click="ignore")
        st.download_button("CSV", lambda: files.csv_bytes(table(sections)), "compression-report.csv", files.MIME["csv"], key="report_csv", icon=":material/download:", type="tertiary",
                           on_click="ignore")
        if reason:
            st.caption(plain(reason), width="content")
