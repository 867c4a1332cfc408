"""Where this installation keeps what it computes and what was brought to it."""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def home() -> Path:
    """Folder of store, jobs, shelf and uploads: MICROTOME_HOME, or .microtome beside the code."""
    return Path(os.environ.get("MICROTOME_HOME") or REPO / ".microtome")
