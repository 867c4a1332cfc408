"""The command line: the same figures and data as a page, without a browser window.

    python -m analysis --list
    python -m analysis NAME MODEL [--against MODEL] [--more MODEL …] [--corpus CORPUS] [--set param=value …] [--out DIR]
                       [--device cpu] [--formats html,svg,…] [--size 183mm] [--recipes provenance.json]

MODEL is a written variant (demo/storyteller-a~drop_layers:blocks=3), a hub id, or a folder; CORPUS a written corpus or a text
file. Writes DIR/figures, DIR/data, answer.md, captions.md, provenance.json and REPRODUCE.txt. Results come from the store when
they are there. An analysis that looks at no model takes none. Exits with 1 and one sentence when it cannot, 2 on a wrong option, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import zipfile
from pathlib import Path

from models.refusal import Refused

FOLDER = re.compile(r"(\.{0,2}/|~/)")


class Options(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        print(f"{self.prog}: {message}. See {self.prog} --help.", file=sys.stderr)
        raise SystemExit(2)


def options() -> Options:
    parser = Options("python -m analysis", description="Run an analysis and write its figures and data.", allow_abbrev=False)
    parser.add_argument("name", nargs="?", help="the analysis, see --list")
    parser.add_argument("model", nargs="?", help="a written variant, a hub id, or a folder")
    parser.add_argument("--list", action="store_true", help="the analyses and their questions")
    parser.add_argument("--against", metavar="MODEL", help="a second model, B")
    parser.add_argument("--more", metavar="MODEL", action="append", default=[], help="a third model and further ones, where the analysis takes them; may be given again")
    parser.add_argument("--corpus", help="a written corpus such as demo/stories:64x128, or a file of text, JSONL, CSV or Parquet")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="a parameter of the analysis; may be given again")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: out/NAME)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps, or offload: layers that do not fit stay on disk (default: cpu)")
    parser.add_argument("--formats", help="of pdf,svg,png,html,csv,parquet,jsonl (default: all that can be drawn here)")
    parser.add_argument("--size", default="auto", help="of PDF, SVG and PNG: 89mm, 183mm or slide (default: 89mm, 183mm for wide figures)")
    parser.add_argument("--recipes", type=Path, metavar="FILE", help="a bundle or its provenance.json, for models written v/…")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = options()
    given = parser.parse_args(arguments)
    if not given.list and not (given.name and (given.model or without_models(given.name))):
        parser.error("give the name of an analysis and a model, for instance layer_redundancy demo/storyteller-a")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return listing() if given.list else compute(given)
    except Refused as refused:
        print("\n".join([str(refused), *(f"  {line}" for line in refused.details)]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; nothing half-written is in the store.", file=sys.stderr)
        return 130


def listing() -> int:
    import analysis

    for name in analysis.ANALYSES:
        print(f"{name:24}{analysis.load(name).QUESTION}")
    return 0


def compute(given: argparse.Namespace) -> int:
    import analysis
    from analysis import bundle, run
    from analysis.terminal import Bar

    require_wanted(given)
    wanted = formats_wanted(given.formats, given.size)
    if given.recipes:
        keep_recipes(given.recipes)
    requests = run.requests(given.name, given.model and model(given.model), given.against and model(given.against), given.corpus and corpus(given.corpus),
                            settings(given.set), device(given.device), tuple(map(model, given.more)))
    out = writable(given.out or Path("out") / given.name)
    run.bring(tuple(v for request in requests for v in request.variants), again=True)
    for i, request in enumerate(requests):
        with Bar(", ".join(v.written for v in request.variants) or given.name) as bar:
            run.execute(request.to_json(), bar)
    runs = [run.load(request, "AB"[i]) for i, request in enumerate(requests)]
    figures = analysis.load(given.name).figures(runs)
    with Bar("files") as bar:
        for name, data in bundle.contents(requests, runs, figures, wanted, bar):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)
    print(bundle.sentence(requests, runs))
    print(f"{out}/answer.md, figures and data", file=sys.stderr)
    return 0


def without_models(name: str) -> bool:
    import analysis

    return name in analysis.ANALYSES and analysis.load(name).MODELS[1] == 0


def require_wanted(given: argparse.Namespace) -> None:
    """Refused where more is given than the analysis would look at."""
    import analysis

    module = analysis.load(given.name)
    _, high = module.MODELS
    if high == 0 and given.model:
        raise Refused(f"{given.name} makes its own networks and looks at no model; leave {given.model[:60]} out.")
    if given.more and high <= 2:
        raise Refused(f"{given.name} looks at no more than {'two models' if high == 2 or given.against else 'one model at a time, or two with --against'}; leave --more out.")
    if given.corpus and module.CORPUS is None:
        raise Refused(f"{given.name} brings its own inputs and reads no corpus; leave --corpus out.")


def formats_wanted(formats: str | None, size: str):
    """What to write; Refused for unknown names, and for drawn formats asked for by name where nothing can draw them."""
    from analysis.bundle import Wanted
    from export import files, sizes

    if size != "auto":
        sizes.size(size)
    if formats is None:
        here = Wanted(Wanted.here().formats, size)
        if reason := files.unavailable("pdf"):
            print(reason, file=sys.stderr)
        return here
    names = tuple(filter(None, formats.lower().split(",")))
    unknown = [name for name in names if name not in files.FORMATS]
    if unknown or not names:
        raise Refused(f"“{formats[:60]}” is not a list of formats; expected some of {','.join(files.FORMATS)}.")
    for name in names:
        if reason := files.unavailable(name):
            raise Refused(reason)
    return Wanted(tuple(f for f in files.FORMATS if f in names), size)


def model(text: str) -> str:
    """A written variant; a folder is put on the shelf first, and may be followed by steps."""
    from analysis.run import home
    from models import checkpoints

    start = 2 if text.startswith("~/") else 0
    end = text.find("~", start)
    folder, steps = (text, "") if end < 0 else (text[:end], text[end:])
    if not FOLDER.match(folder) and not (Path(folder).is_dir() and not folder.startswith(("demo/", "shelf/", "v/"))):
        return text
    return f"shelf/{checkpoints.register(folder, home())}{steps}"


def corpus(text: str) -> str:
    """A written corpus; a text file is registered first, and may be followed by its slice (notes.txt:64x128)."""
    from analysis.run import home
    from models.corpus import register_text

    path, colon, cut = text.partition(":")
    if not FOLDER.match(path) and not Path(path).is_file():
        return text
    return register_text(Path(path), home()) + colon + cut


def settings(pairs: list[str]) -> dict[str, str]:
    """Parameters as text; a value that is the path of a file or folder (./gsm8k.jsonl) is registered as a text first."""
    given: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise Refused(f"--set {pair[:60]} is not name=value.")
        if name in given:
            raise Refused(f"--set {name} is given twice.")
        given[name] = corpus(value) if FOLDER.match(value) and Path(value).expanduser().exists() else value
    return given


def device(name: str) -> str:
    """A device that this machine has."""
    match = re.fullmatch(r"cpu|offload|mps|cuda(?::(\d{1,2}))?", name)
    if not match:
        raise Refused(f"“{name[:20]}” is not a device; expected cpu, cuda, cuda:<n>, mps or offload.")
    if name not in ("cpu", "offload"):
        import torch

        count = torch.cuda.device_count() if name.startswith("cuda") else int(torch.backends.mps.is_available())
        if int(match[1] or 0) >= count:
            raise Refused(f"There is no device {name} here; {count or 'no'} of that kind found. Use --device cpu.")
    return name


def writable(out: Path) -> Path:
    """The folder, made; found out before anything is computed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink()
    except OSError as error:
        raise Refused(f"Cannot write to {out}: {error.strerror or error}; choose another --out.") from None
    return out


def keep_recipes(file: Path) -> None:
    """Make the recipes of a bundle known here, so that `v/…` can be read."""
    from analysis.run import keep_recipe
    from models.variant import Variant

    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                text = archive.read("provenance.json")
        else:
            text = file.read_bytes()
        recipes = [Variant.from_json(entry["recipe"]) for entry in json.loads(text)["recipes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{file} holds no recipes ({type(error).__name__}); expected a bundle or its provenance.json.") from None
    for recipe in recipes:
        keep_recipe(recipe)


if __name__ == "__main__":
    sys.exit(main())
