"""The kind of job that writes a variant as a Hugging Face folder under the home folder and checks it by loading it again."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from analysis import run
from cache.fingerprint import fingerprint
from models.variant import Variant


@dataclass(frozen=True)
class Taken:
    """A folder that was written: where, what it is in words, and its bytes."""

    folder: Path
    said: str
    n_bytes: int


def spec(variant: Variant, device: str = "cpu", link: dict | None = None) -> dict:
    return {"kind": "take_away", "name": "Export", "variants": [variant.to_json()], "device": device, "link": link or {}}


def execute(spec: dict, progress) -> str:
    """Write the folder unless it is there; returns the key of what is known about it."""
    variant = run.operators.canonical(Variant.from_json(spec["variants"][0]))
    run.require_possible(variant)
    key, folder = key_of(variant), folder_of(variant)
    if taken(variant) is None:
        shutil.rmtree(folder, ignore_errors=True)
        said = run.export(variant, folder, spec.get("device", "cpu"), progress)
        n_bytes = sum(file.stat().st_size for file in folder.iterdir())
        run.store().put(key, record={"kind": "export", "written": variant.written, "said": said, "bytes": n_bytes, "made": time.time()}, replace=True)
    return key


def taken(variant: Variant) -> Taken | None:
    """What was exported of it; None where nothing was, or where its folder is gone."""
    entry, folder = run.store().get(key_of(variant)), folder_of(variant)
    return Taken(folder, entry.record["said"], entry.record["bytes"]) if entry is not None and (folder / "config.json").is_file() else None


def delete(variant: Variant) -> None:
    """Remove the folder; the variant itself stays what it was."""
    shutil.rmtree(folder_of(variant), ignore_errors=True)


def key_of(variant: Variant) -> str:
    return fingerprint("export", run.lab(run.home()).identity(variant))


def folder_of(variant: Variant) -> Path:
    """Under the home folder, called after the recipe's operators and what it is."""
    steps = "-".join(step.operator for step in variant.steps)[:60]
    base = variant.base.rpartition("/")[2]
    return run.home() / "exports" / f"{base}-{steps}-{key_of(variant)[:8]}"
