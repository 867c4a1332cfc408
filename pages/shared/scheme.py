"""Figures follow the browser's light or dark scheme: switching it asks for a new run of the page, which Streamlit alone does not."""

from __future__ import annotations

from functools import lru_cache

import streamlit as st

# The page was drawn for `data.scheme`; while the browser shows the other one, say so. Brightness of the page's own background.
JS = """
export default function({ data, parentElement, setTriggerValue }) {
  const now = () => {
    const rgb = getComputedStyle(document.querySelector('.stApp') ?? document.body).backgroundColor.match(/\\d+/g);
    return rgb && rgb[0] * 0.3 + rgb[1] * 0.6 + rgb[2] * 0.1 < 128 ? 'dark' : 'light';
  };
  let told = data.scheme;
  const timer = setInterval(() => {
    const scheme = now();
    if (scheme !== told) { told = scheme; setTriggerValue('switched', scheme); }
  }, 400);
  return () => clearInterval(timer);
}
"""


@lru_cache(maxsize=1)
def _component():
    return st.components.v2.component("microtome_scheme", html="<span></span>", js=JS)


def watch(scheme: str) -> None:
    """`scheme` is what this run draws for."""
    with st.container(key="scheme"):
        _component()(key="scheme_watch", data={"scheme": scheme}, on_switched_change=lambda: None)
