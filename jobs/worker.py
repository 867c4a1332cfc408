"""The process that computes: python -m jobs.worker --lane quick|batch [--home DIR] [--kinds module:NAME] [--linger SECONDS]

One job at a time, which is what keeps two people's hooks on one model apart. It takes the lane's lease first and imports
the heavy libraries after, so that a second worker of the lane leaves at once.

It ends by itself when its home folder is gone, when the program was edited (the app starts a new one), or when no
app has been open on the home for a while and nothing is queued.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from cache.fingerprint import outdated  # first of the project's, so that it sees the others being imported

KINDS = {  # kind of a spec -> (module, function of (spec, progress) -> key of the result)
    "analysis": ("analysis.run", "execute"),
    "sweep": ("analysis.sweep", "execute"),
    "take_away": ("jobs.take_away", "execute"),
    "checkpoint": ("jobs.checkpoint", "execute"),
}

POLL = 0.1  # seconds between two looks at the queue
BEAT = 1.0  # seconds between two heartbeats
LOOK = 3.0  # seconds between two looks at home, apps and program
LINGER = 60.0  # seconds a worker waits for its app to come back
NICENESS = 10  # of the batch lane, so that a long training never slows a page

log = logging.getLogger("jobs.worker")


def main(arguments: list[str] | None = None) -> int:
    given = _arguments(arguments)
    set_threads()
    os.environ["MICROTOME_HOME"] = str(given.home)
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {given.lane} {os.getpid()} %(message)s")
    if given.lane == "batch":
        os.nice(NICENESS)
    worker = Worker(given.home, given.lane, _kinds(given.kinds), given.linger, steady=given.steady)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop.set())
    signal.signal(signal.SIGINT, lambda *_: worker.stop.set())
    return worker.run()


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    from jobs.spec import LANES, home

    parser = argparse.ArgumentParser(prog="python -m jobs.worker", description="Compute the jobs of one lane.")
    parser.add_argument("--lane", choices=LANES, required=True)
    parser.add_argument("--home", type=lambda text: Path(text).resolve(), default=home())
    parser.add_argument("--kinds", help="module:NAME of another table of kinds, for tests")
    parser.add_argument("--linger", type=float, default=LINGER, help="seconds to stay without an app and without work")
    parser.add_argument("--steady", action="store_true", help="stay also when the program is edited")
    return parser.parse_args(arguments)


def set_threads() -> None:
    """Threads of every numeric library, before any of them is imported; what the environment says already stays."""
    n = os.environ.get("OMP_NUM_THREADS") or str(min(8, len(os.sched_getaffinity(0))))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, n)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _kinds(override: str | None) -> dict[str, tuple[str, str]]:
    if not override:
        return KINDS
    module, _, name = override.partition(":")
    return getattr(importlib.import_module(module), name)


class Worker:
    def __init__(self, home: Path, lane: str, kinds: dict[str, tuple[str, str]], linger: float, steady: bool = False):
        from jobs.table import Table

        self.table, self.lane, self.kinds, self.linger, self.steady = Table(home), lane, kinds, linger, steady
        self.stop = threading.Event()
        self.lost = False  # the lease went to somebody else
        self._file = os.stat(self.table.path).st_ino

    def run(self) -> int:
        if not self.table.lease(self.lane):
            log.info("another worker has this lane; leaving")
            return 0
        beat = threading.Thread(target=self._beat_often, name="heartbeat", daemon=True)
        beat.start()
        self._import_early()
        self._serve()
        if not self._home_is_gone():
            self.table.release(self.lane)
        return 0

    def _serve(self) -> None:
        """Take jobs until there is a reason to leave."""
        alone_since = looked = time.monotonic()
        while not self.stop.is_set():
            now = time.monotonic()
            if now - looked >= LOOK:
                looked = now
                if self._home_is_gone() or self.lost or self._outdated():
                    return
                if self.table.apps():
                    alone_since = now
            job = self.table.claim(self.lane, os.getpid())
            if job is not None and self._outdated():
                self.table.put_back(job.id, "")
                return
            if job is not None:
                self._run(job)
                alone_since = time.monotonic()
            elif now - alone_since > self.linger:
                return log.info("no app and no work; leaving")
            else:
                self.stop.wait(POLL)

    def _outdated(self) -> bool:
        """True once the program is no longer what this process imported: its results would carry old keys."""
        changed = not self.steady and outdated()
        if changed:
            log.info("the program has changed; leaving")
        return changed

    def _run(self, job) -> None:
        from jobs.progress import Cancelled, JobProgress
        from jobs.spec import subject
        from models.refusal import Refused

        name = subject(job.spec)
        log.info("job %s (%s) begins", job.id, name)
        with JobProgress(self.table, job.id, self.stop) as progress:
            try:
                outcome = ("done", self._compute(job, progress))
            except Cancelled:
                outcome = ("stopped",)
            except Refused as refusal:
                outcome = ("failed", str(refusal), refusal.details)
            except MemoryError:
                self._report(job)
                outcome = ("failed", f"{name} ran out of memory; choose fewer sequences or a smaller model.", ())
            except Exception as fault:
                self._report(job)
                outcome = ("failed", _sentence(name, fault, self.table.log(job.id)), ())
        log.info("job %s ends: %s", job.id, outcome[0])
        match outcome:
            case ("done", key):
                self.table.done(job.id, key)
            case ("failed", sentence, details):
                self.table.failed(job.id, sentence, details)
            case ("stopped",) if self.stop.is_set() and not self.table.cancelling(job.id):
                self.table.put_back(job.id, "The worker was stopped; this run continues when it is back.")
            case ("stopped",):
                self.table.cancelled(job.id)

    def _compute(self, job, progress) -> str:
        from models.refusal import Refused

        kind = job.spec["kind"]
        if kind not in self.kinds:
            raise Refused(f"There is no kind of job “{kind[:40]}”; known: {', '.join(self.kinds)}.")
        module, function = self.kinds[kind]
        return str(getattr(importlib.import_module(module), function)(job.spec, progress))

    def _report(self, job) -> None:
        """The full traceback, for whoever looks into the program; never shown on a page."""
        file = self.table.log(job.id)
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a") as out:
            print(time.strftime("%F %T"), job.spec, file=out)
            traceback.print_exc(file=out)

    def _import_early(self) -> None:
        """Before the first job asks, so that it need not wait. A module that does not import fails its own jobs, in words."""
        for module, _ in self.kinds.values():
            try:
                importlib.import_module(module)
            except Exception:
                log.exception("%s does not import", module)

    def _beat_often(self) -> None:
        while not self.lost and not self._home_is_gone():
            self.lost = not self.table.beat(self.lane)
            time.sleep(BEAT)

    def _home_is_gone(self) -> bool:
        try:
            return os.stat(self.table.path).st_ino != self._file
        except FileNotFoundError:
            return True


def _sentence(name: str, fault: Exception, file: Path) -> str:
    if "out of memory" in str(fault).lower() or "can't allocate memory" in str(fault).lower():  # torch's own are RuntimeErrors
        return f"{name} ran out of memory; choose fewer sequences or a smaller model."
    return f"{name} stopped at an error in the program ({type(fault).__name__}), not in what you asked. The report is in {file}."


if __name__ == "__main__":
    sys.exit(main())
