"""How much may wait at once while the app serves others: runs of one visitor, and runs of all."""

from __future__ import annotations

import os
from dataclasses import dataclass

from models import shelf


@dataclass(frozen=True)
class Limits:
    """Runs that wait or run at once; None is no limit."""

    per_owner: int | None = None
    queue: int | None = None


OWN, OTHERS = Limits(), Limits(per_owner=4, queue=32)


def limits() -> Limits:
    """What holds here; MICROTOME_JOBS_PER_USER and MICROTOME_QUEUE change it."""
    default = OTHERS if shelf.public() else OWN
    chosen = lambda name, value: max(1, int(os.environ[name])) if os.environ.get(name, "").isdigit() else value
    return Limits(chosen("MICROTOME_JOBS_PER_USER", default.per_owner), chosen("MICROTOME_QUEUE", default.queue))
