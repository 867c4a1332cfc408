"""The self-check of a model: does what was loaded behave like one?"""

from __future__ import annotations

import streamlit as st

from models.examine import Ask
from pages.checkpoint import working
from pages.checkpoint.names import in_markdown
from pages.checkpoint.subject import Subject
from pages.shared.wording import bind, number


def draw(subject: Subject) -> None:
    st.markdown("##### Does it behave like a model?")
    found = working.answer(Ask("selfcheck", subject.source), "the self-check", "selfcheck")
    if found is None:
        st.caption("Loads it in a worker and checks: finite logits, attention rows that sum to one, the module map, perplexity against chance, and the same logits through TransformerLens.")
        return
    check, bridge = found.record["check"], found.record["bridge"]
    st.badge("passed" if found.record["passed"] else "not passed", color="green" if found.record["passed"] else "red", icon=":material/check:" if found.record["passed"] else ":material/close:")
    lens = f"the largest difference of a logit between the plain model and its bridge is {number(bridge)}." if bridge is not None else in_markdown(found.record["no_bridge"], 300)
    st.markdown("\n".join(f"- {bind(line)}" for line in (*(in_markdown(line, 400) for line in check["lines"]), f"TransformerLens: {lens}")))
