"""Convert a published subnetwork (a pickle of numpy masks) on your own machine: `python -m models.convert_masks in.pickle out.safetensors`.

The file may name nothing but numpy arrays: an unpickler that knows no other name reads it, so code in it is refused, not run.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from pathlib import Path

import numpy as np

from models import mask_files
from models.refusal import Refused, shown

ALLOWED = {
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in ((f"{core}.multiarray", "_reconstruct"), (f"{core}.multiarray", "scalar"), (f"{core}.numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in ALLOWED:
            raise Refused(f"The pickle asks for {shown(module, 40)}.{shown(name, 40)}, which is no numpy array; it was not opened and nothing ran.")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def convert(source: Path, target: Path) -> str:
    """Write `target` from the pickle `source`; returns one line to tell. Keys are parameter names, values boolean arrays, and
    `orig_model_name` the model."""
    if not source.is_file():
        raise Refused(f"Found no file {source}. Check the path.")
    if target.exists():
        raise Refused(f"{target} is already there. Name another file.")
    try:
        with source.open("rb") as opened:
            found = _Arrays(opened).load()
    except Refused:
        raise
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, TypeError, KeyError, IndexError, ImportError, MemoryError) as error:
        raise Refused(f"{source.name} cannot be read as a pickle of arrays ({type(error).__name__}). It is damaged or something else.") from error
    if not isinstance(found, dict):
        raise Refused(f"{source.name} holds a {type(found).__name__}; expected a table from parameter names to masks.")
    original = str(found.pop("orig_model_name", ""))
    for name, mask in found.items():
        if not (isinstance(name, str) and isinstance(mask, np.ndarray) and mask.ndim == 2 and (mask.dtype == bool or np.isin(mask, (0, 1)).all())):
            raise Refused(f"{source.name}: {shown(str(name), 80)} is not a mask of zeros and ones, rows by columns.")
    masks = {name: mask.astype(bool) for name, mask in found.items()}
    if not masks:
        raise Refused(f"{source.name} holds no masks.")
    mask_files.write(target, masks, original)
    n, total = sum(int(m.sum()) for m in masks.values()), sum(m.size for m in masks.values())
    return f"{target}: {len(masks)} masks of {shown(original, 80) or 'an unnamed model'}, {n:,} of {total:,} weights active"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m models.convert_masks", description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path, help="subnetwork_dict_….pickle")
    parser.add_argument("output", type=Path, help="the safetensors file to write")
    options = parser.parse_args(arguments)
    try:
        print(convert(options.input, options.output))
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
