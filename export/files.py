"""The files of one figure: PDF, SVG and PNG at a printed size, interactive HTML, and the data as CSV, Parquet and JSONL."""

from __future__ import annotations

import html
import io
import json
import math
import re

import pyarrow as pa

from analysis.contract import Figure
from analysis.theme import LIGHT, PRINT, Theme
from export import browser
from export.drawing import Drawing, chosen, draw, view
from export.sizes import SIZES, Size, size
from models.refusal import Refused

DRAWN = ("pdf", "svg", "png")  # these need Chromium
DATA = ("parquet", "csv", "jsonl")
FORMATS = (*DRAWN, "html", "csv", "parquet", "jsonl")
DOTS_PER_INCH = 300
MIME = {"pdf": "application/pdf", "svg": "image/svg+xml", "png": "image/png", "html": "text/html", "csv": "text/csv",
        "parquet": "application/vnd.apache.parquet", "jsonl": "application/jsonl"}


def unavailable(format: str) -> str:
    """Why a format cannot be had here and what to do, or ""."""
    return browser.MISSING if format in DRAWN and browser.find() is None else ""


def file_name(figure: Figure, view: str, format: str) -> str:
    """`spans-b-minus-a.pdf`; only drawn files carry the view: HTML holds all views, and a figure's data is one table."""
    words = view.replace("−", " minus ").replace("→", " to ").lower()
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-")
    stem = figure.name if format not in DRAWN or not slug else f"{figure.name}-{slug}"
    return f"{stem}.{format}"


def figure_file(figure: Figure, view: str, format: str, size_name: str = "89mm", theme: Theme = PRINT) -> bytes:
    """One file, as a download button needs it."""
    if format not in FORMATS:
        raise Refused(f"“{str(format)[:20]}” is not a format; expected one of {', '.join(FORMATS)}.")
    if format in DRAWN:
        return drawn_files(figure, view, (format,), size(size_name), theme)[format]
    if format == "html":
        return html_page(figure, view, theme if theme.name == "dark" else LIGHT)
    return table_bytes(figure.data, format)


def table_bytes(table: pa.Table, format: str) -> bytes:
    """A table in one of DATA."""
    return {"csv": csv_bytes, "parquet": parquet_bytes, "jsonl": jsonl_bytes}[format](table)


def drawn_files(figure: Figure, view: str, formats: tuple[str, ...], size: Size = SIZES["89mm"], theme: Theme = PRINT) -> dict[str, bytes]:
    """The asked ones of PDF, SVG and PNG, drawn once. Refused where Chromium is missing or fails."""
    return browser.shared().draw(job(draw(figure, view, size, theme), figure.title, formats))


def job(drawing: Drawing, title: str, formats: tuple[str, ...]) -> dict:
    """A drawing as the line that export.process reads."""
    sheet = drawing.page
    return {
        "figure": drawing.figure.to_json(), "title": title, "formats": list(formats), "dpi": DOTS_PER_INCH,
        "width_px": sheet.width_px, "height_px": sheet.height_px, "width_mm": sheet.width_mm, "height_mm": sheet.height_mm,
    }


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>body{{margin:2rem auto;max-width:{width}px;padding:0 1rem;background:{page};color:{text};font:15px/1.5 'IBM Plex Sans','Helvetica Neue',Arial,sans-serif}}
h1{{font-size:1.1rem;font-weight:600}} p{{max-width:46rem}} label{{margin-right:1rem}}</style></head>
<body><figure style="margin:0"><h1>{title}</h1><form>{choices}</form>
<div id="plot" role="img" aria-label="{alt}"></div>
<figcaption><p>{reading}</p><p>{caption}</p></figcaption></figure>
<script>{plotly}</script>
<script>const views = {views};
const show = i => Plotly.react("plot", views[i].data, views[i].layout, {{displaylogo: false, responsive: true}});
document.querySelectorAll("input").forEach(choice => choice.onchange = () => show(choice.value));
show({first});</script></body></html>
"""


def html_page(figure: Figure, name: str, theme: Theme = LIGHT) -> bytes:
    """The interactive figure, all its views, in one file that needs no network: plotly.js is inside. Opens at view `name`."""
    import plotly.offline

    drawn = {each: view(figure, each, theme) for each in figure.views}
    for plot in drawn.values():
        plot.update_layout(title=None, width=None, height=figure.height, autosize=True, paper_bgcolor=theme.page)
    first = list(figure.views).index(chosen(figure, name))
    checked = lambda i: " checked" if i == first else ""
    choices = [f'<label><input type="radio" name="view" value="{i}"{checked(i)}> {html.escape(each)}</label>' for i, each in enumerate(drawn)]
    words = {key: html.escape(value) for key, value in dict(title=figure.title, alt=figure.alt, reading=figure.reading, caption=figure.caption).items()}
    return PAGE.format(
        plotly=plotly.offline.get_plotlyjs(), first=first, choices="".join(choices) if len(drawn) > 1 else "",
        views=f"[{','.join(plot.to_json() for plot in drawn.values())}]".replace("<", "\\u003c"),
        width=1090 if figure.wide else 760, page=theme.page, text=theme.text, **words,
    ).encode()


def csv_bytes(table: pa.Table) -> bytes:
    """All rows as CSV (RFC 4180, UTF-8, header); numbers read back equal, lists are JSON, a missing value is an empty field."""
    import pyarrow.csv

    out = io.BytesIO()
    pyarrow.csv.write_csv(pa.table({name: _flat(table[name]) for name in table.column_names}), out)
    return out.getvalue()


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_nested(column.type):
        return pa.array([None if v is None else json.dumps(v) for v in column.to_pylist()], pa.string())
    return column


def jsonl_bytes(table: pa.Table) -> bytes:
    """One JSON object a row, UTF-8; a missing value, or a number that JSON does not have, is null."""
    plain = lambda v: None if isinstance(v, float) and not math.isfinite(v) else v
    rows = (row for batch in table.to_batches(max_chunksize=1024) for row in batch.to_pylist())
    return "".join(json.dumps({k: plain(v) for k, v in row.items()}, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet_bytes(table: pa.Table) -> bytes:
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out, compression="zstd")
    return out.getvalue()
