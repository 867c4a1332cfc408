"""The table of jobs, leases and apps: one SQLite file that pages, workers and several apps share.

States of a job: queued → running → done | failed | cancelled. A run whose worker died is queued again where a kept state
lets it continue, and failed otherwise. Every change is one transaction, so a kill at any moment leaves the table whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jobs import process
from jobs.limits import Limits
from jobs.spec import canonical, job_id, lane as lane_of
from models.refusal import Refused

HISTORY = 500  # finished jobs remembered
ATTEMPTS = 3  # a run whose worker keeps dying is given up after so many

KILLED = (
    "The worker was killed in the middle of this run, most often because memory ran out. What is stored is unharmed. "
    "Run it again, or choose fewer sequences or a smaller model."
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, spec TEXT NOT NULL, lane TEXT NOT NULL, state TEXT NOT NULL,
    cancel REAL NOT NULL DEFAULT 0, again INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, worker INTEGER,
    i INTEGER NOT NULL DEFAULT 0, n INTEGER NOT NULL DEFAULT 0, message TEXT NOT NULL DEFAULT '', seconds_left REAL,
    live TEXT NOT NULL DEFAULT '{}', error TEXT NOT NULL DEFAULT '', details TEXT NOT NULL DEFAULT '[]', result_key TEXT,
    created REAL NOT NULL, queued REAL NOT NULL, started REAL, finished REAL, updated REAL NOT NULL);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, lane, queued);
CREATE TABLE IF NOT EXISTS leases (lane TEXT PRIMARY KEY, pid INTEGER NOT NULL, start REAL NOT NULL, heartbeat REAL NOT NULL);
CREATE TABLE IF NOT EXISTS apps (pid INTEGER PRIMARY KEY, start REAL NOT NULL);
"""


@dataclass(frozen=True)
class Job:
    """One row as a page sees it. Times are seconds since the epoch."""

    id: str
    spec: dict
    lane: str  # quick | batch
    state: str  # queued | running | done | failed | cancelled
    i: int = 0  # of n steps done; n = 0 while unknown
    n: int = 0
    message: str = ""
    seconds_left: float | None = None
    live: dict[str, list] = field(default_factory=dict)  # curve -> [[step, …], [value, …]]
    error: str = ""  # one sentence for the person who asked
    details: tuple[str, ...] = ()  # lines worth listing under it
    result_key: str | None = None
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    updated: float = 0.0
    attempts: int = 0
    cancel_asked: float = 0.0  # when; 0 where nobody did

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


class Table:
    """Opens (and creates) `<home>/jobs.sqlite`; one connection per thread."""

    def __init__(self, home: Path):
        self.home = Path(home)
        self.home.mkdir(parents=True, exist_ok=True)
        self.path = self.home / "jobs.sqlite"
        self._own = threading.local()
        self._create()

    def _create(self) -> None:
        """Several processes may start at once, and turning the write-ahead log on does not wait for others."""
        with open(self.home / "jobs.lock", "w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            self._connection().execute("PRAGMA journal_mode = WAL")
            self._connection().executescript(SCHEMA)

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection; a forked child gets its own."""
        held = getattr(self._own, "held", None)
        if held is None or held[0] != os.getpid():
            connection = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA busy_timeout = 30000")
            connection.execute("PRAGMA synchronous = NORMAL")
            self._own.held = held = (os.getpid(), connection)
        return held[1]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that takes the write lock at once, so what it read stays true until it commits."""
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    # what pages ask

    def submit(self, spec: dict, limits: Limits = Limits()) -> str:
        """Ask for a run; returns its id. Joins one that waits or runs; anything finished is queued again (its entry may
        have been evicted, and a stored result costs the worker nothing). Refused beyond `limits`; joining is always free."""
        text, id, now = canonical(spec), job_id(spec), time.time()
        with self._writing() as c:
            row = c.execute("SELECT state, cancel FROM jobs WHERE id = ?", (id,)).fetchone()
            if row is None or row["state"] not in ("running", "queued"):
                _require_room(c, spec.get("owner", ""), limits)
            if row is None:
                c.execute("INSERT INTO jobs (id, spec, lane, state, created, queued, updated) VALUES (?, ?, ?, 'queued', ?, ?, ?)",
                          (id, text, lane_of(spec), now, now, now))
            elif row["state"] == "running":
                if row["cancel"]:
                    c.execute("UPDATE jobs SET again = 1 WHERE id = ?", (id,))
            elif row["state"] != "queued":
                c.execute("UPDATE jobs SET spec = ?, lane = ?, attempts = 0, started = NULL, i = 0, n = 0 WHERE id = ?", (text, lane_of(spec), id))
                self._queue(c, id, "")
        return id

    def status(self, id: str) -> Job | None:
        row = self._connection().execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
        return None if row is None else _job(row)

    def cancel(self, id: str) -> None:
        """A queued job is cancelled at once, a running one at its next step; its kept state stays for a later run."""
        with self._writing() as c:
            now = time.time()
            c.execute("UPDATE jobs SET state = 'cancelled', finished = ?, updated = ? WHERE id = ? AND state = 'queued'", (now, now, id))
            c.execute("UPDATE jobs SET cancel = ?, again = 0, updated = ? WHERE id = ? AND state = 'running' AND cancel = 0", (now, now, id))

    def queue(self) -> list[Job]:
        """Running and waiting jobs, in the order they are taken."""
        rows = self._connection().execute("SELECT * FROM jobs WHERE state IN ('running', 'queued') ORDER BY state = 'queued', queued")
        return [_job(row) for row in rows]

    def history(self, limit: int = 50) -> list[Job]:
        """Finished jobs, latest first."""
        rows = self._connection().execute("SELECT * FROM jobs WHERE state IN ('done', 'failed', 'cancelled') ORDER BY finished DESC LIMIT ?", (limit,))
        return [_job(row) for row in rows]

    # what workers do

    def claim(self, lane: str, pid: int) -> Job | None:
        """Take the job that waited longest in this lane."""
        waiting = "SELECT id FROM jobs WHERE state = 'queued' AND lane = ? ORDER BY queued LIMIT 1"
        if self._connection().execute(waiting, (lane,)).fetchone() is None:
            return None  # looked at without the write lock: this runs ten times a second
        with self._writing() as c:
            row = c.execute(waiting, (lane,)).fetchone()
            if row is None:
                return None
            now = time.time()
            c.execute("UPDATE jobs SET state = 'running', worker = ?, cancel = 0, again = 0, attempts = attempts + 1, finished = NULL,"
                      " started = COALESCE(started, ?), updated = ? WHERE id = ?", (pid, now, now, row["id"]))
            return _job(c.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone())

    def report(self, id: str, i: int, n: int, message: str, seconds_left: float | None, live: dict) -> None:
        self._connection().execute("UPDATE jobs SET i = ?, n = ?, message = ?, seconds_left = ?, live = ?, updated = ? WHERE id = ? AND state = 'running'",
                                   (i, n, message, seconds_left, json.dumps(live), time.time(), id))

    def cancelling(self, id: str) -> bool:
        """True where somebody wants the running job to end."""
        row = self._connection().execute("SELECT cancel FROM jobs WHERE id = ? AND state = 'running'", (id,)).fetchone()
        return row is None or bool(row["cancel"])

    def done(self, id: str, result_key: str) -> None:
        shutil.rmtree(self.partial(id), ignore_errors=True)
        self._finish(id, "done", result_key=result_key)

    def failed(self, id: str, error: str, details: tuple[str, ...] = ()) -> None:
        self._finish(id, "failed", error=error, details=details)

    def cancelled(self, id: str) -> None:
        """The worker has let go; queued again where somebody asked for it meanwhile."""
        self._finish(id, "cancelled")

    def put_back(self, id: str, message: str) -> None:
        """Return a running job to the head of its lane: its worker was asked to stop, not the job."""
        with self._writing() as c:
            c.execute("UPDATE jobs SET attempts = attempts - 1 WHERE id = ?", (id,))
            self._queue(c, id, message, keep_place=True)

    def partial(self, id: str) -> Path:
        """Where a job keeps its state between interruptions."""
        return self.home / "partial" / id

    def log(self, id: str) -> Path:
        return self.home / "logs" / f"{id}.log"

    def _finish(self, id: str, state: str, *, result_key: str | None = None, error: str = "", details: tuple[str, ...] = ()) -> None:
        with self._writing() as c:
            row = c.execute("SELECT again FROM jobs WHERE id = ? AND state = 'running'", (id,)).fetchone()
            if row is None:
                return
            now = time.time()
            c.execute("UPDATE jobs SET state = ?, result_key = ?, error = ?, details = ?, seconds_left = NULL, cancel = 0, finished = ?, updated = ?"
                      " WHERE id = ?", (state, result_key, error, json.dumps(details), now, now, id))
            if row["again"] and state == "cancelled":
                self._queue(c, id, "")
            gone = [r["id"] for r in c.execute("SELECT id FROM jobs WHERE state IN ('done', 'failed', 'cancelled') ORDER BY finished DESC LIMIT -1 OFFSET ?", (HISTORY,))]
            c.executemany("DELETE FROM jobs WHERE id = ?", [(old,) for old in gone])
        for old in gone:
            shutil.rmtree(self.partial(old), ignore_errors=True)
            self.log(old).unlink(missing_ok=True)

    @staticmethod
    def _queue(c: sqlite3.Connection, id: str, message: str, keep_place: bool = False) -> None:
        now = time.time()
        c.execute("UPDATE jobs SET state = 'queued', cancel = 0, again = 0, worker = NULL, seconds_left = NULL, error = '', details = '[]',"
                  " result_key = NULL, finished = NULL, message = ?, queued = CASE WHEN ? THEN queued ELSE ? END, updated = ? WHERE id = ?",
                  (message, keep_place, now, now, id))

    # leases and apps

    def lease(self, lane: str) -> bool:
        """Become the worker of a lane; False where a live one has it. What a dead one was running is settled first."""
        with self._writing() as c:
            held = c.execute("SELECT pid, start FROM leases WHERE lane = ?", (lane,)).fetchone()
            if held and process.alive(held["pid"], held["start"]):
                return held["pid"] == os.getpid()
            self._settle(c, lane)
            c.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", (lane, os.getpid(), process.started(), time.time()))
            return True

    def beat(self, lane: str) -> bool:
        """Say that this worker lives; False where the lease is no longer its own."""
        done = self._connection().execute("UPDATE leases SET heartbeat = ? WHERE lane = ? AND pid = ?", (time.time(), lane, os.getpid()))
        return done.rowcount == 1

    def release(self, lane: str) -> None:
        self._connection().execute("DELETE FROM leases WHERE lane = ? AND pid = ?", (lane, os.getpid()))

    def leases(self) -> dict[str, tuple[int, float, float]]:
        """lane -> (pid, process start, last heartbeat), whether alive or not."""
        return {row["lane"]: (row["pid"], row["start"], row["heartbeat"]) for row in self._connection().execute("SELECT * FROM leases")}

    def settle(self, lane: str) -> None:
        """Mark what the dead worker of a lane left running; nothing where it lives."""
        with self._writing() as c:
            held = c.execute("SELECT pid, start FROM leases WHERE lane = ?", (lane,)).fetchone()
            if held is None or not process.alive(held["pid"], held["start"]):
                self._settle(c, lane)

    def _settle(self, c: sqlite3.Connection, lane: str) -> None:
        for row in c.execute("SELECT id, cancel, again, attempts, i, n FROM jobs WHERE state = 'running' AND lane = ?", (lane,)).fetchall():
            now = time.time()
            if row["cancel"] and not row["again"]:
                c.execute("UPDATE jobs SET state = 'cancelled', cancel = 0, seconds_left = NULL, finished = ?, updated = ? WHERE id = ?", (now, now, row["id"]))
            elif row["again"] or (row["attempts"] < ATTEMPTS and self.partial(row["id"]).is_dir()):
                self._queue(c, row["id"], f"The worker was killed at step {row['i']} of {row['n']}; continuing from the state it kept.", keep_place=True)
            else:
                c.execute("UPDATE jobs SET state = 'failed', error = ?, seconds_left = NULL, finished = ?, updated = ? WHERE id = ?", (KILLED, now, now, row["id"]))

    def register_app(self) -> None:
        self._connection().execute("INSERT OR REPLACE INTO apps VALUES (?, ?)", (os.getpid(), process.started()))

    def unregister_app(self) -> None:
        self._connection().execute("DELETE FROM apps WHERE pid = ?", (os.getpid(),))

    def apps(self) -> list[int]:
        """Pids of the apps that are open on this home."""
        return [row["pid"] for row in self._connection().execute("SELECT * FROM apps") if process.alive(row["pid"], row["start"])]


def _require_room(c: sqlite3.Connection, owner: str, limits: Limits) -> None:
    waiting = [json.loads(spec).get("owner", "") for (spec,) in c.execute("SELECT spec FROM jobs WHERE state IN ('running', 'queued')")]
    own = waiting.count(owner)
    if limits.per_owner is not None and own >= limits.per_owner:
        raise Refused(f"You have {own} run{'s' * (own > 1)} waiting or running, as many as one visitor may have here. Wait for one of them, or cancel it.")
    if limits.queue is not None and len(waiting) >= limits.queue:
        raise Refused(f"{len(waiting)} run{'s are' if len(waiting) > 1 else ' is'} waiting or running, as many as this machine takes. Try again when some are done.")


def _job(row: sqlite3.Row) -> Job:
    return Job(
        row["id"], json.loads(row["spec"]), row["lane"], row["state"], row["i"], row["n"], row["message"], row["seconds_left"],
        json.loads(row["live"]), row["error"], tuple(json.loads(row["details"])), row["result_key"], row["created"], row["started"],
        row["finished"], row["updated"], row["attempts"], row["cancel"],
    )
