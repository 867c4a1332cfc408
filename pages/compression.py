"""How small can the model get before it changes?"""

from dataclasses import replace

import streamlit as st

import analysis
from analysis import frontier, run
from analysis.contract import module_docs
from models.refusal import Refused
from pages.lab import builder, link, plane, sweep, variants
from pages.lab.subject import COST, kept, of_a
from pages.shared import controls, frame, states, subject
from pages.shared import view as views
from pages.shared.wording import prose

module = analysis.load(COST)
frame.carry("compression")
query = {k: v for k, v in st.query_params.to_dict().items() if k not in link.OWN}
view = views.read(module, query, subject.devices())
frame.remember("compression", st.query_params.to_dict())
subject.draw(module, view)
st.title(frontier.QUESTION, anchor=False)


def lab() -> None:
    a, b = run.variant(view.a), run.variant(view.b) if view.b else None
    run.require_possible(a)
    recipe = link.recipe(st.query_params.get("recipe"))
    answer = st.container(key="answer")
    made = builder.draw(view, a, recipe)
    swept = sweep.draw(view, a, recipe.steps if made else ())
    tried = [*(k.variant for k in kept(a)), *([made] if made else []), *([b] if of_a(a, b) else []), *swept]
    found = plane.points(view, a, tried)
    if found:
        answer.markdown(prose(frontier.answer(found, view.b)))
        plane.draw(found, view.b)
        if of_a(a, b):
            plane.inside(view, a, b)
    elif not swept:
        states.empty_card("Here each variant becomes a point: across, what it takes to store; up, how far its predictions are from A’s. Make one above, or compare "
                          "the usual recipes.", lambda: st.button("Compare the usual ones", icon=":material/scatter_plot:", key="usual", on_click=controls.write_link,
                                                                  args=("sweep", ".".join(sweep.USUAL))))
    variants.past_refusal()
    if of_a(a, b):
        variants.actions(view, a, b)
    variants.draw(view, a, found)


frame.chips(module, replace(view, params={}), [])
states.notices(view.notices)
if view.refused:
    frame.refused_subject(view)
else:
    try:
        lab()
    except Refused as error:
        states.error_card("This cannot be measured", error, "request", tag="not loaded")
with st.expander("Method", icon=":material/function:"):
    st.markdown(module_docs(frontier))
subject.queue_panel()
