"""Two checkpoints side by side without running either: configs, weights tensor by tensor, tokenizers. Differences are B − A."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from models import differences
from models.examine import Ask
from models.refusal import Refused
from pages.checkpoint import figures, working
from pages.checkpoint.keep import by_key
from pages.checkpoint.names import one_line
from pages.checkpoint.subject import Subject, go, link
from pages.shared import figure_card
from pages.shared.drawn import Drawn
from pages.shared.wording import bind, number, plain

METHOD = """Tensors are paired by name and compared where their shapes agree: relative is ‖B − A‖ / ‖A‖ (Frobenius), cosine is between the two as
vectors, changed is the share of elements that differ, largest is max |B − A|. Nothing is aligned: two models trained from different seeds
differ everywhere although they may compute alike, and a permutation of neurons looks like a large difference."""
ROWS = 25
SHOWN = ("name", "relative", "cosine", "changed", "largest", "status", "norm A", "norm B", "norm of difference", "block", "part")


def draw(a: Subject, b: Subject) -> None:
    found = working.answer(Ask("difference", a.source, b.source), "the difference of every tensor", "difference")
    table = found.table("difference") if found else None
    if table is not None:
        with st.container(key="answer"):
            st.markdown(bind(sentence(table)))
    with st.grid(2, min_column_width=430, gap=18, border=True, key="cards") as grid:
        figure = _figure(found.key, found) if found else None
        if figure is not None:
            with grid.cell(column_span="all"):
                figure_card.draw(Drawn(()), figure, METHOD, "difference", stale=False)
        if table is not None:
            with grid.cell(column_span="all"):
                st.markdown("##### How far apart is each tensor?")
                _tensors(table)
        with grid.cell():
            st.markdown("##### What differs in the configs?")
            _configs(a, b)
        with grid.cell():
            st.markdown("##### Do they read text alike?")
            _tokenizers(a, b)
    with st.container(horizontal=True, gap="small"):
        st.button("Swap A and B", icon=":material/swap_horiz:", key="swap", on_click=go, kwargs={"model": b.source, "with": a.source})
        st.button("Look at A alone", icon=":material/close:", key="alone", on_click=go, kwargs={"with": None})
    with st.expander("Method", icon=":material/function:"):
        st.markdown(METHOD)


def sentence(table: pa.Table) -> str:
    """What changed between A and B, counted by status, with the median and largest relative difference."""
    status = [s for s in table["status"].to_pylist()]
    n = {s: status.count(s) for s in dict.fromkeys(status)}
    if set(n) == {"equal"}:
        return f"**Every one of the {len(status):,} tensors is equal**, bit for bit in value."
    words = [f"**{n.get('changed', 0):,} of {len(status):,} tensors differ**, {n.get('equal', 0):,} are equal"]
    for name, text in (("only in A", "are only in A"), ("only in B", "are only in B"), ("other shape", "have another shape"), ("not read", "could not be read")):
        if n.get(name):
            words.append(f"{n[name]:,} {text}")
    relative = np.array([v for v, s in zip(table["relative"].to_pylist(), status) if v is not None and s == "changed"])
    end = f"; among those that differ, ‖B − A‖ / ‖A‖ has the median {number(float(np.median(relative)))} and the maximum {number(float(relative.max()))}" if len(relative) else ""
    return ", ".join(words) + end + "."


def _tensors(table: pa.Table) -> None:
    sort = "relative" if link("sort") is None else link("sort")
    sort = sort if sort in table.column_names else "relative"
    st.session_state["sort_difference"] = sort
    st.selectbox("Sorted by", table.column_names, key="sort_difference", width=200, on_change=_store_sort)
    order = pc.sort_indices(table, [(sort, "ascending" if sort in ("name", "block", "part", "status") else "descending", "at_end")])
    n_pages = max(1, -(-table.num_rows // ROWS))
    wanted = min(max(int(link("page")) if (link("page") or "").isdecimal() else 1, 1), n_pages)
    rows = table.take(order).slice((wanted - 1) * ROWS, ROWS)
    rows = rows.set_column(0, "name", pa.array([one_line(n, 120) for n in rows["name"].to_pylist()], pa.string()))
    number_column = lambda form: st.column_config.NumberColumn(format=form)
    st.dataframe(rows, hide_index=True, height="content", placeholder="", column_order=SHOWN, alt="Table of tensor differences.", column_config={
        "name": st.column_config.TextColumn("tensor", width=290, pinned=True), **{c: number_column("%.3g") for c in ("norm A", "norm B", "norm of difference", "relative", "cosine", "largest")},
        "changed": number_column("percent"),
    })
    if n_pages > 1:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.pagination(n_pages, default=wanted, key=f"page_difference_{wanted}", on_change=_store_page, args=(f"page_difference_{wanted}",))
            st.caption(f"{table.num_rows:,} tensors, {ROWS} on a page", width="content")


def _store_sort() -> None:
    go(sort=st.session_state["sort_difference"], page=None)


def _store_page(key: str) -> None:
    page = st.session_state[key]
    go(page=None if page == 1 else str(page))


def _configs(a: Subject, b: Subject) -> None:
    if not a.config or not b.config:
        st.markdown("One of them has no config that is believed. " + plain(a.why if not a.config else b.why))
        return
    table = differences.of_configs(a.folder, b.folder)
    if not table.num_rows:
        st.markdown("Nothing: every believed field is the same.")
        return
    st.dataframe({c: [one_line(v, 120) or "absent" for v in table[c].to_pylist()] for c in table.column_names}, hide_index=True, alt="Config fields that differ.")


def _tokenizers(a: Subject, b: Subject) -> None:
    try:
        facts = [differences.tokenizer_facts(s.folder) for s in (a, b)]
    except Refused as refusal:
        st.markdown(plain(refusal))
        return
    if None in facts:
        st.markdown("Neither has a tokenizer.json." if facts == [None, None] else f"Only {'A' if facts[0] else 'B'} has a tokenizer.json.")
        return
    same = (a.folder / "tokenizer.json").read_bytes() == (b.folder / "tokenizer.json").read_bytes()
    st.markdown("The tokenizer.json files are equal, byte for byte." if same else "The tokenizer.json files differ.")
    names = ("kind", "tokens", "merges", "normalizer", "pre-tokenizer", "byte fallback", "longest token")
    st.dataframe({"fact": names, **{label: [_fact(of[n]) for n in names] for label, of in zip("AB", facts)}}, hide_index=True, alt="Facts about both tokenizers.")


def _fact(value: object) -> str:
    return {None: "none", True: "yes", False: "no"}.get(value) if value is None or isinstance(value, bool) else one_line(value, 60)


@by_key
def _figure(key: str, entry):
    return figures.where_weights_differ(entry.table("difference"))
