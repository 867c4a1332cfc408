"""What this answers, and how to read it."""

import streamlit as st

import analysis
import operators
from analysis.contract import module_docs

st.title("What this answers, and how", anchor=False)
with st.container(key="answer"):
    st.markdown(
        "Microtome looks inside a transformer, compresses it, and shows what the compression did to the model’s internals. "
        "Choose a model A in the sidebar; choose a B to compare with it. The difference is always **B − A**."
    )

st.markdown("##### Questions")
for name in analysis.ANALYSES:
    module = analysis.load(name)
    with st.container(border=True, key=f"question_{name}"):
        st.page_link(f"{name}.py", label=module.QUESTION)
        with st.expander("Method", icon=":material/function:"):
            st.markdown(module_docs(module))

st.markdown("##### Ways to make a smaller model")
for name, operator in operators.OPERATORS.items():
    with st.expander(f"{operator.TITLE} · `{name}`"):
        st.markdown(module_docs(operator))

st.markdown("##### How to read a page")
st.markdown(
    """
- **A is blue with round marks, B is vermilion with diamonds.** Grey bands and dashed grey lines are nulls and controls: what luck, a shuffled score
  or a random choice would give.
- **Everything is in the link.** Model, text, parameters and chosen views; send it, and the other browser shows the same page. Each page ends with the
  one line that computes it again without a browser.
- **Numbers come from the store** while nothing that could change them has changed: weights, text, parameters, or the code that measures. A changed
  parameter leaves the old figures in place, pale, until the new ones are measured.
- **A model is written as a recipe**: `demo/storyteller-a~drop_layers:blocks=3` is that checkpoint with block 3 removed. `owner/name@revision` is a model of
  a hub, `shelf/…` a folder you opened.
- **A corpus is written** `source:split:<n>x<length>:seed<k>`, for instance `demo/stories:128x64`.
- A closed tab stops nothing. Cancel does, and what was measured until then is kept for the next run.
"""
)
