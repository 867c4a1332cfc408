"""The workers' life beside the app's: started with it, adopted after a restart, replaced when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from jobs import process
from jobs.spec import LANES
from jobs.table import Table

REPO = Path(__file__).resolve().parents[1]
LOOK = 0.5  # seconds between two looks at the workers
GRACE = 10.0  # seconds a cancelled run may take to its next step before its worker is killed
SHORTEST = 2.0  # seconds; a worker that fails younger than this is started again only after PAUSE
PAUSE = 10.0


def start_workers(home: Path, lanes: tuple[str, ...] = LANES, kinds: str | None = None, steady: bool | None = None) -> None:
    """Have one worker per lane run until `stop_workers`, watched by a thread. Live ones of an earlier app are adopted.
    A second call for the same home does nothing. `steady` workers (or MICROTOME_STEADY=1) stay when the program is edited."""
    steady = os.environ.get("MICROTOME_STEADY") == "1" if steady is None else steady
    home = Path(home).resolve()
    with _guard:
        if home not in _watches:
            _watches[home] = Watch(home, lanes, kinds, steady)
            _watches[home].start()


def stop_workers(home: Path, patience: float = 5.0) -> None:
    """Stop watching and, where no other app is open on this home, stop the workers: a running job goes back to the queue
    with the state it kept, and continues when an app is started again."""
    home = Path(home).resolve()
    with _guard:
        watch = _watches.pop(home, None)
    if watch is not None:
        watch.close(patience)


_watches: dict[Path, Watch] = {}
_guard = threading.Lock()


class Watch:
    def __init__(self, home: Path, lanes: tuple[str, ...], kinds: str | None, steady: bool):
        self.home, self.lanes, self.kinds, self.steady = home, lanes, kinds, steady
        self.table = Table(home)
        self.children: dict[str, subprocess.Popen] = {}
        self._begun: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look_often, name="workers", daemon=True)

    def start(self) -> None:
        self.table.register_app()
        self._look()
        self._thread.start()

    def close(self, patience: float) -> None:
        self._closed.set()
        self._thread.join()
        self.table.unregister_app()
        if not self.table.apps():
            self._end(patience)

    def _look_often(self) -> None:
        while not self._closed.wait(LOOK):
            if self.home.is_dir():
                self._look()

    def _look(self) -> None:
        leases = self.table.leases()
        for lane in self.lanes:
            child = self.children.get(lane)
            if child is not None and child.poll() is None:
                continue  # ours, alive; or on its way to the lease
            if child is not None:
                self._bury(lane, child)
            pid, start, _ = leases.get(lane, (0, 0.0, 0.0))
            if not process.alive(pid, start):
                self.table.settle(lane)
                if time.monotonic() >= self._not_before.get(lane, 0.0):
                    self._begun[lane] = time.monotonic()
                    self.children[lane] = spawn(self.home, lane, self.kinds, self.steady)
        self._kill_deaf(leases)

    def _bury(self, lane: str, child: subprocess.Popen) -> None:
        """One that fails right after its start would fail again: let some time pass."""
        if child.returncode != 0 and time.monotonic() - self._begun[lane] < SHORTEST:
            self._not_before[lane] = time.monotonic() + PAUSE
        del self.children[lane]

    def _kill_deaf(self, leases: dict) -> None:
        """A run that does not come to its next step after a cancel loses its worker; a new one is started."""
        for job in self.table.queue():
            if job.state == "running" and job.cancel_asked and time.time() - job.cancel_asked > GRACE and job.lane in leases:
                _signal(*leases[job.lane][:2], signal.SIGKILL)

    def _end(self, patience: float) -> None:
        leases = self.table.leases()
        workers = {(pid, start) for pid, start, _ in leases.values()} | {(c.pid, process.started(c.pid)) for c in self.children.values() if c.poll() is None}
        for pid, start in workers:
            _signal(pid, start, signal.SIGTERM)
        until = time.monotonic() + patience
        while time.monotonic() < until and any(process.alive(pid, start) for pid, start in workers):
            time.sleep(0.05)
        for lane, (pid, start, _) in leases.items():
            if process.alive(pid, start):
                for job in self.table.queue():
                    if job.state == "running" and job.lane == lane:
                        self.table.put_back(job.id, "The app was closed; this run continues when it is back.")
        for pid, start in workers:
            _signal(pid, start, signal.SIGKILL)
        for child in self.children.values():
            child.wait()


def spawn(home: Path, lane: str, kinds: str | None = None, steady: bool = False, linger: float | None = None) -> subprocess.Popen:
    """One worker process, in a session of its own so that the terminal's Ctrl-C reaches the app alone."""
    (home / "logs").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "jobs.worker", "--lane", lane, "--home", str(home)]
    command += ["--kinds", kinds] if kinds else []
    command += ["--steady"] if steady else []
    command += ["--linger", str(linger)] if linger is not None else []
    with open(home / "logs" / f"worker-{lane}.log", "ab") as out:
        return subprocess.Popen(command, cwd=REPO, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


def _signal(pid: int, start: float, number: int) -> None:
    if process.alive(pid, start):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # ended by itself in between
