"""The engine with its real worker processes: once, cancel, kill −9, resume, adopt, stop."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import jobs.worker
from cache.fingerprint import fingerprint
from cache.store import Store
from jobs import client, lifespan, process
from jobs.lifespan import spawn, start_workers, stop_workers
from jobs.table import Table
from tests.conftest import REPO

KINDS = "tests.jobs_kinds:KINDS"
QUICK = {"estimate": 1}  # most tests use the quick lane: the other is niced, and test machines are busy


def until(condition, seconds=120.0):
    """Poll until true; the deadline is far beyond any sane time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("nothing happened in time")


class Engine:
    def __init__(self, home):
        self.home, self.table = home, Table(home)

    def submit(self, kind, **more):
        return client.submit({"kind": kind, **QUICK, **more}, self.home)

    def status(self, id):
        return client.status(id, self.home)

    def over(self, id):
        return until(lambda: (job := self.status(id)).over and job)

    def running(self, id, i=0):
        return until(lambda: (job := self.status(id)).state == "running" and job.i >= i and job)

    def ran(self):
        return (self.home / "ran").read_text().splitlines() if (self.home / "ran").exists() else []

    def worker(self, lane="quick"):
        """(pid, process start) of the live worker of a lane."""
        lease = self.table.leases().get(lane)
        return lease[:2] if lease and process.alive(*lease[:2]) else None

    def entry(self, kind, name):
        return Store(self.home / "store").get(fingerprint(kind, name))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One engine for the tests that leave it as they found it."""
    home = tmp_path_factory.mktemp("shared")
    start_workers(home, kinds=KINDS, steady=True)
    yield Engine(home)
    stop_workers(home)


@pytest.fixture
def engine(home):
    """An engine of the test's own, nothing started; whatever was started ends with it."""
    engine = Engine(home)
    yield engine
    stop_workers(home)
    for pid, start, _ in engine.table.leases().values():
        if process.alive(pid, start):
            os.kill(pid, signal.SIGKILL)


def test_a_run_from_question_to_result(shared):
    id = shared.submit("count", name="first")
    job = shared.over(id)
    assert (job.state, job.lane, job.error, job.attempts) == ("done", "quick", "", 1)
    assert job.created <= job.started <= job.finished and job.live == {"square": [[0, 1, 2], [0.0, 1.0, 4.0]]}
    entry = Store(shared.home / "store").get(job.result_key)
    assert entry.array("x").tolist() == [0, 1, 2, 3, 4]


ASK = """import sys; from pathlib import Path; from jobs import client
print("ready", flush=True); sys.stdin.readline()
print(client.submit({"kind": "count", "estimate": 1, "name": "eight", "seconds": 0.5}, Path(sys.argv[1])))"""


def test_eight_people_ask_the_same_and_it_is_computed_once(shared):
    """Programs of their own: children forked from a process with threads now and then never ran."""
    people = [subprocess.Popen([sys.executable, "-c", ASK, str(shared.home)], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert all(person.stdout.readline() == "ready\n" for person in people)
    for person in people:
        person.stdin.write("\n")
        person.stdin.flush()
    found = {person.communicate(timeout=120)[0].strip() for person in people}
    assert len(found) == 1 and all(person.returncode == 0 for person in people)
    assert shared.over(*found).state == "done" and shared.ran().count("count eight") == 1


def test_a_refusal_is_shown_as_it_is(shared):
    job = shared.over(shared.submit("refuse"))
    assert (job.state, job.error, job.details) == ("failed", "The cupboard is empty; put something in.", ("shelf 1", "shelf 2"))


def test_a_fault_of_the_program_is_told_in_words_and_its_traceback_only_to_the_log(shared):
    job = shared.over(shared.submit("fault"))
    assert job.state == "failed" and "KeyError" in job.error
    assert "secret" not in job.error and "Traceback" not in job.error and "\n" not in job.error
    log = shared.table.log(job.id)
    assert str(log) in job.error and "a secret of the program" in log.read_text() and "Traceback" in log.read_text()


def test_memory_that_runs_out_is_told_in_words(shared):
    assert "ran out of memory" in shared.over(shared.submit("hungry")).error


def test_an_unknown_kind_is_refused_in_words(shared):
    assert "no kind of job “dance”" in shared.over(shared.submit("dance")).error


def test_cancel_and_ask_again(shared):
    id = shared.submit("wait")
    shared.running(id, i=2)
    client.cancel(id, shared.home)
    assert shared.over(id).state == "cancelled"
    shared.submit("wait")
    shared.running(id, i=2)
    (shared.home / "go").touch()
    assert (shared.over(id).state, shared.status(id).result_key) == ("done", "waited")


def test_a_cancelled_training_continues_and_ends_bit_for_bit_as_if_nothing_had_happened(shared):
    whole = shared.submit("train", name="whole")
    halted = shared.submit("train", name="halted", halt=[6])
    assert shared.over(whole).state == "done"
    until(lambda: shared.status(halted).message == "halted")
    client.cancel(halted, shared.home)
    assert shared.over(halted).state == "cancelled" and shared.table.partial(halted).is_dir()
    (shared.home / "pass-6").touch()
    shared.submit("train", name="halted", halt=[6])
    assert shared.over(halted).state == "done" and shared.ran()[-1] == "train from 7"
    assert not shared.table.partial(halted).exists()
    a, b = shared.entry("train", "whole"), shared.entry("train", "halted")
    assert a.array_names() == b.array_names() and a.record["losses"] == b.record["losses"]
    assert (a.path / "arrays.safetensors").read_bytes() == (b.path / "arrays.safetensors").read_bytes()
    assert shared.status(halted).live == shared.status(whole).live


def test_a_worker_killed_from_outside_is_replaced_and_its_training_goes_on(shared):
    whole = shared.submit("train", name="whole")
    halted = shared.submit("train", name="killed", halt=[11])
    shared.over(whole)
    until(lambda: shared.status(halted).message == "halted")
    os.kill(shared.worker()[0], signal.SIGKILL)
    (shared.home / "pass-11").touch()
    job = shared.over(halted)
    assert (job.state, job.attempts, shared.ran()[-1]) == ("done", 2, "train from 12")
    a, b = shared.entry("train", "whole"), shared.entry("train", "killed")
    assert (a.path / "arrays.safetensors").read_bytes() == (b.path / "arrays.safetensors").read_bytes()


def test_a_worker_that_dies_is_reported_and_the_store_stays_whole(shared):
    before = shared.submit("count", name="before")
    shared.over(before)
    died = shared.over(shared.submit("die"))
    assert died.state == "failed" and "worker was killed" in died.error
    after = shared.over(shared.submit("count", name="after"))
    assert after.state == "done"
    store = Store(shared.home / "store")
    assert all(store.get(key) is not None for key in store.keys())
    assert shared.entry("count", "before") is not None


def test_a_run_that_does_not_hear_the_cancel_loses_its_worker(shared, monkeypatch):
    monkeypatch.setattr(lifespan, "GRACE", 0.3)
    id = shared.submit("deaf")
    pid = int(until(lambda: [line for line in shared.ran() if line.startswith("deaf")])[0].split()[1])
    client.cancel(id, shared.home)
    assert shared.over(id).state == "cancelled"
    assert until(lambda: (found := shared.worker()) and found[0] != pid)
    assert shared.over(shared.submit("count", name="after the deaf")).state == "done"


def test_killed_at_any_step_it_resumes_to_the_same_bits(tmp_path):
    """Every eighth system call of the training here; `python -m tests.jobs_killed FOLDER 1` tries them all."""
    done = subprocess.run([sys.executable, "-m", "tests.jobs_killed", str(tmp_path), "8"], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    assert len(lines) >= 7 and all(line[2] == "equal" for line in lines)
    assert len({line[1] for line in lines}) >= 5  # resumed from many places, not always from the start


APP = """
import sys, pathlib
from jobs.lifespan import start_workers
start_workers(pathlib.Path(sys.argv[1]), kinds="tests.jobs_kinds:KINDS", steady=True)
print("up", flush=True)
sys.stdin.read()
"""


def open_app(home):
    app = subprocess.Popen([sys.executable, "-c", APP, str(home)], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert app.stdout.readline() == "up\n"
    return app


def kill(app):
    app.kill()
    app.wait()
    app.stdin.close()
    app.stdout.close()


def test_a_restarted_app_adopts_the_workers_and_the_run_goes_on(engine):
    app = open_app(engine.home)
    until(lambda: engine.worker("quick") and engine.worker("batch"))
    workers = engine.worker("quick"), engine.worker("batch")
    id = engine.submit("wait")
    engine.running(id, i=2)
    kill(app)
    start_workers(engine.home, kinds=KINDS, steady=True)
    start_workers(engine.home, kinds=KINDS, steady=True)  # a second call does nothing
    watch = lifespan._watches[engine.home.resolve()]
    assert watch.children == {} and engine.status(id).state == "running"
    (engine.home / "go").touch()
    job = engine.over(id)
    assert (job.state, job.attempts) == ("done", 1) and (engine.worker("quick"), engine.worker("batch")) == workers
    os.kill(workers[0][0], signal.SIGKILL)  # an adopted one that dies is replaced as well
    assert until(lambda: engine.worker("quick") not in (None, workers[0]) and engine.worker("quick"))


def test_a_restarted_app_settles_what_died_with_the_old_one(engine):
    app = open_app(engine.home)
    id = engine.submit("wait")
    engine.running(id, i=2)
    kill(app)
    for lane in ("quick", "batch"):
        os.kill(until(lambda: engine.worker(lane))[0], signal.SIGKILL)
    start_workers(engine.home, kinds=KINDS, steady=True)
    assert "worker was killed" in engine.over(id).error
    (engine.home / "go").touch()
    engine.submit("wait")
    assert engine.over(id).state == "done"


def test_closing_the_app_puts_the_run_back_and_reopening_continues_it(engine):
    start_workers(engine.home, lanes=("quick",), kinds=KINDS, steady=True)
    id = engine.submit("wait")
    engine.running(id, i=2)
    (pid, start) = engine.worker()
    stop_workers(engine.home, patience=60)
    assert not process.alive(pid, start) and engine.table.leases() == {}
    assert engine.status(id).state == "queued" and engine.status(id).attempts == 0
    (engine.home / "go").touch()
    start_workers(engine.home, lanes=("quick",), kinds=KINDS, steady=True)
    assert engine.over(id).state == "done"


def test_a_deaf_worker_is_stopped_with_the_app_all_the_same(engine):
    start_workers(engine.home, lanes=("quick",), kinds=KINDS, steady=True)
    id = engine.submit("deaf")
    until(engine.ran)
    (pid, start) = engine.worker()
    stop_workers(engine.home, patience=0.1)
    assert not process.alive(pid, start) and engine.status(id).state == "queued"


def test_a_second_worker_of_a_lane_leaves_at_once(engine):
    first = spawn(engine.home, "quick", KINDS, steady=True)
    (pid, _) = until(engine.worker)
    second = spawn(engine.home, "quick", KINDS, steady=True)
    assert second.wait(60) == 0 and first.poll() is None and engine.worker()[0] == pid == first.pid
    first.terminate()
    assert first.wait(60) == 0 and engine.table.leases() == {}


def test_a_worker_without_app_does_what_is_queued_and_leaves(engine):
    ids = [engine.submit("count", name=f"left {n}") for n in range(3)]
    worker = spawn(engine.home, "quick", KINDS, steady=True, linger=0.2)
    assert worker.wait(120) == 0
    assert [engine.status(id).state for id in ids] == ["done"] * 3


def test_a_worker_leaves_when_its_home_is_gone(tmp_path):
    home = tmp_path / "gone"
    home.mkdir()
    table = Table(home)
    worker = spawn(home, "quick", KINDS, steady=True)
    until(lambda: table.leases())
    shutil.rmtree(home)
    assert worker.wait(120) == 0


def test_a_worker_leaves_when_the_program_has_changed(home, monkeypatch):
    answers = iter([False, False, True])
    monkeypatch.setattr(jobs.worker, "outdated", lambda: next(answers))
    monkeypatch.setattr(jobs.worker, "LOOK", 0.01)
    worker = jobs.worker.Worker(home, "quick", {}, linger=3600.0)
    assert worker.run() == 0 and next(answers, None) is None and worker.table.leases() == {}


def test_a_job_is_not_begun_by_a_program_that_has_changed(home, monkeypatch):
    monkeypatch.setattr(jobs.worker, "outdated", lambda: True)
    id = client.submit({"kind": "count", "name": "x", **QUICK}, home)
    worker = jobs.worker.Worker(home, "quick", {"count": ("tests.jobs_kinds", "count")}, linger=3600.0)
    assert worker.run() == 0 and client.status(id, home).state == "queued" and not (home / "ran").exists()


def test_a_module_that_does_not_import_fails_its_jobs_in_words(home):
    worker = jobs.worker.Worker(home, "quick", {"broken": ("tests.no_such_module", "run"), "count": ("tests.jobs_kinds", "count")}, linger=0.0, steady=True)
    ids = [client.submit({"kind": kind, "name": "x", **QUICK}, home) for kind in ("broken", "count")]
    thread = threading.Thread(target=worker.run)
    thread.start()
    thread.join(60)
    assert [client.status(id, home).state for id in ids] == ["failed", "done"]
    assert "ModuleNotFoundError" in client.status(ids[0], home).error


def test_batch_gives_way_and_nothing_numeric_is_imported_before_the_threads_are_set(shared):
    nice = {lane: os.getpriority(os.PRIO_PROCESS, until(lambda: shared.worker(lane))[0]) for lane in ("quick", "batch")}
    assert nice["batch"] - nice["quick"] == min(jobs.worker.NICENESS, 19 - nice["quick"])
    code = "import sys, jobs.worker; jobs.worker.set_threads(); print([m for m in ('numpy', 'torch', 'streamlit') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
