"""The table of tensors: filtered and sorted here, and sent to the browser one page at a time."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from pages.checkpoint.names import one_line
from pages.checkpoint.subject import go, link

ROWS = 25
BARS = 16  # of the small histogram in a row
MEASURED = ("norm", "std", "sparsity", "kurtosis", "n_nan", "n_inf", "effective_rank")
SHOWN = ("name", "shape", "dtype", "bytes", "histogram", "norm", "sparsity", "kurtosis", "effective_rank", "n_nan", "n_inf", "std", "block", "part", "elements", "file")
LABELS = {
    "name": "tensor", "bytes": "size", "norm": "norm", "std": "std", "sparsity": "zeros", "kurtosis": "kurtosis", "n_nan": "NaN", "n_inf": "Inf",
    "effective_rank": "effective rank", "histogram": "values", "file": "file",
}
HELP = {
    "sparsity": "Share of elements that are exactly zero.", "kurtosis": "m₄ / m₂² − 3: 0 for a normal distribution.",
    "effective_rank": "exp of the entropy of the normalised singular values (Roy & Vetterli 2007); for matrices up to 1,024 on the smaller side.",
    "histogram": "Counts between the smallest and the largest value; the chosen tensor is drawn in full below.",
}


def joined(table: pa.Table, statistics: pa.Table | None) -> pa.Table:
    """Header columns and, where they were measured, the statistics of the same names (null where a tensor could not be read)."""
    if statistics is None:
        return table
    rows = {row["name"]: row for row in statistics.to_pylist()}
    names = table["name"].to_pylist()
    for column in MEASURED:
        kind = pa.int64() if column in ("n_nan", "n_inf") else pa.float64()
        values = [rows[n][column] if n in rows else None for n in names]
        table = table.append_column(column, pa.array([None if isinstance(v, float) and math.isnan(v) else v for v in values], kind))
    counts = [_coarse(rows[n]["counts"]) if n in rows else None for n in names]
    return table.append_column("histogram", pa.array(counts, pa.list_(pa.int64())))


def _coarse(counts: list[int]) -> list[int]:
    step = max(len(counts) // BARS, 1)
    return [sum(counts[i : i + step]) for i in range(0, len(counts), step)]


def page_of(table: pa.Table, sort: str, descending: bool, find: str, page: int) -> tuple[pa.Table, int]:
    """(rows of one page, rows that match `find` in all); an unknown column keeps the file's order, empty values come last."""
    if find:
        table = table.filter(pc.match_substring(table["name"], find, ignore_case=True))
    if sort in table.column_names and sort != "histogram":
        table = table.take(pc.sort_indices(table, [(sort, "descending" if descending else "ascending", "at_end")]))
    n_pages = max(1, -(-table.num_rows // ROWS))
    page = min(max(page, 1), n_pages)
    return table.slice((page - 1) * ROWS, ROWS), table.num_rows


def draw(table: pa.Table, chosen: str | None) -> None:
    """Controls and one page; a chosen row goes into the link as ?tensor=."""
    columns = [c for c in table.column_names if c != "histogram"]
    sort = link("sort") if link("sort") in columns else "file order"
    descending, find = link("down") != "0", link("find") or ""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        _keep("find_tensor", find)
        st.text_input("Find in names", key="find_tensor", on_change=_store_text, width=240, placeholder="attn, h.3, …")
        _keep("sort_tensors", sort)
        st.selectbox("Sorted by", ["file order", *columns], key="sort_tensors", width=200, format_func=lambda c: LABELS.get(c, c), on_change=_store_sort)
        if sort != "file order":
            _keep("sort_down", descending)
            st.toggle("largest first", key="sort_down", on_change=_store_down)
    wanted = int(link("page")) if (link("page") or "").isdecimal() else 1
    rows, n = page_of(table, sort, descending, find, wanted)
    if not n:
        st.caption("No tensor has that in its name.")
        return
    names = rows["name"].to_pylist()
    shown = rows.set_column(0, "name", pa.array([one_line(name, 120) for name in names], pa.string()))
    key = f"tensors_{sort}_{descending}_{wanted}_{find}"
    st.dataframe(
        shown, key=key, hide_index=True, height="content", placeholder="", on_select=_choose, selection_mode="single-row", column_config=_config(),
        column_order=[c for c in SHOWN if c in table.column_names],
        alt="Table of tensors with their shape, type, size and statistics.",
    )
    st.session_state["tensors_shown"] = (key, names)
    n_pages = -(-n // ROWS)
    if n_pages > 1:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            now = min(max(wanted, 1), n_pages)
            st.pagination(n_pages, default=now, key=f"page_tensors_{now}", on_change=_store_page, args=(f"page_tensors_{now}",))
            st.caption(f"{n:,} tensors, {ROWS} on a page", width="content")


def _config() -> dict:
    number = lambda name, form, **more: st.column_config.NumberColumn(LABELS.get(name, name), format=form, help=HELP.get(name), **more)
    return {
        "name": st.column_config.TextColumn("tensor", width=250, pinned=True), "block": number("block", "%d", width=60), "part": st.column_config.TextColumn(width=90),
        "dtype": st.column_config.TextColumn(width=60), "elements": number("elements", "localized"), "bytes": number("bytes", "bytes", width=70),
        "norm": number("norm", "%.3g"), "std": number("std", "%.3g"), "sparsity": number("sparsity", "percent"), "kurtosis": number("kurtosis", "%.3g"),
        "n_nan": number("n_nan", "localized"), "n_inf": number("n_inf", "localized"), "effective_rank": number("effective_rank", "%.1f"),
        "histogram": st.column_config.BarChartColumn("values", help=HELP["histogram"], width=110),
    }


def _keep(key: str, value: object) -> None:
    st.session_state[key] = value


def _choose() -> None:
    key, names = st.session_state["tensors_shown"]
    rows = st.session_state[key].selection.rows
    go(tensor=names[rows[0]] if rows and rows[0] < len(names) else None)


def _store_text() -> None:
    go(find=st.session_state["find_tensor"].strip()[:100] or None, page=None)


def _store_sort() -> None:
    value = st.session_state["sort_tensors"]
    go(sort=None if value == "file order" else value, page=None)


def _store_down() -> None:
    go(down=None if st.session_state["sort_down"] else "0", page=None)


def _store_page(key: str) -> None:
    page = st.session_state[key]
    go(page=None if page == 1 else str(page))
