"""The compression report from a shell: every analysis on A and B, headline numbers and difference figures on one page.

    python -m analysis.report MODEL --against MODEL [--only NAME …] [--out DIR] [--device cpu]

Writes DIR/report.html, report.pdf (where Chromium is) and report.csv. What is in the store is not computed again; an analysis that is
refused, does not apply or fails is a row with the reason, and does not end the others.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from models.refusal import Refused


def main(arguments: list[str] | None = None) -> int:
    from analysis.__main__ import Options

    parser = Options("python -m analysis.report", description="Run every analysis on a model and on a variant of it.", allow_abbrev=False)
    parser.add_argument("model", help="A: a written variant, a hub id, or a folder")
    parser.add_argument("--against", metavar="MODEL", required=True, help="B, usually a compressed A")
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="an analysis, see python -m analysis --list; may be given again")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("out/report"))
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return write(given)
    except Refused as refused:
        print("\n".join([str(refused), *(f"  {line}" for line in refused.details)]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; what was finished is in the store.", file=sys.stderr)
        return 130


def write(given) -> int:
    import analysis
    from analysis import report, run, sweep
    from analysis.__main__ import device, model, writable
    from analysis.report.rows import requests, table
    from analysis.terminal import Bar
    from export import files
    from export import report as pages

    for name in given.only:
        analysis.load(name)
    a, b = (run.keep_recipe(run.variant(model(text))) for text in (given.model, given.against))
    out = writable(given.out)
    asked = report.ask(a, b, tuple(given.only), device(given.device))
    with Bar(f"{a} → {b}") as bar:
        sweep.execute(sweep.spec("report", requests(asked)), bar)
    sections = report.read(asked)
    (out / "report.html").write_bytes(pages.html_page(sections, a, b))
    (out / "report.csv").write_bytes(files.csv_bytes(table(sections)))
    if reason := files.unavailable("pdf"):
        print(reason, file=sys.stderr)
    else:
        (out / "report.pdf").write_bytes(pages.pdf(sections, a, b))
    for section in sections:
        for row in section.rows:
            if row.state != "done":
                print(f"{section.name}: {row.state}{': ' + row.why if row.why else ''}")
    print(f"{sum(s.complete for s in sections)} of {len(sections)} analyses gave numbers; {out}/report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
