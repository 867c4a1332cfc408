"""How fast this machine was at something last time, for estimates: `rates.json` in the home folder, a mean that forgets."""

from __future__ import annotations

import json
import os
from pathlib import Path

FIRST_GUESS = 3e10  # FLOPs per second of one slow core, before anything was measured on this machine


def rates(home: Path) -> dict[str, float]:
    file = home / "rates.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def remember(home: Path, name: str, rate: float) -> None:
    """`rate` in work per second; the latest counts one half."""
    known = rates(home)
    known[name] = 0.5 * known.get(name, rate) + 0.5 * rate
    file = home / "rates.json"
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(known))
    temporary.replace(file)
