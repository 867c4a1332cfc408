"""The shelf: every variant of A that is kept or was tried, with its numbers; a row chosen becomes B, and B can be used, renamed,
deleted or taken away."""

from __future__ import annotations

import pandas as pd
import streamlit as st

import analysis
import operators
from analysis import run
from analysis.frontier import Point, on_front, recipes
from models import variant_shelf
from models.refusal import Refused
from models.variant import Variant
from pages.lab import builder, link, subject, take_away
from pages.shared import controls, queue, visitor
from pages.shared.view import View
from pages.shared.wording import plain

PAGES = (("What it cost", "compression_cost"), ("Where it hurt", "sensitivity"), ("Skills", "compression_skills"), ("Report", "compression_report"))


def draw(view: View, a: Variant, found: list[Point]) -> None:
    kept = subject.kept(a)
    measured = {written for p in found for written in p.seeds}
    waiting = [k for k in kept if k.variant.written not in measured]
    front = on_front(found)
    with st.container(horizontal=True, vertical_alignment="center", key="head_shelf"):
        st.markdown("##### Shelf", width="content")
        st.caption(f"{len(kept)} kept, {len(found)} recipes measured on this text, {len(front)} on the front. Choose a row to make it B.", width="content")
    if not kept and not found:
        st.caption("Variants that you make stand here with their names and numbers, in this and later sessions.")
        return
    _table(view, a, found, front, kept, waiting)
    if waiting:
        _measure(view, a, waiting)


def _table(view: View, a: Variant, found: list[Point], front: list[Point], kept: list, waiting: list) -> None:
    names = {k.variant.written: k.name for k in kept}
    rows = [_row(p, p in front, names) for p in sorted(found, key=lambda p: p.n_bytes)]
    rows += [{"variant": k.name, "front": "", "written": k.variant.written, "operator": "not measured on this text"} for k in waiting]
    frame = pd.DataFrame(rows, columns=["front", "variant", "size, MB", "of A, %", "KL, nats/token", "noise, nats", "changed top-1, %", "perplexity, ×", "bits/weight", "seeds", "operator", "speed", "written"])
    at = next((i for i, row in enumerate(rows) if view.b in row.get("all", (row["written"],))), None)
    column = st.column_config
    state = st.dataframe(
        frame, hide_index=True, key=f"shelf_{view.b}", on_select="rerun", selection_mode="single-row", height=min(38 * (len(rows) + 1), 420),
        selection_default={"selection": {"rows": [at] if at is not None else []}}, column_order=list(frame.columns[:-1]), alt="Variants with size, distance and operator", placeholder="",
        column_config={
            "front": column.TextColumn("front", width=52, help="Nothing as small is closer"), "variant": column.TextColumn("variant", width="medium"),
            "of A, %": column.ProgressColumn("of A, %", format="%.0f", min_value=0, max_value=100),
            **{name: column.NumberColumn(name, format=form) for name, form in (("size, MB", "%.2f"), ("KL, nats/token", "%.4g"), ("noise, nats", "%.3g"),
               ("changed top-1, %", "%.1f"), ("perplexity, ×", "%.4g"), ("bits/weight", "%.2f"))},
        })
    picked = state.selection.rows
    if picked and rows[picked[0]]["written"] != view.b and picked[0] != at:
        controls.write_link("b", rows[picked[0]]["written"])
        st.rerun()


def _row(p: Point, front: bool, names: dict[str, str]) -> dict:
    name = next((names[w] for w in p.seeds if w in names), p.label)
    return {"front": "●" if front else "", "variant": name, "size, MB": p.n_bytes / 1e6, "of A, %": 100 * p.n_bytes / p.bytes_a, "KL, nats/token": p.measures[0, 0],
            "noise, nats": p.null[0], "changed top-1, %": p.measures[2, 0], "perplexity, ×": p.measures[3, 0], "bits/weight": p.bits_per_weight, "seeds": len(p.seeds),
            "operator": p.family, "speed": speed(p.variant), "written": p.written, "all": p.seeds}


def speed(v: Variant) -> str:
    """What the representation could do for speed; the page “Which skills…” measures it."""
    faster = any(operators.leaves_out(step) or hasattr(operators.ALL[step.operator], "physical") for step in v.steps)
    return "fewer operations" if faster else "smaller only"


def _measure(view: View, a: Variant, waiting: list) -> None:
    requests = [subject.request(view, a, k.variant) for k in waiting]
    idle = [r for r in requests if (job := queue.find(r)) is None or not job.active]
    if idle:
        st.button(f"Measure {len(idle)} on this text", key="measure_kept", icon=":material/play_arrow:", on_click=lambda: [queue.submit(r) for r in idle])


def actions(view: View, a: Variant, b: Variant) -> None:
    """What can be done with B, in one row."""
    there = variant_shelf.find(run.home(), b, visitor.owner())
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="foot_b"):
        st.badge(f"**B** {plain(there.name if there else recipes.label(a, b))}", color="orange")
        for title, page in PAGES:
            if page in (*analysis.ANALYSES, *queue.PAGES) and st.button(title, type="tertiary", icon=":material/arrow_forward:", key=f"open_{page}"):
                st.switch_page(f"{page}.py", query_params={"a": view.a, "b": view.b, "corpus": view.corpus})
        st.button("Use as A", type="tertiary", icon=":material/swap_horiz:", key="use_as_a", on_click=_use_as_a, args=(b,))
        st.button("Edit its recipe", type="tertiary", icon=":material/edit:", key="edit_b", on_click=link.write, args=(b.steps[len(a.steps):],))
        with st.popover("Take it away", type="tertiary", icon=":material/ios_share:", key="take_away"), st.container(width=460):
            take_away.draw(view, b)
        if there is None:
            st.button("Keep on the shelf", type="tertiary", icon=":material/bookmark_add:", key="keep_b", on_click=builder.keep, args=(a, b))
            return
        with st.popover("Rename", type="tertiary", icon=":material/edit_note:", key="rename_b"):
            st.text_input("Name", there.name, key="new_name", max_chars=variant_shelf.LONGEST, on_change=_rename, args=(b,))
        with st.popover("Delete", type="tertiary", icon=":material/delete:", key="delete_b"):
            st.markdown("It is taken off the shelf; its recipe can be made again.", width=280)
            st.button("Delete it", type="primary", key="delete_go", on_click=_delete, args=(b,))


def _use_as_a(b: Variant) -> None:
    controls.write_link("a", run.keep_recipe(b))
    controls.write_link("b", None)
    controls.write_link("recipe", None)


def _rename(b: Variant) -> None:
    _try(lambda: variant_shelf.rename(run.home(), b, st.session_state["new_name"], visitor.owner()))


def _delete(b: Variant) -> None:
    _try(lambda: variant_shelf.delete(run.home(), b, visitor.owner()))
    controls.write_link("b", None)


def _try(change) -> None:
    try:
        change()
    except Refused as error:
        st.session_state["shelf_error"] = str(error)


def past_refusal() -> None:
    sentence = st.session_state.pop("shelf_error", None)
    if sentence:
        st.warning(plain(sentence))
