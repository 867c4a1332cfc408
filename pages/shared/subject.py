"""The sidebar: what is looked at (A, compared with B, on which text, where), and what the machine is busy with."""

from __future__ import annotations

import typing
from types import ModuleType
from typing import Literal

import streamlit as st

import operators
from analysis import run
from demo.world import STRANDS
from models import corpus as corpora
from models import shelf, variant_shelf
from models.params import fields_of, key_params, read_params
from models.refusal import Refused
from models.variant import Step, write_value
from pages.shared import controls, opening, queue, redrawn, visitor
from pages.shared.room import OFFLOAD, devices
from pages.shared.view import BETWEEN, DEFAULT_MODEL, View, whole
from pages.shared.wording import plain, short_variant


def draw(module: ModuleType, view: View) -> None:
    with st.sidebar:
        st.markdown("**Subject**")
        if module.MODELS[1]:
            _models(module, view)
        else:
            st.caption("This page trains small networks of its own; no model is chosen here.")
        if view.corpus:
            _corpus(module, view)
        if len(devices()) > 1 or view.device == OFFLOAD:
            st.segmented_control("Device", (*devices(), OFFLOAD), key=controls.seed("subject_device", view.device), required=True, width="stretch",
                                 on_change=_store, args=("subject_device", "device", devices()[0]))
        if module.MODELS[1]:
            with st.container(key="foot_subject", gap=None):
                with st.popover("Change a model into B", type="tertiary", icon=":material/content_cut:"):
                    _make_variant(view)
                with st.popover("Open a checkpoint" if shelf.public() else "Open a checkpoint or a text", type="tertiary", icon=":material/folder_open:"):
                    opening.draw(view)


def _models(module: ModuleType, view: View) -> None:
    _model("A", "a", view.a, None, view)
    _model("B, compared with A", "b", view.b, view.a, view)
    if module.MODELS[1] > 2:
        _more(module, view)


def _model(label: str, name: str, value: str | None, beside: str | None, view: View) -> None:
    options = [text for text in dict.fromkeys([*_known(view), *([value] if value else [])]) if text != beside]
    names = _names()
    st.selectbox(
        label, options, key=controls.seed(f"subject_{name}", value), accept_new_options=True, format_func=lambda text: names.get(text) or short_variant(text, beside),
        placeholder="none" if name == "b" else "a model", on_change=_store_model, args=(name, beside),
        help="Choose one, or type its written form: demo/storyteller-a, owner/name@revision of a hub, shelf/…, each with steps like ~drop_layers:blocks=3. "
             "For B the steps alone are enough." if name == "b" else "Choose one, or type demo/…, shelf/… or owner/name@revision of a hub, with steps if you like.",
    )


def _known(view: View) -> list[str]:
    """The shelf, and what was looked at in this session."""
    known = [entry.source for entry in shelf.shelf(run.home(), visitor.owner()) if "-steps/" not in entry.source]
    remembered = st.session_state.setdefault("variants", [])
    for text in (view.a, view.b, *view.more):
        if text and text not in known and text not in remembered:
            remembered.append(text)
    return list(dict.fromkeys([*known, *_names(), *remembered]))


def _names() -> dict[str, str]:
    """Written form → name of the variants on the visitor's shelf."""
    return {run.keep_recipe(kept.variant): kept.name for kept in variant_shelf.listing(run.home(), visitor.owner())}


def _more(module: ModuleType, view: View) -> None:
    names = _names()
    options = [text for text in dict.fromkeys([*_known(view), *view.more]) if text not in (view.a, view.b)]
    st.multiselect(
        "More models", options, key=controls.seed("subject_more", list(view.more)), accept_new_options=True, format_func=lambda text: names.get(text) or short_variant(text, view.a),
        placeholder="none", max_selections=module.MODELS[1] - 2, on_change=_store_more, args=(view.a,), help="A third model and further ones, for what needs three or more.",
    )


def _store_more(a: str) -> None:
    chosen = [whole(text.strip(), a) for text in st.session_state["subject_more"]]
    controls.write_link("more", BETWEEN.join(chosen) or None)


def _store_model(name: str, beside: str | None) -> None:
    """B's steps alone are written out, so that the link says the same whatever A becomes."""
    value = st.session_state[f"subject_{name}"]
    if value is not None and beside:
        value = whole(value.strip(), beside)
    controls.write_link(name, None if value is None or (name == "a" and value == DEFAULT_MODEL) else value.strip())


def _store(key: str, name: str, default: str | None) -> None:
    value = st.session_state[key]
    controls.write_link(name, None if value in (None, default) else value)


def _corpus(module: ModuleType, view: View) -> None:
    sources = [*(f"demo/{strand}" for strand in STRANDS), *corpora.texts(run.home()), corpora.UNIFORM]
    source = view.corpus.partition(":")[0]
    st.selectbox(
        getattr(module, "CORPUS_IS", "corpus").capitalize(), list(dict.fromkeys([*sources, source])), key=controls.seed("subject_corpus", source), accept_new_options=True,
        help="Held-out text of the demo world, a text you opened, hub/owner/name of a data set, or ids/uniform: random tokens, no text. How much of it is read stands in the run bar.",
        on_change=_store_corpus, args=(module.CORPUS, view.corpus),
    )


def _store_corpus(default: str, now: str) -> None:
    """A new source keeps the slice; a written form with a slice of its own is taken whole."""
    text = st.session_state["subject_corpus"] or default
    if ":" not in text and ":" in now:
        text = f"{text}:{now.partition(':')[2]}"
    controls.write_link("corpus", None if text == default else text)


def _make_variant(view: View) -> None:
    """One step on top of A, its parameters generated from the operator's Params; becomes B."""
    name = st.selectbox("Operator", list(operators.OPERATORS), format_func=lambda n: operators.OPERATORS[n].TITLE, key="step_operator")
    operator = operators.OPERATORS[name]
    given = {f.name: _entry(f, kind, f"step_{name}_{f.name}") for f, kind in fields_of(operator.Params)}
    if st.button("Compare A with it", type="primary", key="step_use", width="stretch"):
        try:
            params = key_params(read_params(operator.Params, given))
            subject = operators.parse(view.a)
            made = operators.canonical(subject.then(Step(name, tuple((k, write_value(v)) for k, v in params.items()))))
            run.require_possible(made)
        except Refused as error:
            st.error(plain(error))
        else:
            controls.write_link("b", run.keep_recipe(made))
            st.rerun()


def _entry(f, kind, key: str) -> str:
    """One parameter of a step as text: a choice where there is one, else a field to type in."""
    label, about = f.metadata.get("label", f.name), f.metadata.get("help") or None
    if typing.get_origin(kind) is Literal or kind is bool:
        choices = [write_value(v) for v in (typing.get_args(kind) or (False, True))]
        return st.selectbox(label, choices, choices.index(write_value(f.default)), key=key, help=about)
    return st.text_input(label, "" if f.default == () else write_value(f.default), key=key, help=about, placeholder="none" if f.default == () else "")


def queue_panel() -> None:
    """What runs and what waits, on every page; redrawn each second while there is anything."""
    active = queue.active()

    def panel() -> None:
        now = queue.active()
        n_running = sum(job.running for job in now)
        with st.container(horizontal=True, vertical_alignment="center", key="queue_head"):
            st.markdown("**Queue**", width="content")
            st.space("stretch")
            st.caption(f"{n_running} running, {len(now) - n_running} waiting" if now else "idle", width="content")
        if refused := queue.refusal():
            st.warning(plain(refused), icon=":material/hourglass_disabled:")
        for job in now[:4]:
            if job.running:
                with st.container(border=True, gap="xsmall", key=f"foot_queue_{job.id[:8]}"):
                    st.caption(plain(job.title))
                    st.progress(job.fraction)
                    with st.container(horizontal=True, vertical_alignment="center"):
                        st.caption(job.short, width="content")
                        st.space("stretch")
                        if job.mine:
                            st.button("Cancel", type="tertiary", key=f"queue_cancel_{job.id}", on_click=queue.cancel, args=(job.id,))
            else:
                st.caption(f":material/schedule: {plain(job.title)}")

    with st.sidebar:
        redrawn.draw(panel, every=1.0 if active else None)
