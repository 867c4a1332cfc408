"""Convert a PyTorch pickle to safetensors on your own machine: `python -m models.convert in.bin out/`.

Reads with `weights_only=True` only, in the same fenced process that the app uses; no code of the file runs. nanoGPT- and
TransformerLens-style names become those of transformers where the mapping is certain. JSON and tokenizer files beside the
input are not touched: copy them into the folder yourself.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models.intake import isolate
from models.refusal import Refused

HOUR = 3_600


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m models.convert", description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path, help="a .bin, .pt or .pth file with a state dict")
    parser.add_argument("output", type=Path, help="folder to make: model.safetensors, and config.json where it can be told")
    options = parser.parse_args(arguments)
    try:
        for line in convert(options.input, options.output):
            print(line)
    except Refused as refusal:
        print(refusal, *(f"  {line}" for line in refusal.details[:20]), sep="\n", file=sys.stderr)
        return 1
    return 0


def convert(source: Path, folder: Path) -> list[str]:
    """Write `folder`/model.safetensors from the pickle `source`; returns lines to tell."""
    if not source.is_file():
        raise Refused(f"Found no file {source}. Check the path.")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "model.safetensors").exists():
        raise Refused(f"{folder}/model.safetensors is already there. Name an empty folder.")
    needed = 3 * source.stat().st_size + (2 << 30)
    done = isolate.run("convert_pickle", {"path": str(source.resolve()), "folder": str(folder.resolve())}, folder, (source,), isolate.Limits(HOUR, needed, 4 * needed))
    return done["notes"]


if __name__ == "__main__":
    sys.exit(main())
