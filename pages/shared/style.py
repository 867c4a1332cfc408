"""What the theme file cannot say: logo, and the few rules of CSS. All hang on `key=` classes or data-testid."""

from __future__ import annotations

import streamlit as st

from pages.shared import scheme

INK = {"light": ("#16202A", "#0072B2"), "dark": ("#E3E8ED", "#3D9CDB")}
_SECTIONS = '<path d="M2 4.5h17M2 19.5h17" stroke="{ink}" stroke-width="2.4"/><path d="M8 12h17" stroke="{blue}" stroke-width="3.2"/>'
# "Microtome" in IBM Plex Sans SemiBold (SIL Open Font License), drawn as a path: an image does not see the page's fonts
_WORD = (
    "M37.6 19V5.7H40.3L42.3 9.5L43.8 12.2H43.8L45.2 9.5L47.2 5.7H50V19H47.6V11.7V9.6H47.5L46.5 11.6L43.8 16.6L41 11.6L40 "
    "9.5H39.9V11.7V19Z M54.1 7.6Q53.4 7.6 53.1 7.3Q52.7 6.9 52.7 6.4V6Q52.7 5.5 53.1 5.2Q53.4 4.8 54.1 4.8Q54.9 4.8 55.2 5.2Q55.6 5.5 "
    "55.6 6V6.4Q55.6 6.9 55.2 7.3Q54.9 7.6 54.1 7.6Z M52.9 19V9.1H55.4V19Z M62.1 19.2Q59.9 19.2 58.7 17.8Q57.5 16.4 57.5 14Q57.5 11.6 "
    "58.7 10.3Q59.9 8.9 62.1 8.9Q63.6 8.9 64.5 9.5Q65.5 10.2 66 11.4L64 12.3Q63.8 11.6 63.3 11.2Q62.8 10.8 62.1 10.8Q61.1 10.8 60.5 "
    "11.4Q60 12.1 60 13.1V15Q60 16 60.5 16.6Q61.1 17.3 62.1 17.3Q62.9 17.3 63.4 16.8Q63.9 16.4 64.2 15.7L66 16.6Q65.5 17.9 64.5 "
    "18.6Q63.5 19.2 62.1 19.2Z M70.3 19H67.9V9.1H70.3V11.1H70.4Q70.6 10.6 70.9 10.1Q71.2 9.7 71.7 9.4Q72.3 9.1 73.1 "
    "9.1H73.6V11.4H72.8Q72 11.4 71.4 11.5Q70.9 11.7 70.6 12Q70.3 12.4 70.3 12.9Z M79.3 19.2Q77.9 19.2 76.9 18.6Q75.8 18 75.3 16.8Q74.7 "
    "15.6 74.7 14Q74.7 12.4 75.3 11.3Q75.8 10.1 76.9 9.5Q77.9 8.9 79.3 8.9Q80.7 8.9 81.8 9.5Q82.8 10.1 83.4 11.3Q83.9 12.4 83.9 14Q83.9 "
    "15.6 83.4 16.8Q82.8 18 81.8 18.6Q80.7 19.2 79.3 19.2Z M79.3 17.3Q80.3 17.3 80.8 16.7Q81.4 16.1 81.4 15V13.1Q81.4 12 80.8 11.4Q80.3 "
    "10.8 79.3 10.8Q78.4 10.8 77.8 11.4Q77.2 12 77.2 13.1V15Q77.2 16.1 77.8 16.7Q78.4 17.3 79.3 17.3Z M90.9 19H89.2Q87.9 19 87.3 "
    "18.3Q86.6 17.7 86.6 16.5V11H85.1V9.1H85.9Q86.4 9.1 86.6 8.8Q86.8 8.6 86.8 8.1V6.4H89V9.1H91.1V11H89V17.1H90.9Z M97.1 19.2Q95.7 "
    "19.2 94.7 18.6Q93.6 18 93.1 16.8Q92.5 15.6 92.5 14Q92.5 12.4 93.1 11.3Q93.6 10.1 94.7 9.5Q95.7 8.9 97.1 8.9Q98.5 8.9 99.6 "
    "9.5Q100.6 10.1 101.2 11.3Q101.7 12.4 101.7 14Q101.7 15.6 101.2 16.8Q100.6 18 99.6 18.6Q98.5 19.2 97.1 19.2Z M97.1 17.3Q98.1 17.3 "
    "98.6 16.7Q99.2 16.1 99.2 15V13.1Q99.2 12 98.6 11.4Q98.1 10.8 97.1 10.8Q96.2 10.8 95.6 11.4Q95.1 12 95.1 13.1V15Q95.1 16.1 95.6 "
    "16.7Q96.2 17.3 97.1 17.3Z M106.3 19H103.9V9.1H106.3V10.7H106.4Q106.7 10 107.3 9.4Q108 8.9 109.1 8.9Q110.1 8.9 110.8 9.3Q111.6 9.8 "
    "111.9 10.8H112Q112.2 10 113 9.4Q113.8 8.9 115 8.9Q116.4 8.9 117.2 9.9Q118 10.9 118 12.7V19H115.6V13Q115.6 11.9 115.2 11.4Q114.8 "
    "10.8 114 10.8Q113.5 10.8 113.1 11Q112.7 11.2 112.4 11.6Q112.2 11.9 112.2 12.4V19H109.7V13Q109.7 11.9 109.3 11.4Q108.9 10.8 108.1 "
    "10.8Q107.7 10.8 107.3 11Q106.8 11.2 106.6 11.6Q106.3 11.9 106.3 12.4Z M124.7 19.2Q123.3 19.2 122.2 18.6Q121.2 18 120.6 16.8Q120.1 "
    "15.6 120.1 14Q120.1 12.5 120.6 11.3Q121.2 10.1 122.2 9.5Q123.2 8.9 124.7 8.9Q126.2 8.9 127.2 9.5Q128.2 10.2 128.7 11.4Q129.2 12.5 "
    "129.2 13.9V14.6H122.6V14.9Q122.6 16 123.2 16.6Q123.8 17.3 125 17.3Q125.9 17.3 126.5 16.9Q127.1 16.5 127.5 15.9L128.9 17.4Q128.2 "
    "18.2 127.2 18.7Q126.1 19.2 124.7 19.2Z M124.7 10.7Q124.1 10.7 123.6 11Q123.1 11.3 122.9 11.8Q122.6 12.3 122.6 "
    "13V13.1H126.7V13Q126.7 12.3 126.4 11.8Q126.2 11.3 125.8 11Q125.3 10.7 124.7 10.7Z "
)

RULES = """
[data-testid="stMainBlockContainer"] {padding-left: 2rem; padding-right: 2rem; max-width: 1360px}
.st-key-answer p {font-size: 1.2rem; line-height: 1.5; max-width: 74ch}
[data-testid="stMetric"], [data-testid="stMarkdown"], table {font-variant-numeric: tabular-nums}
[class*="st-key-foot_"] button {padding: 0 .55rem 0 0; min-height: 1.75rem; font-size: .867rem}
[class*="st-key-foot_"] button p {font-size: .867rem}
[data-testid="stLayoutWrapper"]:has(> [class*="st-key-foot_"]) {margin-top: auto}
[class*="st-key-stale_"] {opacity: .38}
[class*="st-key-head_"] {min-height: 2.6rem}
[class*="st-key-head_"] {flex-wrap: wrap}
[class*="st-key-head_"] > :first-child {min-width: min(14rem, 100%)}
[class*="st-key-head_"] h5 {padding: 0 0 1rem; line-height: 1.3}
[class*="st-key-head_"] [data-testid="stButtonGroup"] button {padding: 0 .55rem; min-height: 1.75rem}
[class*="st-key-head_"] [data-testid="stButtonGroup"] p {font-size: .867rem}
[data-testid="stStatusWidget"] {display: none}
[data-testid="stLayoutWrapper"]:has(> .st-key-scheme) {position: absolute; height: 0; overflow: hidden}
"""
DARK_RULES = '[data-testid="stBaseButton-primary"]:enabled, [data-testid="stBaseButton-primary"]:enabled * {color: #10151A}'


def theme() -> str:
    """The scheme the browser shows now, "light" or "dark"."""
    return "dark" if st.context.theme.type == "dark" else "light"


def draw() -> None:
    """Logo and rules, once per run, before the page."""
    st.logo(logo(theme()), size="large")
    scheme.watch(theme())
    st.html(f"<style>{RULES}{DARK_RULES if theme() == 'dark' else ''}</style>")


def logo(scheme: str) -> str:
    ink, blue = INK[scheme]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 136 26" width="136" height="26">'
        f'{_SECTIONS.format(ink=ink, blue=blue)}<path d="{_WORD}" fill="{ink}"/></svg>'
    )


def icon() -> str:
    """The mark alone, for the browser's tab, as a data URI."""
    from urllib.parse import quote

    mark = _SECTIONS.format(ink="#16202A", blue="#0072B2")
    return "data:image/svg+xml," + quote(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 27 24">{mark}</svg>')
