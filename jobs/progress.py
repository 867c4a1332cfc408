"""The progress object a running job is given: steps, live curves, cancel, and a state to continue from.

`step` only notes values in memory and looks at a flag. A thread of its own writes them to the table and reads the wish to
cancel, five times a second, so a loop may call `step` a million times, and the last step before a long silence is shown.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from pathlib import Path

from cache.codec import decode_value, encode_value
from cache.fingerprint import fingerprint
from cache.tensorfile import TensorFile, sync, write
from jobs.table import Table

EVERY = 0.2  # seconds between two writes to the table
SAVE_EVERY = 30.0  # seconds between two kept states
POINTS = 500  # of a live curve; beyond, every second one is dropped


class Cancelled(BaseException):
    """Somebody ended the run. Not an Exception: an analysis that catches errors must not swallow it."""


class JobProgress:
    """`with JobProgress(table, id) as progress:` around one job; writes until the block ends."""

    def __init__(self, table: Table, id: str, stop: threading.Event | None = None):
        self.table, self.id = table, id
        self.stopping = stop or threading.Event()  # the worker was asked to end; the job itself is not cancelled
        self._cancel = threading.Event()
        self._closed = threading.Event()
        self._changed = False
        self._lock = threading.Lock()
        self._place = (0, 0, "")
        self._pace = Pace()
        self._live = _begun(table, id)
        self._saved_at: dict[str, float] = {}
        self._writer = threading.Thread(target=self._write_often, name=f"progress {id[:8]}", daemon=True)

    def __enter__(self) -> JobProgress:
        self._writer.start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        self._writer.join()
        self._flush()

    def step(self, i: int, n: int, message: str = "", live: dict[str, float] | None = None) -> None:
        """`i` of `n` done. Raises Cancelled where the run was cancelled. `live`: one point for each named curve."""
        with self._lock:
            self._place = (i, n, message)
            self._pace.note(i, n)
            for name, value in (live or {}).items():
                add_point(self._live.setdefault(name, [[], []]), i, float(value))
            self._changed = True
        if self._cancel.is_set() or self.stopping.is_set():
            raise Cancelled

    def save(self, state: dict, force: bool = False) -> None:
        """Keep a state (nested dicts, lists and tuples of tensors, arrays and plain values) that `saved` gives back after an
        interruption: atomically, at most every half minute unless forced, and at once while a cancel is pending. Saved
        before `step`, a cancelled run loses nothing."""
        self._save("whole", state, force)

    def saved(self) -> dict | None:
        """The state kept last by an interrupted run of this job; None on a first run."""
        return self._saved("whole")

    def part(self, key: str) -> Part:
        """The same progress for one part of the job, with a kept state of its own: a plan that is trained on the way must
        not find the state of the analysis, nor a changed program the state of its former self. `key` says what the part
        computes, code included."""
        return Part(self, fingerprint(key)[:32])

    def _save(self, part: str, state: dict, force: bool) -> None:
        now = time.monotonic()
        since = now - self._saved_at.setdefault(part, now)
        if not (force or since >= SAVE_EVERY or self._cancel.is_set() or self.stopping.is_set()):
            return
        keep(self._file(part), state)
        self._saved_at[part] = time.monotonic()

    def _saved(self, part: str) -> dict | None:
        return kept(self._file(part))

    def _file(self, part: str) -> Path:
        return self.table.partial(self.id) / f"{part}.safetensors"

    def _write_often(self) -> None:
        while not self._closed.wait(EVERY):
            self._flush()
            if self.table.cancelling(self.id):
                self._cancel.set()

    def _flush(self) -> None:
        with self._lock:
            if not self._changed:
                return
            (i, n, message), left = self._place, self._pace.seconds_left()
            live = {name: [list(steps), list(values)] for name, (steps, values) in self._live.items()}
            self._changed = False
        self.table.report(self.id, i, n, message, left, live)


class Part:
    """What `JobProgress.part` gives: shared steps, a kept state of its own."""

    def __init__(self, whole: JobProgress, name: str):
        self._whole, self._name = whole, name

    def step(self, i: int, n: int, message: str = "", live: dict[str, float] | None = None) -> None:
        self._whole.step(i, n, message, live)

    def save(self, state: dict, force: bool = False) -> None:
        self._whole._save(self._name, state, force)

    def saved(self) -> dict | None:
        return self._whole._saved(self._name)

    def part(self, key: str) -> Part:
        return self._whole.part(key)


class Pace:
    """Estimates the time left from steps per second, past steps weighing less the longer ago they are: the mean over
    everything at first, later over about the last third."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._reset(0, 0)

    def _reset(self, i: int, n: int) -> None:
        self._i, self._n, self._first, self._last = i, n, self._clock(), self._clock()
        self._steps, self._seconds = 0.0, 0.0  # both discounted alike

    def note(self, i: int, n: int) -> None:
        if n != self._n or i < self._i:
            self._reset(i, n)
            return
        now = self._clock()
        lapse = now - self._last
        if lapse < 0.05 or i == self._i:
            return  # too short to tell a pace; counted with the next
        discount = math.exp(-lapse / max(3.0, 0.3 * (now - self._first)))
        self._steps = self._steps * discount + (i - self._i)
        self._seconds = self._seconds * discount + lapse
        self._i, self._last = i, now

    def seconds_left(self) -> float | None:
        """None until a pace is known."""
        if not self._steps:
            return None
        return max(0.0, (self._n - self._i) * self._seconds / self._steps - (self._clock() - self._last))


def add_point(curve: list[list], i: int, value: float) -> None:
    """Append to [[steps], [values]] in place. A resumed run overwrites what it repeats; long curves are thinned."""
    steps, values = curve
    while steps and steps[-1] >= i:
        steps.pop()
        values.pop()
    steps.append(i)
    values.append(value)
    if len(steps) > POINTS:
        steps[:], values[:] = steps[::2], values[::2]


def keep(file: Path, state: dict) -> None:
    """Write a state to one file, whole or not at all."""
    arrays, tables, plain = encode_value(state)
    if tables:
        raise TypeError("a kept state holds tensors, arrays and plain values; tables belong into the result.")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    write(temporary, arrays, {"plain": json.dumps(plain)})
    os.replace(temporary, file)
    sync(file.parent)


def kept(file: Path) -> dict | None:
    """The state in `file`; None where there is none or where it cannot be read."""
    try:
        found = TensorFile(file)
        return decode_value(json.loads(found.metadata["plain"]), found)
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _begun(table: Table, id: str) -> dict[str, list]:
    """The curves that an interrupted run of the same job had drawn."""
    job = table.status(id)
    return {} if job is None else {name: [list(steps), list(values)] for name, (steps, values) in job.live.items()}
