"""What a page says to the engine: submit, status, cancel, queue. Cheap enough for every rerun; nothing heavy is imported.

    id = client.submit({"kind": "analysis", …, "estimate": 3.2})
    job = client.status(id)      # job.state, .i, .n, .message, .seconds_left, .live, .error, .result_key, …
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from jobs.limits import limits
from jobs.spec import home as default_home
from jobs.table import Job, Table


def submit(spec: dict, home: Path | None = None) -> str:
    """Ask for a run and get its id; a run of the same spec that waits or runs is joined, a finished one queued again.
    `estimate` (seconds) in the spec decides the lane; it and `owner` are no part of the id. Refused in words where the owner, or
    everybody together, has as much waiting as jobs.limits allows."""
    return _table(home).submit(spec, limits())


def status(id: str, home: Path | None = None) -> Job | None:
    """The job as of 0.2 s ago; None for an id that this home does not know."""
    return _table(home).status(id)


def cancel(id: str, home: Path | None = None) -> None:
    _table(home).cancel(id)


def resumable(id: str, home: Path | None = None) -> bool:
    """Whether an interrupted run of it left a state to go on from."""
    folder = _table(home).partial(id)
    return folder.is_dir() and any(folder.iterdir())


def queue(home: Path | None = None) -> list[Job]:
    """Running and waiting jobs, in the order they are taken."""
    return _table(home).queue()


def history(limit: int = 50, home: Path | None = None) -> list[Job]:
    """Finished jobs, latest first."""
    return _table(home).history(limit)


def _table(home: Path | None) -> Table:
    return _opened(Path(home or default_home()).resolve())


@lru_cache(maxsize=16)
def _opened(home: Path) -> Table:
    return Table(home)
