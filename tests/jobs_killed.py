"""Kill a training job at every sync and rename that it does, resume it each time, and compare with an uninterrupted run.

Run as a program: python -m tests.jobs_killed FOLDER EVERY (1: at each call). A process of its own, because children are forked after torch is
imported and before autograd has run. Prints one line per kill: step reached, steps resumed from, equal or not.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import torch  # noqa: F401  imported once, for all children

from cache.fingerprint import fingerprint
from cache.store import Store
from jobs.progress import JobProgress
from jobs.table import Table
from tests.jobs_kinds import train

fork = multiprocessing.get_context("fork")
SPEC = {"kind": "train", "name": "t", "seed": 3}


def run(home: Path, deadly_call: int | None) -> None:
    """As a worker does it: settle what the last one left, claim, compute, finish; die at the given system call."""
    os.environ["MICROTOME_HOME"] = str(home)
    table = Table(home)
    assert table.lease("batch")
    table.submit(SPEC)
    job = table.claim("batch", os.getpid())
    calls = [0]
    nothing = lambda descriptor: None  # a killed process loses nothing that the system has taken over, and disks are slow
    os.fsync, os.replace, os.rename = (_deadly(real, calls, deadly_call) for real in (nothing, os.replace, os.rename))
    with JobProgress(table, job.id) as progress:
        key = train(job.spec, progress)
    table.done(job.id, key)


def _deadly(real, calls: list[int], nth: int | None):
    def call(*arguments, **named):
        calls[0] += 1
        if calls[0] == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    return call


def child(home: Path, deadly_call: int | None) -> int:
    process = fork.Process(target=run, args=(home, deadly_call))
    process.start()
    process.join(120)
    return process.exitcode


def result(home: Path) -> bytes | None:
    entry = Store(home / "store").get(fingerprint("train", "t"))
    return None if entry is None else (entry.path / "arrays.safetensors").read_bytes() + repr(entry.record["losses"]).encode()


def main(folder: Path, every: int) -> int:
    assert child(folder / "whole", None) == 0
    expected = result(folder / "whole")
    print("whole", len(expected))
    for call in range(1, 1000, every):
        home = folder / str(call)
        code = child(home, call)
        if code == 0:
            return 0  # it does not do that many
        assert code == -signal.SIGKILL and result(home) in (None, expected), "a part of a result was visible"
        reached = Table(home).queue()[0].i
        assert child(home, None) == 0
        begun = (home / "ran").read_text().split("train from ")[-1].strip()
        print(reached, begun, "equal" if result(home) == expected else "DIFFERENT")
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
