"""The table, the spec and the progress object, without a worker process."""

import json
import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest

import jobs.progress
import jobs.table
from jobs import client, process
from jobs.limits import Limits, limits
from jobs.progress import POINTS, Cancelled, JobProgress, Pace, add_point, keep, kept
from jobs.spec import job_id, lane
from jobs.table import Table
from models.refusal import Refused

fork = multiprocessing.get_context("fork")
SPEC = {"kind": "count", "name": "a"}


@pytest.fixture
def table(home):
    return Table(home)


def claimed(table, spec=SPEC):
    id = table.submit(spec)
    assert table.claim(lane(spec), os.getpid()).id == id
    return id


# specs


def test_one_question_has_one_id():
    assert job_id({"kind": "k", "a": (1, 2), "b": 1}) == job_id({"b": 1, "a": [1, 2], "kind": "k"})
    assert job_id({"kind": "k", "estimate": 3.0, "lane": "quick"}) == job_id({"kind": "k", "estimate": 99.0})
    assert len({job_id({"kind": "k", "a": a}) for a in (1, 1.5, "1", None, True, [1], {"x": 1})}) == 7
    for bad in ({"a": 1}, {"kind": 3}, [], {"kind": "k", "x": object()}):
        with pytest.raises(TypeError):
            job_id(bad)
    with pytest.raises(ValueError):
        job_id({"kind": "k", "x": float("nan")})


def test_lane_follows_the_estimate():
    assert [lane({"kind": "k", "estimate": e}) for e in (0, 9.9, 10, 500.0)] == ["quick", "quick", "batch", "batch"]
    assert lane({"kind": "k"}) == "batch" and lane({"kind": "k", "estimate": 500, "lane": "quick"}) == "quick"


# states


def test_submit_joins_what_waits_or_runs_and_queues_again_what_is_over(table):
    id = table.submit(SPEC)
    assert table.submit(SPEC) == id and [j.state for j in table.queue()] == ["queued"]
    table.claim("batch", 1)
    table.submit(SPEC)
    assert table.status(id).state == "running" and table.claim("batch", 2) is None
    for finish in (lambda: table.failed(id, "no"), lambda: table.cancelled(id), lambda: table.done(id, "key")):
        finish()
        assert table.status(id).over
        table.submit(SPEC)
        job = table.status(id)
        assert (job.state, job.error, job.result_key, job.finished) == ("queued", "", None, None)
        assert table.claim("batch", 1).id == id
    assert table.status("unknown") is None


def test_jobs_are_taken_in_order_and_by_lane(table):
    ids = [table.submit({"kind": "k", "n": n, "estimate": 100 if n % 2 else 1}) for n in range(6)]
    assert [table.claim("batch", 1).id for _ in range(3)] == ids[1::2]
    assert [table.claim("quick", 1).id for _ in range(3)] == ids[0::2]
    assert table.claim("quick", 1) is None
    assert [j.state for j in table.queue()] == ["running"] * 6


def test_cancel_of_a_queued_job_is_at_once_and_of_a_finished_one_nothing(table):
    id = table.submit(SPEC)
    table.cancel(id)
    assert table.status(id).state == "cancelled" and table.claim("batch", 1) is None
    id = claimed(table, {"kind": "k"})
    table.done(id, "key")
    table.cancel(id)
    assert table.status(id).state == "done"


def test_asked_again_while_being_cancelled(table):
    """The second person must not inherit the first one's cancel."""
    id = claimed(table)
    table.cancel(id)
    assert table.cancelling(id)
    table.submit(SPEC)
    table.cancelled(id)  # the worker lets go
    assert table.status(id).state == "queued" and not table.status(id).cancel_asked


def test_each_job_is_claimed_by_one_of_many(table):
    ids = {table.submit({"kind": "k", "n": n}) for n in range(40)}
    barrier, taken = fork.Barrier(4), fork.Queue()

    def take():
        barrier.wait()
        while (job := Table(table.home).claim("batch", os.getpid())) is not None:
            taken.put(job.id)

    children = [fork.Process(target=take) for _ in range(4)]
    [c.start() for c in children]
    found = [taken.get(timeout=120) for _ in range(40)]
    [c.join(60) for c in children]
    assert sorted(found) == sorted(ids) and [c.exitcode for c in children] == [0] * 4


def test_processes_may_create_the_table_at_once(home):
    barrier = fork.Barrier(6)

    def create():
        barrier.wait()
        Table(home).submit({"kind": "k", "pid": os.getpid()})

    children = [fork.Process(target=create) for _ in range(6)]
    [c.start() for c in children]
    [c.join(60) for c in children]
    assert [c.exitcode for c in children] == [0] * 6 and len(Table(home).queue()) == 6


def test_history_is_trimmed_with_what_belongs_to_it(table, monkeypatch):
    monkeypatch.setattr(jobs.table, "HISTORY", 2)
    ids = []
    for n in range(4):
        ids.append(claimed(table, {"kind": "k", "n": n}))
        keep(table.partial(ids[-1]) / "whole.safetensors", {"n": n})
        table.failed(ids[-1], "no")
    assert [j.id for j in table.history()] == ids[:1:-1]
    assert [table.partial(id).exists() for id in ids] == [False, False, True, True]


def test_the_client_speaks_to_the_home_of_the_environment(home):
    id = client.submit({**SPEC, "estimate": 1})
    assert client.status(id).lane == "quick" and [j.id for j in client.queue()] == [id]
    client.cancel(id)
    assert client.status(id).state == "cancelled" and [j.id for j in client.history()] == [id] and client.queue() == []


# leases and orphans


def dead_worker(table, before_dying=lambda: None):
    """A process that takes the lane and a job, then is killed."""

    def live_and_die():
        own = Table(table.home)
        assert own.lease("batch")
        own.claim("batch", os.getpid())
        before_dying()
        os.kill(os.getpid(), signal.SIGKILL)

    child = fork.Process(target=live_and_die)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


def test_a_live_lease_excludes_and_a_dead_one_does_not(table):
    assert table.lease("batch") and table.beat("batch")
    outcomes = fork.Queue()
    child = fork.Process(target=lambda: outcomes.put(Table(table.home).lease("batch")))
    child.start()
    assert outcomes.get(timeout=60) is False
    child.join(60)
    table.release("batch")
    dead_worker(table)
    assert table.lease("batch")


def test_a_reused_pid_is_another_process():
    assert process.alive(os.getpid(), process.started())
    assert not process.alive(os.getpid(), process.started() - 1000)
    child = fork.Process(target=lambda: None)
    child.start()
    start = process.started(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert not process.alive(child.pid, start)
    child.join()


def test_what_a_dead_worker_ran_fails_in_words(table):
    id = table.submit(SPEC)
    dead_worker(table)
    assert table.status(id).state == "running"
    table.settle("batch")
    job = table.status(id)
    assert job.state == "failed" and "worker was killed" in job.error
    table.settle("batch")
    assert table.status(id) == job


def test_with_a_kept_state_it_continues_but_not_for_ever(table):
    id = table.submit(SPEC)
    keep(table.partial(id) / "whole.safetensors", {"cursor": 3})
    for _ in range(jobs.table.ATTEMPTS - 1):
        dead_worker(table)
        table.settle("batch")
        assert table.status(id).state == "queued" and "continuing" in table.status(id).message
    dead_worker(table)
    table.settle("batch")
    assert table.status(id).state == "failed"


def test_a_cancel_that_the_dead_worker_never_saw_counts(table):
    id = table.submit(SPEC)
    dead_worker(table, before_dying=lambda: Table(table.home).cancel(id))
    table.settle("batch")
    assert table.status(id).state == "cancelled"


def test_a_living_worker_s_run_is_left_alone(table):
    table.lease("batch")
    id = claimed(table)
    table.settle("batch")
    assert table.status(id).state == "running"


def test_apps_that_are_gone_do_not_count(table):
    child = fork.Process(target=lambda: Table(table.home).register_app())
    child.start()
    child.join(60)
    assert table.apps() == []
    table.register_app()
    assert table.apps() == [os.getpid()]
    table.unregister_app()
    assert table.apps() == []


# progress


def until(condition, seconds=60.0):
    """Poll until true; the deadline is far beyond any sane time."""
    done = threading.Event()
    for _ in range(int(seconds / 0.02)):
        found = condition()
        if found:
            return found
        done.wait(0.02)
    raise AssertionError("nothing happened in time")


def test_the_last_step_before_a_silence_is_shown(table):
    id = claimed(table)
    with JobProgress(table, id) as progress:
        for i in range(1000):
            progress.step(i, 5000, f"step {i}", live={"loss": 1 / (1 + i)})
        until(lambda: table.status(id).i == 999)
        job = table.status(id)
        assert (job.n, job.message) == (5000, "step 999")
        steps, values = job.live["loss"]
        assert steps[0] == 0 and steps[-1] == 999 and len(steps) <= POINTS and values == [1 / (1 + i) for i in steps]


def test_the_end_of_the_block_writes_what_is_left(table):
    id = claimed(table)
    with JobProgress(table, id) as progress:
        progress.step(7, 9, "nearly")
    assert (table.status(id).i, table.status(id).message) == (7, "nearly")


def test_steps_are_not_written_one_by_one(table, monkeypatch):
    id, written = claimed(table), []
    monkeypatch.setattr(jobs.progress, "EVERY", 3600.0)
    monkeypatch.setattr(table, "report", lambda *a: written.append(a))
    with JobProgress(table, id) as progress:
        for i in range(100_000):
            progress.step(i, 100_000)
    assert len(written) == 1


def test_cancel_reaches_the_next_step_and_no_handler_swallows_it(table):
    id = claimed(table)
    with JobProgress(table, id) as progress:
        progress.step(0, 2)
        table.cancel(id)
        until(progress._cancel.is_set)
        with pytest.raises(Cancelled):
            try:
                progress.step(1, 2)
            except Exception:
                pytest.fail("an analysis that catches its errors caught the cancel")


def test_a_run_that_was_taken_away_ends(table):
    """The app gave the job back to the queue; this worker must not go on beside the next one."""
    id = claimed(table)
    with JobProgress(table, id) as progress:
        table.put_back(id, "")
        until(progress._cancel.is_set)


def test_time_left_by_a_clock_of_our_own():
    now = [0.0]
    pace = Pace(clock=lambda: now[0])
    pace.note(0, 100)
    assert pace.seconds_left() is None
    for i in range(1, 21):
        now[0] += 1.0
        pace.note(i, 100)
    assert pace.seconds_left() == pytest.approx(80.0)
    now[0] += 5.0
    assert pace.seconds_left() == pytest.approx(75.0)  # goes on counting between steps
    now[0] -= 5.0
    for i in range(21, 61):  # twice as fast from here: forgets the slow start
        now[0] += 0.5
        pace.note(i, 100)
    assert 20.0 <= pace.seconds_left() < 24.0
    pace.note(1, 10)  # another phase
    assert pace.seconds_left() is None
    pace.note(1, 10)
    now[0] += 2.0
    pace.note(3, 10)
    assert pace.seconds_left() == pytest.approx(7.0)


def test_a_resumed_curve_overwrites_what_it_repeats():
    curve = [[0, 1, 2, 3], [9.0, 8.0, 7.0, 6.0]]
    add_point(curve, 2, 5.0)
    assert curve == [[0, 1, 2], [9.0, 8.0, 5.0]]


def test_curves_continue_after_an_interruption(table):
    id = claimed(table)
    with JobProgress(table, id) as progress:
        for i in range(5):
            progress.step(i, 9, live={"loss": i})
    table.put_back(id, "")
    assert table.claim("batch", os.getpid()).live == {"loss": [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]}
    with JobProgress(table, id) as progress:
        progress.step(3, 9, live={"loss": 30})
    assert table.status(id).live == {"loss": [[0, 1, 2, 3], [0, 1, 2, 30]]}


# kept states


def test_states_are_kept_at_most_every_half_minute_unless_forced_or_ending(table, monkeypatch):
    id = claimed(table)
    with JobProgress(table, id) as progress:
        assert progress.saved() is None
        progress.save({"n": 0})
        assert progress.saved() is None
        progress.save({"n": 1}, force=True)
        assert progress.saved() == {"n": 1}
        progress.save({"n": 2})
        assert progress.saved() == {"n": 1}
        monkeypatch.setattr(jobs.progress, "SAVE_EVERY", 0.0)
        progress.save({"n": 3})
        assert progress.saved() == {"n": 3}
        monkeypatch.setattr(jobs.progress, "SAVE_EVERY", 3600.0)
        table.cancel(id)
        until(progress._cancel.is_set)
        progress.save({"n": 4})
        assert progress.saved() == {"n": 4}
    table.done(id, "key")
    assert not table.partial(id).exists()


def test_parts_of_a_job_keep_apart(table):
    id = claimed(table)
    with JobProgress(table, id) as progress:
        progress.part("plan").save({"n": 1}, force=True)
        assert progress.saved() is None and progress.part("run").saved() is None
        assert progress.part("plan").saved() == {"n": 1} == progress.part("run").part("plan").saved()
        progress.part("plan").step(3, 4)
    assert table.status(id).i == 3


def test_a_kept_state_is_whole_or_the_one_before(tmp_path):
    """Killed at each system call of a save, the file gives the old state or the new one."""
    file = tmp_path / "partial" / "whole.safetensors"
    keep(file, {"n": 1, "x": np.zeros(1000)})

    def save_and_die(nth):
        calls = [0]

        def deadly(real):
            def call(*arguments):
                calls[0] += 1
                if calls[0] == nth:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments)
            return call

        os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
        keep(file, {"n": 2, "x": np.ones(1000)})

    seen = []
    for nth in (1, 2, 3, 4):
        child = fork.Process(target=save_and_die, args=(nth,))
        child.start()
        child.join(60)
        state = kept(file)
        assert state["x"].tolist() == [state["n"] - 1.0] * 1000
        seen.append((child.exitcode, state["n"]))
    assert seen == [(-9, 1), (-9, 1), (-9, 2), (0, 2)]


def test_a_state_that_cannot_be_read_is_none(tmp_path):
    file = tmp_path / "whole.safetensors"
    for content in (b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", b"garbage that is no file of tensors", os.urandom(100)):
        file.write_bytes(content)
        assert kept(file) is None
    assert kept(tmp_path / "none") is None


def test_kept_states_hold_no_code(tmp_path):
    with pytest.raises(TypeError):
        keep(tmp_path / "x.safetensors", {"model": object()})
    keep(tmp_path / "x.safetensors", {"a": [1, (2.5, None)], 3: {"b": b"x"}})
    assert kept(tmp_path / "x.safetensors") == {"a": [1, (2.5, None)], 3: {"b": b"x"}}
    header = (tmp_path / "x.safetensors").read_bytes()[8:]
    assert json.loads(header.rstrip())["__metadata__"]


# limits


def test_a_visitor_and_all_together_have_limits_and_joining_is_free(table):
    few = Limits(per_owner=2, queue=3)
    spec = lambda name, owner: {"kind": "count", "name": name, "owner": owner}
    first = table.submit(spec("a", "ada"), few)
    table.submit(spec("b", "ada"), few)
    with pytest.raises(Refused, match="You have 2 runs"):
        table.submit(spec("c", "ada"), few)
    assert table.submit(spec("a", "ada"), few) == first  # it waits already
    assert table.submit(spec("a", "bob"), few) == first  # and is the same for everybody
    table.submit(spec("c", "bob"), few)
    with pytest.raises(Refused, match="3 runs are waiting"):
        table.submit(spec("d", "cleo"), few)
    table.cancel(first)
    table.submit(spec("d", "cleo"), few)
    with pytest.raises(Refused):
        table.submit(spec("a", "ada"), few)  # a cancelled one counts again


def test_limits_hold_only_while_others_are_served(monkeypatch):
    for name in ("MICROTOME_PUBLIC", "MICROTOME_JOBS_PER_USER", "MICROTOME_QUEUE"):
        monkeypatch.delenv(name, raising=False)
    assert limits() == Limits(None, None)
    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    assert limits() == Limits(4, 32)
    monkeypatch.setenv("MICROTOME_JOBS_PER_USER", "2")
    monkeypatch.setenv("MICROTOME_QUEUE", "many")
    assert limits() == Limits(2, 32)
