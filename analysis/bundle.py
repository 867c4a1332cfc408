"""Everything a page shows, as files: figures, data, captions, the answer, provenance, and the line that computes it again.

One list of files serves both the zip behind a page's button and the folder that the command line writes. Names are relative;
of a stored record only the fields named here leave the machine, so no path of it can.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import analysis
from analysis import run
from analysis.contract import Figure, Headline, Run
from export import files
from export.sizes import Size, own_size
from export.sizes import size as size_named
from models.progress import Quiet
from models.refusal import Refused

RECORD = (
    "kind", "analysis", "variants", "written", "corpus", "params", "device", "key", "code", "identity", "corpus_identity", "n_tokens",
    "n_sequences", "n_inputs", "computed", "seconds", "cpu_seconds", "load_seconds", "flops", "commit", "versions",
)
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same contents give the same archive


@dataclass(frozen=True)
class Wanted:
    """Which files of each figure, and the printed size; "auto" is one column of a page, two for a wide card."""

    formats: tuple[str, ...] = files.FORMATS
    size: str = "auto"

    def size_of(self, figure: Figure) -> Size:
        return own_size(figure.wide) if self.size == "auto" else size_named(self.size)

    @staticmethod
    def here() -> Wanted:
        return Wanted(tuple(f for f in files.FORMATS if not files.unavailable(f)))


def bundle(requests: tuple[run.Request, ...], runs: list[Run], figures: list[Figure], wanted: Wanted | None = None, progress=None) -> bytes:
    """The zip of a page. `requests` are the ones the runs answer, in the same order."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents(requests, runs, figures, wanted, progress):
            archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def contents(requests: tuple[run.Request, ...], runs: list[Run], figures: list[Figure], wanted: Wanted | None = None, progress=None) -> Iterator[tuple[str, bytes]]:
    """(relative name, bytes) of every file, in a fixed order; drawing is done as they are asked for.

    A figure that cannot be drawn is left out and captions.md says why.
    """
    wanted, progress = wanted or Wanted.here(), progress or Quiet()
    lost: list[str] = []
    views = [(figure, view) for figure in figures for view in figure.views]
    for i, (figure, view) in enumerate(views):
        progress.step(i, len(views), f"drawing {figure.name}")
        yield from _drawn(figure, view, wanted, lost)
    progress.step(len(views), len(views), "drawn")
    for figure in figures:
        if "html" in wanted.formats:
            yield f"figures/{files.file_name(figure, '', 'html')}", files.html_page(figure, "")
    tables = {figure.name: figure.data for figure in figures} | _tables(requests, runs)
    for name, table in tables.items():
        for format in files.DATA:
            if format in wanted.formats:
                yield f"data/{name}.{format}", files.table_bytes(table, format)
    yield "answer.md", answer(requests, runs).encode()
    yield "captions.md", captions(figures, wanted, lost).encode()
    yield "provenance.json", json.dumps(provenance(requests, runs), indent=1, ensure_ascii=False, sort_keys=True).encode() + b"\n"
    yield "REPRODUCE.txt", reproduce(requests, runs).encode()


def _tables(requests: tuple[run.Request, ...], runs: list[Run]) -> dict:
    """What an analysis gives away besides its figures."""
    module = analysis.load(requests[0].analysis)
    return module.take_away(runs) if hasattr(module, "take_away") else {}


def _drawn(figure: Figure, view: str, wanted: Wanted, lost: list[str]) -> Iterator[tuple[str, bytes]]:
    formats = tuple(f for f in files.DRAWN if f in wanted.formats)
    if formats:
        try:
            made = files.drawn_files(figure, view, formats, wanted.size_of(figure))
        except Refused as refused:
            lost.append(f"{files.file_name(figure, view, formats[0])}: {refused}")
            return
        for format, data in made.items():
            yield f"figures/{files.file_name(figure, view, format)}", data


def provenance(requests: tuple[run.Request, ...], runs: list[Run]) -> dict:
    """What was computed, with what, and every recipe whole (parents and revisions included), so that `v/…` can be read elsewhere."""
    from importlib.metadata import version

    variants = list(dict.fromkeys(v for request in requests for v in request.variants))
    return {
        "made_by": "Microtome", "commit": run.git_commit(), "command": command(requests),
        "runs": [{"label": r.label, "subject": r.subject, **{name: r.record[name] for name in RECORD if name in r.record}} for r in runs],
        "recipes": [{"written": v.written, "recipe": v.to_json()} for v in variants],
        "exported_with": {**run.versions(), "plotly": version("plotly"), "pyarrow": version("pyarrow")},
    }


def command(requests: tuple[run.Request, ...]) -> str:
    """The one line; recipes without a short form are read from the bundle."""
    line = run.command(requests[0], requests[1] if len(requests) > 1 else None)
    unwritten = any(v.written.startswith("v/") for request in requests for v in request.variants)
    return line.replace(" --out DIR", " --recipes provenance.json --out DIR") if unwritten else line


def reproduce(requests: tuple[run.Request, ...], runs: list[Run]) -> str:
    lines = [
        f"In a checkout of Microtome at commit {runs[0].record.get('commit', 'unknown')}, in its environment:", "", f"    {command(requests)}", "",
        "Weights, by content hash of checkpoint and recipe:",
    ]
    for request, r in zip(requests, runs):
        lines += [f"    {v.written}  {identity}" for v, identity in zip(request.variants, r.record.get("identity", ()))]
    lines += ["", "shelf/… and text/… are names of files added on the machine that computed this; give the folder or file itself in their place.",
              "The same device, versions and number of threads give the same numbers; others agree to rounding."]
    return "\n".join(lines) + "\n"


def sentence(requests: tuple[run.Request, ...], runs: list[Run]) -> str:
    """The answer without markup, for a terminal."""
    return analysis.load(requests[0].analysis).answer(runs).replace("**", "")


def answer(requests: tuple[run.Request, ...], runs: list[Run]) -> str:
    """Question, answer and headline numbers, as Markdown."""
    module = analysis.load(requests[0].analysis)
    lines = [f"# {module.QUESTION}", "", module.answer(runs), ""]
    lines += [f"- {r.label}: `{r.subject}`" for r in runs if r.subject]
    lines += [f"- {read(requests[0], runs[0])}", ""]
    rows = [_row(h) for h in module.headlines(runs)]
    if rows:
        lines += ["| number | value | interval | null or note |", "|---|---|---|---|", *rows, ""]
    return "\n".join([*lines, f"    {command(requests)}", ""])


def read(request: run.Request, result: Run) -> str:
    """What went in: the corpus with its size, or the analysis's own inputs."""
    module, record = analysis.load(request.analysis), result.record
    source = f"{getattr(module, 'CORPUS_IS', 'corpus')}: `{request.corpus.written}`" if request.corpus else "inputs: the analysis’s own"
    if hasattr(module, "INPUTS"):
        source = f"{module.INPUTS}: {record.get('n_inputs', 0):,}; {source}"
    n_tokens, n_sequences = record["n_tokens"], record["n_sequences"]
    return source + (f", {n_tokens:,} tokens in {n_sequences:,} sequences" if n_tokens else f", {n_sequences:,} inputs" if n_sequences else "")


def _row(h: Headline) -> str:
    value = h.value if isinstance(h.value, str) else f"{h.value:.3g}"
    interval = "" if h.low is None or h.high is None else f"{h.low:.3g} to {h.high:.3g}"
    return f"| {h.label} | {value} {h.unit}".rstrip() + f" | {interval} | {'; '.join(filter(None, (h.null, h.note)))} |"


def captions(figures: list[Figure], wanted: Wanted, lost: list[str]) -> str:
    """Each figure's caption text for a paper, the sentence read off it, and its description for those who cannot see it."""
    lines = ["# Captions", ""]
    for figure in figures:
        names = ", ".join(dict.fromkeys(files.file_name(figure, view, f) for view in figure.views for f in (*files.DRAWN, "html") if f in wanted.formats))
        lines += [f"## {figure.title}", "", figure.caption, "", f"Reading: {figure.reading}", "", f"Alternative text: {figure.alt}", ""]
        lines += [*(f"Note: {note}" for note in notes(figure, wanted)), f"Files: {names}", ""]
    if lost:
        lines += ["## Not drawn", "", *(f"- {line}" for line in lost), ""]
    return "\n".join(lines)


def notes(figure: Figure, wanted: Wanted) -> list[str]:
    """What the printed drawings leave out, for instance cells of a large heat map."""
    from export.drawing import draw

    if not set(files.DRAWN) & set(wanted.formats):
        return []
    return list(dict.fromkeys(note for view in figure.views for note in draw(figure, view, wanted.size_of(figure)).notes))
