"""Many recipes at once: which operators, at which of their settings, with how many calibration seeds; one job, resumable."""

from __future__ import annotations

import streamlit as st

import operators
from analysis import run, sweep
from analysis.frontier.recipes import variants
from jobs import client
from jobs.spec import job_id
from models.variant import Step, Variant
from pages.lab import link, subject
from pages.lab.waiting import wait_for
from pages.shared import controls, queue, states
from pages.shared.view import View
from pages.shared.wording import duration, plain

USUAL = ("round_to_nearest", "gptq", "magnitude", "wanda", "sparsegpt", "low_rank", "drop_layers")


def chosen() -> tuple[str, ...]:
    """The operators that the link names; unknown ones are left out."""
    return tuple(name for name in st.query_params.get("sweep", "").split(".") if name in operators.OPERATORS)


def draw(view: View, a: Variant, recipe: tuple[Step, ...]) -> list[Variant]:
    """The bar of the sweep; returns its variants, whether measured or not."""
    names, seeds = chosen(), link.seeds()
    before = recipe if st.query_params.get("after") == "true" else ()
    heal = st.query_params.get("heal") == "true"
    made, left_out = variants(a, before, names, seeds, heal)
    requests = [subject.request(view, a, v) for v in made]
    outcomes = sweep.outcomes(requests) if requests else []
    missing = [r for r, outcome in zip(requests, outcomes) if outcome is None or outcome.state == "failed"]
    spec = sweep.spec(f"Frontier of {a.label}", requests, {"page": "compression", "query": st.query_params.to_dict()})
    job = _job(spec) if requests else None
    with st.container(border=True, key="sweep"):
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            _controls(names, seeds, bool(recipe), bool(before), heal)
            st.space("stretch")
            if requests and not (job and job.active):
                _go(spec, requests, missing)
        if job is not None and job.active:
            wait_for([job], "sweep", sweep.PARTS)
        not_made = [*left_out, *(f"{r.variants[1].written}: {o.why}" for r, o in zip(requests, outcomes) if o and o.state != "done")]
        if not_made:
            with st.popover(f"{len(not_made)} left out", type="tertiary", icon=":material/block:"):
                st.markdown("\n".join(f"- {plain(line)}" for line in not_made), width=560)
    if job is not None and job.failed:
        states.error_card("The comparison did not finish", job.job.error, "sweep", job.job.details)
    return made


def _job(spec: dict) -> queue.Standing | None:
    job = client.status(job_id(spec))
    return None if job is None else queue.Standing(job)


def _controls(names: tuple[str, ...], seeds: int, recipe: bool, after: bool, heal: bool) -> None:
    with st.popover(f"Compare {len(names)} operators" if names else "Compare operators", icon=":material/scatter_plot:", key="sweep_choice"), st.container(width=460):
        st.caption("Each at the settings that it names itself or, where it names none, around its default.")
        st.multiselect("Operators", list(operators.OPERATORS), format_func=lambda n: operators.OPERATORS[n].TITLE, key=controls.seed("sweep_operators", list(names)), on_change=_choose)
        st.button("The usual ones", key="sweep_usual", type="tertiary", on_click=controls.write_link, args=("sweep", ".".join(USUAL)))
        if recipe:
            st.toggle("After the recipe above", key=controls.seed("sweep_after", after), on_change=_after, help="Each operator comes as a further step of the recipe being built.")
        st.toggle("Each also healed", key=controls.seed("sweep_heal", heal), on_change=_heal, help="Every recipe once more with a healing step after it, joined to the one without.")
    st.selectbox("Seeds", range(1, link.MOST_SEEDS + 1), format_func=lambda n: f"{n} calibration seed{'s' * (n > 1)}", key=controls.seed("sweep_seeds", seeds),
                 label_visibility="collapsed", width=190, on_change=_seed, help="A recipe that reads text is made once for each, on other text from the same source; the bars show the range.")


def _choose() -> None:
    controls.write_link("sweep", ".".join(st.session_state["sweep_operators"]) or None)


def _after() -> None:
    controls.write_link("after", "true" if st.session_state["sweep_after"] else None)


def _heal() -> None:
    controls.write_link("heal", "true" if st.session_state["sweep_heal"] else None)


def _seed() -> None:
    n = st.session_state["sweep_seeds"]
    controls.write_link("seeds", str(n) if n > 1 else None)


def _go(spec: dict, requests: list[run.Request], missing: list[run.Request]) -> None:
    if not missing:
        st.badge(f"all {len(requests)} measured", icon=":material/database:", color="green")
        return
    seconds = sum(run.estimate(r).seconds for r in missing)
    st.caption(f"{len(missing)} of {len(requests)} to make, about {duration(seconds)}", width="content")
    st.button("Compare them", type="primary", icon=":material/play_arrow:", key="sweep_go", on_click=queue.ask, args=({**spec, "estimate": seconds, "lane": "batch"},))
