"""Every operator on a demo model, as one job: size against distance, the figure in the README.

    python -m benchmarks.frontier [--models storyteller-a] [--settings 2] [--corpus demo/mixed:16x64] [--out docs]

Each operator at the first `--settings` of the settings that it names itself (error_correction after rounding: alone it has nothing to correct),
calibrated on a small text and, where it trains, in few steps; costs are those of the page “What did
the compression cost?”, noise of the same size beside each. Where groups of 32 do not fit a matrix, 16 are taken. What is in the store is not made again;
recipes that a model cannot have are named. Writes OUT/frontier.png (of the first model) and frontier_NAME.png of others, and prints the answer with seconds of the processor.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

CALIBRATION, STEPS = "demo/mixed:train:16x64", 8
TRAINS = ("tune_heads", "subnetwork", "heal")
SMALLER = "group=16"
CORRECTED = ("round_to_nearest:bits=3~error_correction", "round_to_nearest:bits=3~error_correction:rank=32")
LIGHT = {"tune_heads": (("choose", "random"), ("on_what", "text"))}  # a scan for heads would take longer than all others together


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="storyteller-a", help="demo models, separated by commas")
    parser.add_argument("--settings", type=int, default=2)
    parser.add_argument("--corpus", default="demo/mixed:16x64")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    given = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for i, name in enumerate(given.models.split(",")):
        draw(f"demo/{name}", given, given.out / ("frontier.png" if i == 0 else f"frontier_{name}.png"))
    return 0


def draw(model: str, given, file: Path) -> None:
    from analysis import frontier, run, sweep
    from analysis.frontier import recipes
    from analysis.terminal import Bar
    from export.files import figure_file

    began, a = time.process_time(), run.variant(model)
    names = tuple(run.operators.OPERATORS)
    made, left_out = [], []
    wanted = [f"{name}:{setting}".rstrip(":") for name in names for setting in recipes.settings(run.operators.OPERATORS[name])[: given.settings]]
    for steps in (*wanted, *CORRECTED):
        found, why = possible(a, steps)
        made += [light(v) for v in found]
        left_out += why
    requests = [run.request("compression_cost", (a.written, v.written), given.corpus, {"resamples": "200"}) for v in made]
    with Bar(f"{len(made)} recipes of {model}") as bar:
        sweep.execute(sweep.spec("frontier", requests), bar)
    outcomes = sweep.outcomes(requests)
    for line in left_out + [f"{v.written}: {o.why}" for v, o in zip(made, outcomes) if o and o.state != "done"]:
        print(line, file=sys.stderr)
    points = frontier.points_of([(v, r) for v, q in zip(made, requests) if (r := run.load(q, "B")) is not None], a, lambda v: recipes.label(a, v))
    figure = frontier.figures(points, names)[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(figure_file(figure, next(iter(figure.views)), "png", "183mm"))
    print(f"{file}: {len(points)} recipes, {points[0].n_tokens:,} tokens, {time.process_time() - began:.0f} s of the processor\n{frontier.answer(points)}")


def possible(a, steps: str):
    """([the recipe], []) with smaller groups where those of the default do not fit a matrix; ([], [why]) where A cannot have it."""
    from analysis.frontier import recipes
    from models.refusal import Refused
    from models.variant import parse

    why = ""
    for groups in ("", SMALLER, f"more={SMALLER.replace('=', ':')}"):
        first, *rest = steps.split("~")
        written = "~".join([first + (f"{',' if ':' in first else ':'}{groups}" if groups else ""), *rest])
        try:
            return [recipes.on_top(a, parse(f"{a.written}~{written}").steps)], []
        except Refused as error:
            why = why or str(error)
            if "Groups of" not in why:
                break
    return [], [f"{steps}: {why}"]


def light(v):
    """The recipe on a small calibration text, where it reads text, and with few steps, where it trains; the figure says how many."""
    from analysis import run

    last = v.steps[-1]
    light_ones = {**dict(last.params), **dict(LIGHT.get(last.operator, ())), **({"steps": STEPS} if last.operator in TRAINS else {})}
    first = run.operators.canonical(replace(v, steps=(*v.steps[:-1], replace(last, params=tuple(light_ones.items())))))
    own = hasattr(run.operators.OPERATORS[last.operator], "CALIBRATION")  # it needs that text
    return first if own or not first.steps[-1].on else run.operators.canonical(replace(first, steps=(*first.steps[:-1], replace(first.steps[-1], on=CALIBRATION))))


if __name__ == "__main__":
    sys.exit(main())
