"""An upload on its way: dropped, received, opened in the fenced process, asked about, tried, put on the shelf."""

from __future__ import annotations

import time
from pathlib import Path

import streamlit as st

from analysis import run
from models import uploads
from models.intake import Outcome
from models.refusal import Refused
from models.shelf import ShelfEntry
from pages.checkpoint import dropzone, questions
from pages.checkpoint.names import in_markdown
from pages.checkpoint.subject import entries, go
from pages.shared import states, visitor
from pages.shared.wording import ago, plain, size

UNNAMED = "upload of"  # what is called only so in the browser gets the time as its name
_NOW = "arriving"  # in the session: the upload's id and title, and its outcome or refusal


def now() -> dict | None:
    return st.session_state.get(_NOW)


def drop() -> None:
    """The place where files are dropped; when all have arrived, they are opened."""
    arrived = dropzone.draw(uploads.ticket(run.home(), visitor.owner()))
    if arrived:
        open_it(arrived[0], title=arrived[1])
        st.rerun()


def open_it(id: str, answers: dict | None = None, base: str | None = None, tokenizer: str | None = None, title: str = "") -> None:
    """Run the intake (some seconds, in its own fenced process) and keep what it says for the page. What nobody was asked about
    goes on the shelf at once; where answers were given, the page first shows what comes of them."""
    home, owner = run.home(), visitor.owner()
    before = now() or {}
    state = {"id": id, "title": title or before.get("title") or time.strftime(f"{UNNAMED} %d %b %H.%M"), "asked": before.get("asked"), "answers": answers or {}}
    try:
        with st.spinner("Opening the files in a process without network …"):
            outcome = uploads.look_into(home, owner, id, answers, _folder(base), _folder(tokenizer))
        state["outcome"] = outcome
        if outcome.questions:
            state["asked"] = outcome
        elif not state["asked"]:
            state["entry"] = uploads.settle(home, owner, id, outcome, state["title"])
    except Refused as refusal:
        state |= {"refused": str(refusal), "details": refusal.details, "busy": isinstance(refusal, uploads.Busy), "retry": (id, answers, base, tokenizer)}
    st.session_state[_NOW] = state


def _folder(source: str | None) -> Path | None:
    return next((Path(e.path) for e in entries() if e.source == source), None)


def draw() -> None:
    state = st.session_state[_NOW]
    if "refused" in state:
        _refused(state)
    elif "entry" in state:
        _arrived(state["entry"], state["outcome"])
    elif state["outcome"].questions:
        _questions(state)
    else:
        _tried(state)


def close() -> None:
    st.session_state.pop(_NOW, None)


def discard(id: str) -> None:
    close()
    try:
        uploads.discard(run.home(), visitor.owner(), id)
    except Refused:
        pass  # a refused upload is removed already


def _refused(state: dict) -> None:
    waits = _waits(state["id"])
    title = "This checkpoint was not opened yet" if state["busy"] else "This adapter needs its base" if waits else "This checkpoint was not taken"
    states.error_card(title, state["refused"], "upload", tuple(state["details"]), tag="waiting" if waits else "not loaded")
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        if state["busy"] and waits and st.button("Open it again", type="primary", key="open_again"):
            open_it(*state["retry"])
            st.rerun()
        elif waits and not state["busy"]:
            _choose_base(state)
        st.button("Try other files", icon=":material/refresh:", key="again_upload", on_click=discard, args=(state["id"],))


def _waits(id: str) -> bool:
    """Whether the upload is still there: an adapter waits for its base."""
    try:
        uploads.status(run.home(), visitor.owner(), id)
    except Refused:
        return False
    return True


def _choose_base(state: dict) -> None:
    runnable = [e for e in entries() if e.runnable and "-steps/" not in e.source]
    named = [i for i, e in enumerate(runnable) if e.title.lower() in state["refused"].lower()]  # the adapter says which, by a name or a path
    base = st.selectbox("Its base, of those on the shelf", [e.source for e in runnable], index=(named or [0])[0], key="adapter_base", width=380)
    if st.button("Open it on this base", type="primary", key="adapter_open", disabled=not base):
        title = next(e.title for e in runnable if e.source == base)
        open_it(state["id"], {}, base=base, title=f"adapter on {title}" if state["title"].startswith(UNNAMED) else "")
        st.rerun()


def _questions(state: dict) -> None:
    outcome = state["outcome"]
    st.markdown("##### A few things the files do not say")
    if outcome.problem:
        st.error(plain(outcome.problem), icon=":material/error:")
    _notes(outcome)
    answers, known = questions.draw(state["id"], outcome.questions, state["answers"])
    with st.container(horizontal=True, gap="small"):
        if st.button("Open it so", type="primary", key="answer_go", disabled=answers is None):
            open_it(state["id"], answers, tokenizer=known)
            st.rerun()
        st.button("Discard it", key="answer_discard", on_click=discard, args=(state["id"],))


def _tried(state: dict) -> None:
    """What came of the answers, before they are final."""
    outcome: Outcome = state["outcome"]
    st.markdown(f"##### With your answers, {in_markdown(state['title'])} " + ("runs" if outcome.runnable else "does not run"))
    _result(outcome)
    with st.container(horizontal=True, gap="small"):
        if st.button("Keep it on the shelf", type="primary", icon=":material/check:", key="keep_it"):
            try:
                state["entry"] = uploads.settle(run.home(), visitor.owner(), state["id"], outcome, state["title"])
            except Refused as refusal:
                state |= {"refused": str(refusal), "details": (), "busy": False}
            st.rerun()
        if st.button("Answer differently", icon=":material/undo:", key="answer_again"):
            state["outcome"] = state["asked"]
            st.rerun()
        st.button("Discard it", key="answer_discard", on_click=discard, args=(state["id"],))


def _arrived(entry: ShelfEntry, outcome: Outcome) -> None:
    st.markdown(f"##### :green[:material/check_circle:] {in_markdown(entry.title)} is on the shelf" + ("" if outcome.runnable else ", to examine"))
    _result(outcome)
    with st.container(horizontal=True, gap="small"):
        if outcome.runnable and st.button("Open in analysis", type="primary", icon=":material/biotech:", key="arrived_analysis"):
            close()
            st.switch_page("layer_redundancy.py", query_params={"a": entry.source})
        if st.button("Examine", icon=":material/search:", key="arrived_look", type="secondary" if outcome.runnable else "primary"):
            close()
            go(model=entry.source)
            st.rerun()
        st.button("Bring another", icon=":material/add:", key="arrived_more", on_click=close)


def _result(outcome: Outcome) -> None:
    if not outcome.runnable:
        states.error_card("It cannot be run", outcome.why, "arrived", outcome.details, tag="not run")
    _notes(outcome)
    if outcome.checks:
        st.markdown("\n".join(f"- {in_markdown(line, 400)}" for line in outcome.checks))


def _notes(outcome: Outcome) -> None:
    """What was found, inferred, changed and left out."""
    if outcome.fields:
        shown = ("model_type", "n_layer", "num_hidden_layers", "n_embd", "hidden_size", "n_head", "num_attention_heads", "vocab_size")
        with st.container(horizontal=True, gap="xsmall"):
            st.badge(in_markdown(outcome.form), color="gray")
            for name in shown:
                if outcome.fields.get(name) is not None:
                    st.badge(f"{in_markdown(name)} {in_markdown(outcome.fields[name])}", color="gray")
    if outcome.notes:
        st.caption("  \n".join(in_markdown(note, 300) for note in outcome.notes[:30]))


def unfinished() -> None:
    """Uploads that stopped on the way or wait for answers: drop the same files again to go on, or discard."""
    waiting = uploads.unfinished(run.home(), visitor.owner())
    for upload in waiting:
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"foot_upload_{upload.id[:8]}"):
            names = ", ".join(upload.files)
            st.caption(f"{in_markdown(names)}: {size(sum(upload.received.values()))} of {size(sum(upload.files.values()))}, begun {ago(time.time() - upload.created)}", width="content")
            st.space("stretch")
            if upload.whole:
                st.button("Open it", type="tertiary", key=f"finish_{upload.id}", on_click=open_it, args=(upload.id,))
            else:
                st.caption("drop the same files to go on", width="content")
            st.button("Discard", type="tertiary", icon=":material/delete:", key=f"discard_{upload.id}", on_click=discard, args=(upload.id,))
