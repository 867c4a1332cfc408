"""The kind of job behind the checkpoints page: one question about a checkpoint, answered by models.examine."""

from __future__ import annotations

from jobs.spec import home
from models import examine


def execute(spec: dict, progress) -> str:
    """Compute what the spec asks unless it is stored; returns the key of the answer."""
    return examine.execute(spec, home(), progress)
