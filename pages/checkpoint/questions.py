"""What the files of an upload do not say, asked on the page; every proposal stands in its field."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from analysis import run
from models import uploads
from models.intake.infer import Question
from models.refusal import Refused
from pages.checkpoint.subject import entries
from pages.shared import states, visitor
from pages.shared.wording import plain

TOKENIZERS = {  # choice -> what it is, and when
    "numbers": ("Token numbers", "a text is ids with spaces, such as 0 2 1"),
    "none": ("None", "its tensors can be examined, text cannot be read"),
    "byte-level": ("Bytes", "one token per byte of UTF-8, for a model trained on bytes"),
    "known": ("That of a model on the shelf", "when it was trained with the same one"),
    "file": ("A tokenizer.json from my computer", "the one saved with the weights"),
}


def draw(id: str, asked: tuple[Question, ...], before: dict) -> tuple[dict | None, str | None]:
    """(answers, the shelf's model whose tokenizer is taken); None while an answer is not complete. `before` are the last answers."""
    answers, plain_ones = {}, [q for q in asked if q.field != "tokenizer"]
    if plain_ones:
        with st.grid(2, min_column_width=340, gap=(12, 18)) as grid:
            for question in plain_ones:
                with grid.cell():
                    answers[question.field] = _field(question, before.get(question.field, question.default))
    tokenizer = next((q for q in asked if q.field == "tokenizer"), None)
    if tokenizer is None:
        return answers, None
    choice, known = _tokenizer(id, tokenizer, before.get("tokenizer", tokenizer.default))
    return (None if choice is None else answers | {"tokenizer": choice}), known


def _field(question: Question, proposal):
    """A choice where few values are possible, else a field of the proposal's kind."""
    key, label = f"answer_{question.field}", plain(question.text)
    if question.options:
        return st.selectbox(label, question.options, index=question.options.index(proposal), key=key)
    if isinstance(proposal, bool):
        return st.toggle(label, proposal, key=key)
    if isinstance(proposal, int):
        return st.number_input(label, value=proposal, min_value=1, key=key)
    if isinstance(proposal, float):
        return st.number_input(label, value=proposal, min_value=0.0, step=question.default, format="%g", key=key)
    return st.text_input(label, proposal, key=key)


def _tokenizer(id: str, question: Question, proposal: str) -> tuple[str | None, str | None]:
    known = [e.source for e in entries() if "-steps/" not in e.source and (Path(e.path) / "tokenizer.json").is_file()]
    options = list(dict.fromkeys([*question.options, *(["known"] if known else []), "file"]))
    choice = st.radio(plain(question.text), options, index=options.index(proposal) if proposal in options else 0, key="answer_tokenizer",
                      format_func=lambda c: TOKENIZERS[c][0], captions=[TOKENIZERS[c][1] for c in options])
    if choice == "known":
        return choice, st.selectbox("Whose tokenizer", known, key="known_tokenizer", width=420)
    return (_file(id) if choice == "file" else choice), None


def _file(id: str) -> str | None:
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
