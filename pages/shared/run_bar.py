"""The run bar: what can be set, what it will cost, and where a computation stands.

While something runs, only this fragment is redrawn, twice a second; when it ends the page is drawn again.
"""

from __future__ import annotations

import time
from types import ModuleType

import streamlit as st

from analysis import run
from models import corpus as corpora
from models.refusal import Refused
from pages.shared import controls, live, queue, redrawn, states
from pages.shared.view import VIEW, View, differences, with_slice
from pages.shared.wording import ago, duration, plain, size

RECENT = 3600.0  # seconds for which a failed second run is told beside figures of the first
QUICK = 10.0  # seconds: a first figure that is estimated to take less computes by itself
GUESSED = 3.0  # times that, while nothing has run on this machine and the estimate is a cautious guess
SEQUENCES = (16, 32, 64, 128, 256, 512, 1024)


def draw(module: ModuleType, view: View, requests: tuple[run.Request, ...], entries: list, shown: View | None) -> None:
    """`entries` are the stored results, None where there is none yet; `shown` is the view of stale figures, if any are drawn."""
    missing = [r for r, entry in zip(requests, entries) if entry is None]
    jobs = [queue.find(r) for r in (missing or requests)]
    running = not queue.settled(jobs)
    link = _asked()

    def bar() -> None:
        states_now = [queue.find(r) for r in (missing or requests)]
        if _asked() != link or (running and queue.settled(states_now)):
            st.rerun()  # a control wrote into the link, or the computation ended: the whole page is drawn again
        with st.container(border=True, key="runbar"):
            with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
                _controls(module, view, disabled=running)
                with st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center", gap="xsmall", key="standing"):
                    if running:
                        _running(states_now)
                    elif missing:
                        _to_run(module, view, requests, missing, shown)
                    else:
                        _from_store(requests, entries)
            if running:
                st.progress(queue.fraction(states_now))
                live.draw(states_now, key="live")

    redrawn.draw(bar, every=0.5 if running else None)
    for job, request in zip(jobs, missing or requests):
        if job is not None and job.failed and (missing or queue.age(job) < RECENT):
            label = " → ".join(v.written for v in request.variants)
            states.error_card(f"{module.TITLE} did not finish{' for ' + plain(label) if label else ''}", job.job.error, f"job_{job.id[:8]}", job.job.details)
        elif job is not None and missing and job.computed_otherwise(request):
            st.warning("This was computed by a newer text of the program than these pages run. Restart the app to see it.", icon=":material/restart_alt:")
        elif job is not None and job.cancelled and missing:
            st.caption(f"Cancelled at {job.fraction * 100:.0f} %. " + ("What was measured until then is kept; Run goes on from there." if job.resumable else "Run starts again."))


def _asked() -> dict[str, str]:
    """What the link asks to compute; chosen views of figures are no part of it."""
    return {name: value for name, value in st.query_params.to_dict().items() if not name.startswith(VIEW)}


def _controls(module: ModuleType, view: View, disabled: bool) -> None:
    first, rest = controls.split(module.Params)
    looked_at = view.corpus and not hasattr(module, "CORPUS_IS")
    if looked_at:
        _sequences(view, disabled)
    value = lambda f: view.params.get(f.name, f.default)
    for f, kind in first:
        controls.bar(f, kind, value(f), disabled)
    with st.popover("More", icon=":material/tune:"):
        for f, kind in rest:
            controls.folded(f, kind, value(f), disabled, labels=lambda: _labels(view))
        if view.corpus and not looked_at:
            st.caption(f"{module.CORPUS_IS.capitalize()}, {plain(view.corpus)}")
            _sequences(view, disabled)
        if view.corpus:
            _slice(view, disabled)


def _labels(view: View) -> tuple[str, ...]:
    """Names of the text's labels; none where it cannot be read, which the page says in its own words."""
    try:
        return _label_names(view.corpus_spec.source, view.corpus_spec.content_fingerprint(run.home())) if view.corpus else ()
    except Refused:
        return ()


@st.cache_data(show_spinner=False, max_entries=64)
def _label_names(source: str, content: str) -> tuple[str, ...]:
    return corpora.label_names(source, run.home())


def _sequences(view: View, disabled: bool) -> None:
    now = view.corpus_spec.n_sequences
    st.selectbox(
        "Sequences", sorted({*SEQUENCES, now}), key=controls.seed("slice_n", now), format_func=lambda n: f"{n:,} sequences", disabled=disabled,
        label_visibility="collapsed", width=controls.width(f"{now:,} sequences"), on_change=_cut, args=("slice_n", "n_sequences", view.corpus),
    )


def _slice(view: View, disabled: bool) -> None:
    spec = view.corpus_spec
    st.number_input("Tokens per sequence", 4, 8192, key=controls.seed("slice_length", spec.length), disabled=disabled, on_change=_cut, args=("slice_length", "length", view.corpus))
    st.selectbox("Text from", ["test", "train"], key=controls.seed("slice_split", spec.split), disabled=disabled, on_change=_cut, args=("slice_split", "split", view.corpus))
    st.number_input("Seed of the text", 0, 999_999_999, key=controls.seed("slice_seed", spec.seed), disabled=disabled, on_change=_cut, args=("slice_seed", "seed", view.corpus))


def _cut(key: str, name: str, corpus: str) -> None:
    controls.write_link("corpus", with_slice(corpus, **{name: st.session_state[key]}))


def _running(jobs: list) -> None:
    active = [job for job in jobs if job is not None and job.active]
    job = next((j for j in active if j.running), active[0])
    st.caption(plain(job.sentence), width="content")
    if any(each.mine for each in active):
        st.button("Cancel", icon=":material/close:", key="cancel", on_click=_cancel, args=([each.id for each in active],))


def _cancel(ids: list[str]) -> None:
    for id in ids:
        queue.cancel(id)


def _to_run(module: ModuleType, view: View, requests: tuple, missing: list, shown: View | None) -> None:
    if shown is not None:
        st.badge(plain("figures are from " + differences(module, shown, view)), icon=":material/history:", color="yellow")
    try:
        st.caption(estimate_text([run.estimate(r) for r in missing]), width="content")
    except Refused:
        pass  # the reason is on the page already: a subject that cannot be read has its own card
    if st.button("Run", type="primary", icon=":material/play_arrow:", key="run"):
        for request in missing:
            queue.submit(request)
        st.rerun()


def estimate_text(estimates: list[run.Estimate]) -> str:
    seconds, held = sum(e.seconds for e in estimates), max(e.bytes for e in estimates)
    return f"about {duration(seconds)}, {size(held)}" + ("" if all(e.measured for e in estimates) else ", a guess")


def _from_store(requests: tuple, entries: list) -> None:
    records = [entry.record for entry in entries]
    st.badge("from the store", icon=":material/database:", color="green")
    newest = max(r["computed"] for r in records)
    st.caption(f"{ago(time.time() - newest)}, in {duration(sum(r['seconds'] for r in records))}", width="content")
    if st.button("Run again", icon=":material/refresh:", key="again", help="Compute the same once more and replace what is stored."):
        for request in requests:
            queue.submit(request, again=True)
        st.rerun()


def starts_by_itself(requests: tuple[run.Request, ...]) -> bool:
    """On an empty page a quick computation needs no click: unless it was cancelled, failed, or needs a download."""
    if any(queue.find(r) is not None for r in requests):
        return False
    if any(not v.base.startswith(("demo/", "shelf/")) for r in requests for v in r.variants) or any(r.corpus and r.corpus.source.startswith("hub/") for r in requests):
        return False
    estimates = [run.estimate(r) for r in requests]
    return sum(e.seconds for e in estimates) < QUICK * (1.0 if all(e.measured for e in estimates) else GUESSED)
