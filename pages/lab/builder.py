"""The recipe bar: A, the steps on top of it, what it will take and be, and the button that makes it."""

from __future__ import annotations

import streamlit as st

import operators
from analysis import run
from analysis.frontier import recipes
from metrics.model_bits import foreseen_bits
from models import variant_shelf
from models.refusal import Refused
from models.variant import Variant
from pages.lab import step, subject
from pages.lab.link import Recipe
from pages.lab.waiting import wait_for
from pages.shared import controls, queue, states, visitor
from pages.shared.view import View
from pages.shared.wording import NBSP, duration, number, plain, size

ADDED = "lab_add"


def draw(view: View, a: Variant, recipe: Recipe) -> Variant | None:
    """The bar; returns the variant that the recipe makes of A, where it makes one."""
    made, refused = _made(a, recipe)
    job = queue.find(subject.request(view, a, made)) if made else None
    with st.container(border=True, key="builder"):
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="recipe_bar"):
            _steps(a, recipe)
            st.space("stretch")
            _go(view, a, made, job)
        if made:
            st.code(made.written, language=None, wrap_lines=True)
        elif not recipe.steps and not refused:
            st.caption("Add a step: prune, quantise, factorise, slice, drop or share. Nothing is computed before you ask for it.")
        _refusal(refused)
        if job is not None and job.active:
            wait_for([job], "make")
    if job is not None and job.failed and subject.measured(view, a, made) is None:
        states.error_card("This variant was not made", job.job.error, "make", job.job.details)
    return made


def _made(a: Variant, recipe: Recipe) -> tuple[Variant | None, Refused | None]:
    if recipe.refused or not recipe.steps:
        return None, recipe.refused
    try:
        return recipes.on_top(a, recipe.steps), None
    except Refused as error:
        return None, error


def _steps(a: Variant, recipe: Recipe) -> None:
    st.badge(plain(a.written), color="blue")
    for i, each in enumerate(recipe.steps):
        st.caption(":material/chevron_right:", width="content")
        with st.popover(plain(recipes.words(each)), key=f"step_{i}_{each.operator}"), st.container(width=420):
            step.draw(recipe.steps, i)
    st.caption(":material/chevron_right:", width="content")
    with st.popover("Add a step", icon=":material/add:", type="tertiary", key="add_step"), st.container(width=420):
        _add()


def _add() -> None:
    names = list(operators.OPERATORS)
    name = st.selectbox("Operator", names, format_func=lambda n: operators.OPERATORS[n].TITLE, key=ADDED)
    st.caption(plain(" ".join((operators.OPERATORS[name].__doc__ or "").split("\n\n")[0].split())))
    st.caption(plain(step.when(operators.OPERATORS[name])))
    st.button("Add it", type="primary", key="add_step_go", width="stretch", on_click=step.add, args=(ADDED,))


def _go(view: View, a: Variant, made: Variant | None, job) -> None:
    if made is None:
        st.button("Make variant", type="primary", icon=":material/play_arrow:", key="make", disabled=True)
        return
    done = subject.measured(view, a, made) is not None
    st.caption(", ".join(filter(None, [foreseen(a, made), "" if done else _time(view, a, made)])), width="content")
    if done:
        st.badge("made", icon=":material/database:", color="green")
        if view.b != made.written:
            st.button("Choose as B", key="choose_made", on_click=choose, args=(made,))
    elif job is None or not job.active:
        st.button("Make variant", type="primary", icon=":material/play_arrow:", key="make", on_click=make, args=(view, a, made))


def foreseen(a: Variant, v: Variant) -> str:
    """"2.61 MB, 32 % of A, 10.3 bits per weight", from shapes alone; only for operators that foresee."""
    whole, outline = run.foreseen(a), run.foreseen(v)
    if not (whole.known and outline.known):
        return "size known when made"
    bits, of_a = foreseen_bits(outline), foreseen_bits(whole)
    about = "" if outline.sure else "about "
    return f"{about}{size(bits / 8)}, {number(100 * bits / of_a)}{NBSP}% of A, {number(bits / run.foreseen(a.root).n_parameters)} bits per weight"


def _time(view: View, a: Variant, v: Variant) -> str:
    try:
        estimate = run.estimate(subject.request(view, a, v))
    except Refused:
        return ""
    return f"about {duration(estimate.seconds)}, {size(estimate.bytes)} of memory{'' if estimate.measured else ', a guess'}"


def make(view: View, a: Variant, v: Variant) -> None:
    """Keep the recipe on the shelf, choose it as B, and ask for it to be made and measured."""
    queue.submit(subject.request(view, a, v))
    keep(a, v)
    choose(v)


def keep(a: Variant, v: Variant) -> None:
    try:
        variant_shelf.keep(run.home(), v, recipes.label(a, v)[: variant_shelf.LONGEST], visitor.owner())
    except Refused as error:
        st.session_state[step.REFUSAL] = str(error)


def choose(v: Variant) -> None:
    controls.write_link("b", run.keep_recipe(v))


def _refusal(refused: Refused | None) -> None:
    past = st.session_state.pop(step.REFUSAL, None)
    for sentence in filter(None, (past, refused and str(refused))):
        st.markdown(f":red[:material/block:] {plain(sentence)}")
