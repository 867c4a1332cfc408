"""Many recipes on one plane from a shell: made, measured against the original, and drawn; what is stored is not computed again.

    python -m analysis.frontier MODEL [--operators gptq,wanda,…] [--seeds 3] [--heal] [--corpus CORPUS] [--out DIR] [--device cpu]

Writes DIR/figures and DIR/data like python -m analysis, and the answer. Recipes that this model cannot have are left out and named.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from models.refusal import Refused


def main(arguments: list[str] | None = None) -> int:
    from analysis.__main__ import Options

    parser = Options("python -m analysis.frontier", description="Compare many compression recipes of one model.", allow_abbrev=False)
    parser.add_argument("model", help="A: a written variant, a hub id, or a folder")
    parser.add_argument("--operators", help="names separated by commas, see python -m operators --list (default: all)")
    parser.add_argument("--seeds", type=int, default=1, choices=range(1, 6), help="calibration seeds of each recipe that reads text")
    parser.add_argument("--heal", action="store_true", help="each recipe once more with a healing step after it")
    parser.add_argument("--corpus", help="the text to measure on (default: that of compression_cost)")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("out/frontier"))
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return compare(given)
    except Refused as refused:
        print("\n".join([str(refused), *(f"  {line}" for line in refused.details)]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the recipes that were finished are in the store.", file=sys.stderr)
        return 130


def compare(given) -> int:
    from analysis import frontier, run, sweep
    from analysis.__main__ import corpus, device, model, writable
    from analysis.frontier import recipes
    from analysis.terminal import Bar
    from export import files

    a = run.variant(model(given.model))
    run.require_possible(a)
    names = tuple(filter(None, given.operators.split(","))) if given.operators else tuple(run.operators.OPERATORS)
    unknown = [name for name in names if name not in run.operators.OPERATORS]
    if unknown:
        raise Refused(f"There is no operator “{unknown[0][:40]}”; known: {', '.join(run.operators.OPERATORS)}.")
    out = writable(given.out)
    made, left_out = recipes.variants(a, (), names, given.seeds, given.heal)
    requests = [run.request("compression_cost", (run.keep_recipe(a), run.keep_recipe(v)), given.corpus and corpus(given.corpus), {}, device(given.device)) for v in made]
    with Bar(f"{len(made)} recipes of {a.written}") as bar:
        sweep.execute(sweep.spec("frontier", requests), bar)
    for line in left_out + [f"{v.written}: {o.why}" for v, o in zip(made, sweep.outcomes(requests)) if o and o.state != "done"]:
        print(line, file=sys.stderr)
    points = frontier.points_of([(v, r) for v, request in zip(made, requests) if (r := run.load(request, "B")) is not None], a, lambda v: recipes.label(a, v))
    if not points:
        raise Refused("None of these recipes could be made of this model; the reasons are above.")
    for figure in frontier.figures(points, tuple(run.operators.OPERATORS)):
        for folder, fmt in (("figures", "html"), ("data", "csv"), *([("figures", "pdf")] if not files.unavailable("pdf") else [])):
            (out / folder).mkdir(parents=True, exist_ok=True)
            (out / folder / files.file_name(figure, "", fmt)).write_bytes(files.figure_file(figure, "", fmt, "183mm"))
    print(frontier.answer(points).replace("**", ""))
    print(f"{out}/figures and data", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
