"""An upload on its way: dropped, received, opened in the fenced process, asked about, put on the shelf."""

from __future__ import annotations

import time
from pathlib import Path

import streamlit as st

from analysis import run
from models import uploads
from models.intake import Outcome
from models.refusal import Refused
from models.shelf import ShelfEntry
from pages.checkpoint import dropzone
from pages.checkpoint.names import in_markdown
from pages.checkpoint.subject import entries, go
from pages.shared import states, visitor
from pages.shared.wording import ago, plain, size

_NOW = "arriving"  # in the session: id of the upload, its outcome or refusal


def now() -> dict | None:
    return st.session_state.get(_NOW)


def drop() -> None:
    """The place where files are dropped; when all have arrived, they are opened."""
    arrived = dropzone.draw(uploads.ticket(run.home(), visitor.owner()))
    if arrived:
        open_it(arrived[0], title=arrived[1])
        st.rerun()


def open_it(id: str, answers: dict | None = None, base: str | None = None, tokenizer: str | None = None, title: str = "") -> None:
    """Run the intake (some seconds, in its own fenced process) and keep what it says for the page."""
    home, owner = run.home(), visitor.owner()
    title = title or st.session_state.get(_NOW, {}).get("title") or time.strftime("upload of %d %b %H.%M")
    state = {"id": id, "title": title, "tokenizer": tokenizer}
    try:
        with st.spinner("Opening the files in a process without network …"):
            entry, outcome = uploads.finish(home, owner, id, answers, _folder(base), _folder(tokenizer), title)
        state |= {"entry": entry, "outcome": outcome}
    except Refused as refusal:
        state |= {"refused": str(refusal), "details": refusal.details}
    st.session_state[_NOW] = state


def _folder(source: str | None) -> Path | None:
    return next((Path(e.path) for e in entries() if e.source == source), None)


def draw() -> None:
    state = st.session_state[_NOW]
    if "refused" in state:
        _refused(state)
    elif state["entry"] is None:
        _questions(state["id"], state["outcome"], state["tokenizer"])
    else:
        _arrived(state["entry"], state["outcome"])


def close() -> None:
    st.session_state.pop(_NOW, None)


def discard(id: str) -> None:
    close()
    try:
        uploads.discard(run.home(), visitor.owner(), id)
    except Refused:
        pass  # a refused upload is removed already


def _refused(state: dict) -> None:
    states.error_card("This checkpoint was not taken", state["refused"], "upload", tuple(state["details"]), tag="not loaded")
    if _waits(state["id"]):
        _choose_base(state["id"])
    st.button("Try other files", icon=":material/refresh:", key="again_upload", on_click=discard, args=(state["id"],))


def _waits(id: str) -> bool:
    """Whether the upload is still there: an adapter waits for its base."""
    try:
        uploads.status(run.home(), visitor.owner(), id)
    except Refused:
        return False
    return True


def _choose_base(id: str) -> None:
    runnable = [e.source for e in entries() if e.runnable and "-steps/" not in e.source]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        base = st.selectbox("Its base, of those on the shelf", runnable, key="adapter_base")
        if st.button("Open it on this base", type="primary", key="adapter_open", disabled=not base):
            open_it(id, {}, base=base)
            st.rerun()


def _questions(id: str, outcome: Outcome, tokenizer_of: str | None) -> None:
    """What the files do not say; every proposal stands in its field."""
    st.markdown("##### A few things the files do not say")
    _notes(outcome)
    answers = {}
    known = [e.source for e in entries() if "-steps/" not in e.source and (Path(e.path) / "tokenizer.json").is_file()]
    for question in outcome.questions:
        field, key = question.field, f"answer_{question.field}"
        if field == "tokenizer":
            st.markdown(plain(question.text))
            choice = st.selectbox("Tokenizer", [*question.options, *(["known"] if "known" not in question.options else []), "file"], key=key,
                                  index=question.options.index(question.default), format_func=_TOKENIZERS.get, label_visibility="collapsed", width=420)
            answers[field] = choice
            if choice == "known":
                tokenizer_of = st.selectbox("Whose tokenizer", known, key="known_tokenizer", width=420)
            if choice == "file":
                answers[field] = _tokenizer_file(id)
        elif question.options:
            answers[field] = st.selectbox(plain(question.text), question.options, index=question.options.index(question.default), key=key, width=420)
        elif isinstance(question.default, bool):
            answers[field] = st.toggle(plain(question.text), question.default, key=key)
        elif isinstance(question.default, (int, float)):
            answers[field] = st.number_input(plain(question.text), value=question.default, format=None if isinstance(question.default, int) else "%g", key=key, width=420)
        else:
            answers[field] = st.text_input(plain(question.text), question.default, key=key, width=420)
    with st.container(horizontal=True, gap="small"):
        if st.button("Open it so", type="primary", key="answer_go", disabled=answers.get("tokenizer", "") is None):
            chosen = answers.get("tokenizer")
            open_it(id, answers, tokenizer=tokenizer_of if chosen == "known" else None)
            st.rerun()
        st.button("Discard it", key="answer_discard", on_click=discard, args=(id,))


_TOKENIZERS = {
    "none": "none: tensors and token numbers only", "byte-level": "bytes of UTF-8, one token each", "numbers": "token numbers, written with spaces",
    "known": "that of a model on the shelf", "file": "a tokenizer.json from my computer",
}


def _tokenizer_file(id: str) -> str | None:
    """A tokenizer.json joins the upload; small, so it may pass through the page. None until it is there."""
    file = st.file_uploader("tokenizer.json", type="json", key="tokenizer_file", max_upload_size=64)
    if file is None:
        return None
    try:
        uploads.join(run.home(), visitor.owner(), id, "tokenizer.json", file.getvalue())
    except Refused as refusal:
        states.error_card("This tokenizer was not taken", refusal, "tokenizer", tag="not loaded")
        return None
    return "none"  # the files have one now; nothing is left to be asked


def _arrived(entry: ShelfEntry, outcome: Outcome) -> None:
    if outcome.runnable:
        st.markdown(f"##### :green[:material/check_circle:] {in_markdown(entry.title)} is on the shelf")
    else:
        st.markdown(f"##### {in_markdown(entry.title)} is on the shelf, to examine")
        states.error_card("It cannot be run", outcome.why, "arrived", outcome.details, tag="not run")
    _notes(outcome)
    for line in outcome.checks:
        st.markdown(in_markdown(line, 400))
    with st.container(horizontal=True, gap="small"):
        if outcome.runnable and st.button("Open in analysis", type="primary", icon=":material/biotech:", key="arrived_analysis"):
            close()
            st.switch_page("layer_redundancy.py", query_params={"a": entry.source})
        if st.button("Examine", icon=":material/search:", key="arrived_look", type="secondary" if outcome.runnable else "primary"):
            close()
            go(model=entry.source)
            st.rerun()
        st.button("Bring another", icon=":material/add:", key="arrived_more", on_click=close)


def _notes(outcome: Outcome) -> None:
    """What was found, inferred, changed and left out."""
    if outcome.fields:
        shown = ("model_type", "n_layer", "num_hidden_layers", "n_embd", "hidden_size", "n_head", "num_attention_heads", "vocab_size")
        with st.container(horizontal=True, gap="xsmall"):
            st.badge(in_markdown(outcome.form), color="gray")
            for name in shown:
                if outcome.fields.get(name) is not None:
                    st.badge(f"{in_markdown(name)} {in_markdown(outcome.fields[name])}", color="gray")
    for note in outcome.notes[:30]:
        st.caption(in_markdown(note, 300))


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
