"""The compression report as one file: HTML with figures that answer the mouse, or PDF with the same figures drawn."""

from __future__ import annotations

import html
import re
import time

from analysis import run
from analysis.contract import Figure
from analysis.plots import number
from analysis.report import QUESTION, Row, Section
from analysis.theme import LIGHT, PRINT
from export import browser, files
from export.drawing import view
from export.sizes import SIZES
from models.refusal import Refused

PRINT_SECONDS = 180
CSS = """
@page {size: A4; margin: 14mm 13mm}
body {margin: 2rem auto; max-width: 1060px; padding: 0 1rem; background: #fff; color: #16202A; font: 14px/1.45 'IBM Plex Sans', 'Helvetica Neue', Arial, sans-serif;
      font-variant-numeric: tabular-nums}
h1 {font-size: 1.6rem; margin: 0 0 .3rem} h2 {font-size: 1.15rem; margin: 1.8rem 0 .2rem} h3 {font-size: 1rem; margin: 1rem 0 .2rem}
table {border-collapse: collapse; width: 100%; font-size: 12.5px} td, th {text-align: left; padding: 3px 8px 3px 0; border-bottom: 1px solid #DFE4E9; vertical-align: top}
th {color: #55626F; font-weight: 500} td.n {white-space: nowrap} .quiet {color: #55626F} code {font: 12px 'IBM Plex Mono', Menlo, monospace; overflow-wrap: anywhere}
.a {color: #005A8E} .b {color: #A84A00} .figures {display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.2rem}
figure {margin: .4rem 0 1rem; break-inside: avoid; min-width: 0} figure.wide {grid-column: 1 / -1} figcaption {max-width: 46rem; font-size: 12px} svg {max-width: 100%; height: auto}
tr, h2, h3 {break-inside: avoid; break-after: auto} h2, h3 {break-after: avoid}
@media print {body {margin: 0; max-width: none; padding: 0}}
"""


def html_page(sections: list[Section], a: str, b: str) -> bytes:
    """One file that needs no network: plotly.js is inside."""
    import plotly.offline

    plots: list[str] = []

    def place(figure: Figure, name: str) -> str:
        drawn = view(figure, name, LIGHT)
        drawn.update_layout(title=None, width=None, height=figure.height, autosize=True, paper_bgcolor=LIGHT.page)
        plots.append(drawn.to_json())
        return f'<div id="plot{len(plots) - 1}" role="img" aria-label="{html.escape(figure.alt, quote=True)}"></div>'

    body = _body(sections, a, b, place)
    script = f"const plots = [{','.join(plots)}];".replace("<", "\\u003c")
    script += 'plots.forEach((p, i) => Plotly.react("plot" + i, p.data, p.layout, {displaylogo: false, responsive: true}));'
    return _page(body, f"<script>{plotly.offline.get_plotlyjs()}</script><script>{script}</script>").encode()


def pdf(sections: list[Section], a: str, b: str) -> bytes:
    """The same on A4, figures as vectors. Refused without Chromium."""

    def place(figure: Figure, name: str) -> str:
        try:
            return files.drawn_files(figure, name, ("svg",), SIZES["183mm" if figure.wide else "89mm"], PRINT)["svg"].decode()
        except Refused as refused:
            return f'<p class="quiet">Not drawn: {html.escape(str(refused))}</p>'

    if reason := files.unavailable("pdf"):
        raise Refused(reason)
    page = _page(_body(sections, a, b, place), "")
    return browser.shared().draw({"document": page, "formats": ["pdf"]}, PRINT_SECONDS)["pdf"]


def _page(body: str, end: str) -> str:
    return f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{QUESTION}</title><style>{CSS}</style></head><body>{body}{end}</body></html>\n'


def _body(sections: list[Section], a: str, b: str, place) -> str:
    parts = [f"<h1>{QUESTION}</h1>", f'<p><b class="a">A</b> <code>{html.escape(a)}</code><br><b class="b">B</b> <code>{html.escape(b)}</code></p>', _made(sections)]
    parts.append("<h2>Headline numbers</h2>" + _table(sections))
    for section in sections:
        if section.complete:
            parts.append(_section(section, place))
    parts.append(_commands(sections))
    return "\n".join(parts)


def _made(sections: list[Section]) -> str:
    n = sum(section.complete for section in sections)
    versions = ", ".join(f"{name} {version}" for name, version in run.versions().items())
    return (f'<p class="quiet">{n} of {len(sections)} analyses gave numbers. Nothing is averaged; what gave none is a row with its reason. Intervals are 95 % where given. '
            f"Made {time.strftime('%d %b %Y')} by Microtome at commit {html.escape(run.git_commit())}; {html.escape(versions)}.</p>")


def _table(sections: list[Section]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("number", "A", "B", "B − A", "null", "n, text"))
    rows = []
    for section in sections:
        rows.append(f'<tr><th colspan="6">{html.escape(section.title)}. {html.escape(section.question)}</th></tr>')
        rows += [_row(row) for row in section.rows]
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _row(row: Row) -> str:
    if row.state != "done":
        text = f"{row.state}{': ' + row.why if row.why else ''}"
        return f'<tr><td>{html.escape(row.label)}</td><td colspan="4" class="quiet">{html.escape(text)}</td><td class="quiet">{html.escape(row.corpus)}</td></tr>'
    difference = "" if row.difference is None else number(row.difference)
    cells = (f"{html.escape(row.label)}{f' <span class=quiet>{html.escape(row.unit)}</span>' if row.unit else ''}", _value(row.a), _value(row.b), html.escape(difference), html.escape(row.null))
    notes = "; ".join(dict.fromkeys(h.note for h in (row.a, row.b) if h is not None and h.note))
    last = f'<td class="quiet">{html.escape(", ".join(filter(None, [row.n, row.corpus])))}{"<br>" + html.escape(notes) if notes else ""}</td>'
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + last + "</tr>"


def _value(headline) -> str:
    if headline is None:
        return ""
    value = headline.value if isinstance(headline.value, str) else number(headline.value)
    between = f'<br><span class="quiet">{number(headline.low)}–{number(headline.high)}</span>' if headline.low is not None and headline.high is not None else ""
    return html.escape(value) + between


def _section(section: Section, place) -> str:
    parts = [f"<h2>{html.escape(section.question)}</h2>", f"<p>{_bold(section.answer)}</p>"]
    parts.append('<div class="figures">')
    for figure, name in section.figures:
        caption = f"{html.escape(figure.reading)} <span class=quiet>{html.escape(figure.caption)}</span>"
        parts.append(f"<figure{' class=wide' if figure.wide else ''}><h3>{html.escape(figure.title)}{f' ({html.escape(name)})' if name else ''}</h3>{place(figure, name)}<figcaption>{caption}</figcaption></figure>")
    return "\n".join([*parts, "</div>"])


def _bold(text: str) -> str:
    """Markdown's bold, everything else as it is."""
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))


def _commands(sections: list[Section]) -> str:
    lines = []
    for section in sections:
        if section.complete:
            first, *others = section.requests
            lines.append(run.command(first, others[0] if others else None))
    return "<h2>The same again</h2><p><code>" + "<br>".join(html.escape(line) for line in lines) + "</code></p>" if lines else ""
