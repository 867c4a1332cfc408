"""The frame of every analysis page, from top to bottom: question, subject, answer, numbers, run bar, figures, method, provenance."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

import streamlit as st

import analysis
from analysis import run
from analysis.contract import Headline, module_docs
from models.corpus import TooLong
from models.hub import NotHere
from models.refusal import Refused
from pages.checkpoint import working
from pages.shared import controls, drawn, figure_card, provenance, queue, run_bar, states, subject
from pages.shared import view as views
from pages.shared.drawn import Drawn
from pages.shared.view import View
from pages.shared.wording import NBSP, interval, number, plain, prose

BESIDE = 16  # characters that fit beside a metric's chip
ROUNDED = "~round_to_nearest"  # short for A followed by that step
CARRIED = "carried_subject"  # A, B, corpus and device go along from page to page


def page(name: str, below: Callable[[View, Drawn | None], None] | None = None) -> None:
    """Draw the page of one analysis. `below(view, drawn)` draws what figure cards cannot carry, under them; `drawn` is None
    while there is no result of this view."""
    module = analysis.load(name)
    carry(name)
    view = views.read(module, st.query_params.to_dict(), (*subject.devices(), subject.OFFLOAD))
    remember(name, st.query_params.to_dict())
    subject.draw(module, view)
    st.title(module.QUESTION, anchor=False)
    _body(name, module, view, below)
    subject.queue_panel()


def _body(name: str, module: ModuleType, view: View, below: Callable | None) -> None:
    if view.refused:
        chips(module, view, [])
        states.notices(view.notices)
        refused_subject(view)
        return
    try:
        requests = views.requests(name, view)
        entries = [run.store().get(run.key(r)) for r in requests]
    except Refused as error:
        chips(module, view, [])
        states.notices(view.notices)
        _cannot(module, view, error)
        return
    _page(name, module, view, requests, entries, below)


def _page(name: str, module: ModuleType, view: View, requests: tuple, entries: list, below: Callable | None) -> None:
    complete = all(entry is not None for entry in entries)
    if complete:
        st.session_state[f"shown_{name}"] = view
        shown_view, page_now = view, drawn.draw(requests, entries)
    else:
        shown_view, page_now = _last_shown(name)
        if page_now is None and run_bar.starts_by_itself(requests):
            for request in requests:
                queue.submit(request)
    chips(module, view, [e for e in entries if e is not None])
    states.notices(view.notices)
    if complete and page_now.refused:
        states.error_card(f"{module.TITLE} does not apply here", page_now.refused, "not_applicable", tag="not applicable")
    elif complete:
        with st.container(key="answer"):
            st.markdown(prose(page_now.answer))
        _headlines(page_now.headlines)
    run_bar.draw(module, view, requests, entries, shown_view if page_now and not complete else None)
    if page_now:
        _cards(module, name, page_now, stale=not complete)
    elif not queue.settled([queue.find(r) for r in requests]):
        states.skeleton_cards()
    else:
        states.empty_card(what_comes(module, view), lambda: _ways_out(view, requests))
    if below is not None:
        below(view, page_now if complete else None)
    with st.expander("Method", icon=":material/function:"):
        st.markdown(module_docs(module))
    if complete:
        provenance.draw(view, requests, page_now)


def carry(name: str) -> None:
    """Coming from another page with a bare link, the subject goes along; a bare link opened afresh is the default view."""
    previous, carried = st.session_state.get(CARRIED, (name, {}))
    if previous != name and not st.query_params.to_dict():
        st.query_params.update(carried)


def remember(name: str, query: dict[str, str]) -> None:
    """What goes along to the next page."""
    st.session_state[CARRIED] = (name, {k: v for k, v in query.items() if k in views.SUBJECT})


def _last_shown(name: str) -> tuple[View | None, Drawn | None]:
    """The figures of the last complete view of this session stay, marked stale, until the new ones are there."""
    shown = st.session_state.get(f"shown_{name}")
    if shown is None:
        return None, None
    try:
        requests = views.requests(name, shown)
        entries = [run.store().get(run.key(r)) for r in requests]
    except Refused:
        return None, None
    if any(entry is None for entry in entries):
        return None, None
    return shown, drawn.draw(requests, entries)


def chips(module: ModuleType, view: View, entries: list) -> None:
    with st.container(horizontal=True, gap="xsmall", key="chips"):
        for label, text in subjects(module, view):
            st.badge(f"**{label}** {plain(text)}", color={"A": "blue", "B": "orange"}.get(label, "gray"))
        if "corpus" in view.refused:
            return
        for read in _read(module, view, entries):
            st.badge(read, color="gray")
        seed = view.params.get("seed", getattr(module.Params(), "seed", None))
        if seed is not None:
            st.badge(f"seed {seed}", color="gray")


def subjects(module: ModuleType, view: View) -> list[tuple[str, str]]:
    """(label, written form) of the models this page looks at."""
    high = module.MODELS[1]
    models = [m for m in (view.a, view.b, *(view.more if high > 2 else ())) if m] if high else []
    return list(zip("ABCDEFGH", models[: max(high, 2)]))


def _read(module: ModuleType, view: View, entries: list) -> list[str]:
    """The text and how much of it, with the word for what it is; what the analysis brings itself, and how many once that is known."""
    tokens = {entry.record["n_tokens"] for entry in entries}
    inputs = [entry.record.get("n_inputs", 0) for entry in entries]
    own = [" and ".join(f"{n:,}" for n in dict.fromkeys(inputs)) + f" {module.INPUTS}" if any(inputs) else module.INPUTS] if hasattr(module, "INPUTS") else []
    if view.corpus:
        count = tokens.pop() if len(tokens) == 1 else view.corpus_spec.n_sequences * view.corpus_spec.length
        role = f"{module.CORPUS_IS} " if hasattr(module, "CORPUS_IS") else ""
        return [*own, f"{role}{plain(view.corpus)}, {count:,}{NBSP}tokens"]
    counts = {entry.record["n_sequences"] for entry in entries} - {0}
    return [*own, f"inputs of its own, {counts.pop():,}"] if len(counts) == 1 else own


def _headlines(headlines: tuple[Headline, ...]) -> None:
    """At most four numbers, 4 or 2 + 2 beside each other; the null or the interval stands under each."""
    with st.grid(2, min_column_width=430, gap=(12, 18)) as outer:
        for pair in (headlines[:2], headlines[2:4]):
            if not pair:
                continue
            with outer.cell(), st.grid(2, min_column_width=150, gap=18):
                for headline in pair:
                    _metric(headline)


def _metric(h: Headline) -> None:
    value, chip, beside, more = metric_words(h)
    st.metric(h.label, value, chip or None, delta_color="off", delta_arrow="off", delta_description=beside or None, help=plain(more) or None)


def metric_words(h: Headline) -> tuple[str, str, str, str]:
    """(value, chip under it, words beside the chip, what the question mark says). Under a number stands its null, where it has
    one, else its interval; beside the chip there is room for sixteen characters."""
    value, unit = number(h.value), h.unit
    if unit in ("%", "×"):
        value, unit = f"{value}{NBSP}{unit}", ""
    elif unit in ("ρ", "τ", "r"):
        value, unit = f"{unit} = {value}", ""
    between = interval(h.low, h.high) if h.low is not None and h.high is not None else ""
    if h.null:
        chip, beside = f"null {h.null}", unit
    elif between and (h.unit or len(h.note) <= BESIDE):
        chip, beside = between, unit or h.note
    else:
        chip, beside = unit or h.note, h.note if unit else ""
    better = {"low": "lower is better", "high": "higher is better"}.get(h.better, "")
    more = "; ".join(filter(None, [between and f"from {between}", h.null and f"null {h.null}", h.note, better]))
    return value, chip, beside if len(beside) <= BESIDE else "", more


def _cards(module: ModuleType, name: str, page_now: Drawn, stale: bool) -> None:
    method = module_docs(module)
    with st.grid(2, min_column_width=430, gap=18, border=True, key="cards") as grid:
        for figure in page_now.figures:
            with grid.cell(column_span="all" if figure.wide else 1):
                figure_card.draw(page_now, figure, method, name, stale)


def what_comes(module: ModuleType, view: View) -> str:
    """What this page will show, in words: the subject, then the opening sentence of the Method."""
    opening = re.sub(r"^\*\*[^*]+\*\*\s*", "", " ".join(module_docs(module).partition("\n\n")[0].split()))
    first = opening.partition(". ")[0]
    models = " of " + " and ".join(text for _, text in subjects(module, view)) if module.MODELS[1] else ""
    text = f" on {view.corpus_spec.n_sequences:,} sequences of {view.corpus_spec.source}" if view.corpus else ""
    if hasattr(module, "INPUTS") and hasattr(module, "CORPUS_IS"):
        text = f" on {module.INPUTS}, with{text.removeprefix(' on')} as {module.CORPUS_IS}"
    elif hasattr(module, "CORPUS_IS"):
        text += f" as {module.CORPUS_IS}"
    return f"This page measures {module.TITLE.lower()}{models}{text}. {first.rstrip('.')}."


def _ways_out(view: View, requests: tuple) -> None:
    if st.button("Measure it", type="primary", icon=":material/play_arrow:", key="measure"):
        for request in requests:
            queue.submit(request)
        st.rerun()
    if st.query_params.to_dict():
        _demo_button("Show it on the demo model")


def _demo_button(label: str) -> None:
    if st.button(label, icon=":material/science:", key="to_demo"):
        st.query_params.clear()
        st.rerun()


def refused_subject(view: View) -> None:
    titles = {"a": "A cannot be opened", "b": "B cannot be opened", "more": "One of the further models cannot be opened", "corpus": "This text cannot be read"}
    for name, error in view.refused.items():
        states.error_card(titles[name], error, name, tag="not loaded")
    with st.container(horizontal=True, gap="small"):
        if set(view.refused) == {"b"} and st.button("Show A alone", icon=":material/close:", key="drop_b"):
            st.query_params.pop("b", None)
            st.rerun()
        if "more" in view.refused and st.button("Leave the further models out", icon=":material/close:", key="drop_more"):
            st.query_params.pop("more", None)
            st.rerun()
        _demo_button("Show the demo model")


def _cannot(module: ModuleType, view: View, error: Refused) -> None:
    """Readable, but the files, the text or the parameters do not allow it."""
    if isinstance(error, NotHere):
        working.fetch(error.source)
        return
    states.error_card("This cannot be measured", error, "request", tag="not loaded")
    with st.container(horizontal=True, gap="small"):
        if isinstance(error, TooLong):
            st.button("Read shorter sequences", type="primary", icon=":material/content_cut:", key="shorter", on_click=controls.write_link, args=("corpus", error.fits))
        elif module.MODELS[0] > 1:
            compare_button(view)
        elif view.b and st.button("Show A alone", icon=":material/close:", key="drop_b"):
            st.query_params.pop("b", None)
            st.rerun()
        if module.MODELS[1]:
            _demo_button("Show the demo model")
        elif st.query_params.to_dict():
            _demo_button("Show it with its defaults")


def compare_button(view: View) -> None:
    """A paired page without a usable B: the nearest thing to compare with is A itself, rounded to 4 bits."""
    if view.b != f"{view.a}{ROUNDED}" and st.button("Compare with A at 4 bits", icon=":material/compare_arrows:", key="compare"):
        st.query_params["b"] = ROUNDED
        st.rerun()
