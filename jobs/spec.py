"""What a run is: plain JSON with a "kind". Its fingerprint is its id, so two people who ask the same wait for one run."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cache.fingerprint import fingerprint

QUICK = 10.0  # seconds: an estimate under this goes to the quick lane
LANES = ("quick", "batch")
BESIDE = frozenset({"estimate", "lane", "link", "owner"})  # how to run it, where it is shown and who asked first, not what it is


def home() -> Path:
    """Folder of store, jobs.sqlite, partial, logs, uploads: MICROTOME_HOME, or .microtome beside the code."""
    return Path(os.environ.get("MICROTOME_HOME") or Path(__file__).resolve().parents[1] / ".microtome")


def canonical(spec: dict) -> str:
    """One text for one spec: keys sorted, tuples as lists, nothing that JSON lacks."""
    if not isinstance(spec, dict) or not isinstance(spec.get("kind"), str):
        raise TypeError("a job's spec is a dict with a text under “kind”.")
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)


def job_id(spec: dict) -> str:
    """32 hex digits of the spec without what stands beside it."""
    asked = json.loads(canonical(spec))
    return fingerprint("job", {name: value for name, value in asked.items() if name not in BESIDE})[:32]


def lane(spec: dict) -> str:
    """`quick` where the estimate (seconds) is under ten; `batch` otherwise and where nothing is known."""
    if spec.get("lane") in LANES:
        return spec["lane"]
    seconds = spec.get("estimate")
    return "quick" if isinstance(seconds, (int, float)) and seconds < QUICK else "batch"


def subject(spec: dict) -> str:
    """What a sentence calls the run: `layer_redundancy`, or its kind."""
    return next((spec[field] for field in ("analysis", "operator", "name") if isinstance(spec.get(field), str)), spec["kind"])
