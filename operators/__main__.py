"""The compression operators from a shell.

    python -m operators --list
    python -m operators export MODEL DIR [--device cpu] [--recipes provenance.json]

`export` writes a variant as a Hugging Face folder (config, safetensors, tokenizer, card) that plain transformers loads: blocks
that were removed whole are left out and a sliced stream is narrower where its architecture can be, other removed parts stay as
zeros, quantized weights and thin factors are written as the values they stand for. The folder is loaded again and its logits compared before it is called done.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from models.refusal import Refused


def main(arguments: list[str] | None = None) -> int:
    from analysis.__main__ import Options, keep_recipes

    parser = Options("python -m operators", description="List the operators, or write a variant as a Hugging Face folder.", allow_abbrev=False)
    parser.add_argument("action", nargs="?", choices=["export"])
    parser.add_argument("model", nargs="?", help="a written variant, for instance 'demo/storyteller-a~drop_layers:blocks=3'")
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR")
    parser.add_argument("--list", action="store_true", help="the operators and what they are called")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipes", type=Path, metavar="FILE", help="a bundle or its provenance.json, for models written v/…")
    given = parser.parse_args(arguments)
    if not given.list and not (given.action and given.model and given.folder):
        parser.error("give --list, or export MODEL DIR")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        if given.list:
            return listing()
        if given.recipes:
            keep_recipes(given.recipes)
        return write(given.model, given.folder, given.device)
    except Refused as refused:
        print("\n".join([str(refused), *(f"  {line}" for line in refused.details)]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the folder was not written.", file=sys.stderr)
        return 130


def listing() -> int:
    import operators

    for name, operator in operators.ALL.items():
        print(f"{name:24}{operator.TITLE}")
    return 0


def write(text: str, folder: Path, device_name: str) -> int:
    from analysis import run
    from analysis.__main__ import device
    from analysis.__main__ import model as written
    from analysis.terminal import Bar

    variant = run.variant(written(text))
    run.require_possible(variant)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder} is not an empty folder; choose another, so that two models do not mix.")
    run.bring((variant,), again=True)
    with Bar(variant.written) as bar:
        found = run.export(variant, folder, device(device_name), bar)
    print(f"{folder}: {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
