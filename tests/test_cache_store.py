"""Entries: bit for bit, whole or absent, computed once, evicted in order."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache.codec import STORABLE, decode, decode_value, encode, encode_value
from cache.store import Store
from tests.conftest import REPO

fork = multiprocessing.get_context("fork")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


# round trips


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    name: str
    count: int
    ratio: float
    missing: float
    endless: float
    nothing: None
    flag: bool
    shape: tuple
    list_of: list
    x: np.ndarray
    single: np.float32
    words: np.ndarray
    waves: np.ndarray
    table: pa.Table
    by_layer: dict
    odd: dict
    raw: bytes


def result() -> Result:
    table = pa.table({"layer": pa.array([0, None, 2], pa.int32()), "word": ["a", "é", ""], "x": pa.array([1.5, float("nan"), None], pa.float32())})
    return Result(
        "a", 2**80, 0.1 + 0.2, float("nan"), float("-inf"), None, True, (1, (2.5, "x"), ()), [1, [2]],
        np.array([[1.0, np.nan, -0.0], [np.inf, 5e-324, 3.0]]), np.float32(0.1), np.array([["a", "bcd"], ["", "é"]]), np.array([1 + 2j, np.nan + 0j]),
        table, {"3.attn/out": np.arange(3, dtype=np.int8), "empty": np.empty((0, 4), np.float16)}, {0: (1, 2), (1, "a"): np.array(True)}, b"\x00\xff",
    )


def same(a, b) -> bool:
    """Equal in type, dtype, shape and every bit; NaN payloads included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(x, y) for x, y in zip(a.values(), b.values()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, float):
        return a.hex() == b.hex()
    if isinstance(a, pa.Table):
        return a.schema.equals(b.schema, check_metadata=True) and a.to_pydict().__repr__() == b.to_pydict().__repr__()
    return a == b


def test_a_dataclass_survives_bit_for_bit(store):
    original = result()
    arrays, tables, plain = encode(original)
    entry = store.put("k", arrays=arrays, tables=tables, record={"plain": plain})
    for back in (decode(Result, entry), decode(Result, Store(store.root).get("k"))):
        for field in dataclasses.fields(Result):
            assert same(getattr(original, field.name), getattr(back, field.name)), field.name


def test_tensors_survive_bit_for_bit(store):
    torch = pytest.importorskip("torch")
    state = {
        "bf16": torch.tensor([1.0, float("nan"), 3.14159, -0.0]).bfloat16(), "int8": torch.arange(-3, 3, dtype=torch.int8), "bool": torch.tensor([[True], [False]]),
        "empty": torch.empty(0, 3), "scalar": torch.tensor(2.5, dtype=torch.float64), "f8": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
        "transposed": torch.arange(6.0).reshape(2, 3).T, "complex": torch.tensor([1 + 2j]), "grad": torch.nn.Parameter(torch.ones(2)),
        "optimiser": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2)}}, "param_groups": [{"betas": (0.9, 0.999), "params": [0], "lr": 1e-3, "foreach": None}]},
        "random": torch.get_rng_state(),
    }
    arrays, tables, plain = encode_value(state)
    back = decode_value(plain, store.put("k", arrays=arrays, record={"plain": plain}))

    def check(a, b):
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and a.shape == b.shape
            bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
            assert torch.equal(a.detach().contiguous().view(bits), b.contiguous().view(bits))
        elif isinstance(a, dict):
            assert list(a) == list(b)
            [check(x, y) for x, y in zip(a.values(), b.values())]
        else:
            assert same(a, b)

    check(state, back)
    assert store.get("k").array("bf16").tolist()[2] == state["bf16"].float().tolist()[2]  # numpy reads it as float32, same value
    assert store.get("k").array("bf16").dtype == np.float32
    with pytest.raises(TypeError, match="F8_E4M3"):
        store.get("k").array("f8")


@settings(max_examples=40, deadline=None)
@given(st.lists(hnp.arrays(st.sampled_from(sorted(STORABLE)), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)), max_size=4), st.booleans())
def test_any_array_survives(arrays, transposed):
    given_arrays = {f"a{i}": a.T if transposed else a for i, a in enumerate(arrays)}
    with tempfile.TemporaryDirectory() as folder:
        back = Store(Path(folder)).put("k", arrays=given_arrays).arrays()
        assert set(back) == set(given_arrays)
        assert all(same(np.asarray(given_arrays[name]), back[name]) for name in back)


def test_foreign_byte_order_keeps_its_values(store):
    assert store.put("k", arrays={"x": np.arange(3, dtype=">i4")}).array("x").tolist() == [0, 1, 2]


def test_names_that_would_collide_do_not():
    arrays, _, plain = encode_value({"a.b": np.ones(1), "a": {"b": np.zeros(1)}})
    assert len(arrays) == 2
    assert plain["dict"]["a.b"] != plain["dict"]["a"]["dict"]["b"]


@dataclasses.dataclass(frozen=True)
class One:
    field: object


@pytest.mark.parametrize("value", [object(), np.array([object()]), {1j: 2}, {1, 2}, np.datetime64("2020"), np.ma.masked_array([1.0]), One], ids=lambda value: type(value).__name__)
def test_what_would_not_come_back_is_refused_by_name(value):
    with pytest.raises(TypeError, match="field"):
        encode(One(value))


def test_arrays_are_read_only_and_outlive_their_entry(store):
    x = store.put("k", arrays={"x": np.arange(4)}).array("x")
    with pytest.raises(ValueError):
        x[0] = 9
    store.remove("k")
    assert x.tolist() == [0, 1, 2, 3]


def test_columns_of_a_table(store):
    entry = store.put("k", tables={"tokens/all": pa.table({"a": [1, 2], "b": [3, 4]}), "empty": pa.table({"a": pa.array([], pa.int8())})})
    assert entry.table("tokens/all", columns=["b"]).to_pydict() == {"b": [3, 4]}
    assert set(entry.table_names()) == {"tokens/all", "empty"} and entry.table_path("tokens/all").is_file()
    assert entry.table("empty").schema.field("a").type == pa.int8()


# whole or absent


def test_put_is_idempotent(store):
    first = store.put("k", arrays={"x": np.zeros(2)}, record={"n": 1})
    second = store.put("k", arrays={"x": np.ones(2)}, record={"n": 2})
    assert second.record == first.record == {"n": 1} and second.array("x").tolist() == [0, 0]
    assert os.listdir(store.root / ".tmp") == []


def test_a_result_asked_for_again_replaces_the_old_one(store):
    store.put("k", arrays={"x": np.zeros(2)}, record={"n": 1})
    new = store.put("k", arrays={"x": np.ones(2)}, record={"n": 2}, replace=True)
    assert new.record == {"n": 2} and store.get("k").array("x").tolist() == [1, 1] and os.listdir(store.root / ".tmp") == []


DAMAGE = {
    "arrays flipped": lambda e: flip(e / "arrays.safetensors"),
    "arrays cut": lambda e: os.truncate(e / "arrays.safetensors", 20),
    "arrays gone": lambda e: (e / "arrays.safetensors").unlink(),
    "table flipped": lambda e: flip(e / "table-t.parquet"),
    "table gone": lambda e: (e / "table-t.parquet").unlink(),
    "record flipped": lambda e: (e / "record.json").write_text((e / "record.json").read_text().replace('"n": 1', '"n": 7')),
    "record cut": lambda e: os.truncate(e / "record.json", 30),
    "record empty": lambda e: (e / "record.json").write_text(""),
    "record of another form": lambda e: (e / "record.json").write_text("[1]"),
    "record gone": lambda e: (e / "record.json").unlink(),
}


def flip(file):
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_absent_and_computed_again(store, damage):
    content = dict(arrays={"x": np.arange(9)}, tables={"t": pa.table({"a": [1, 2, 3]})}, record={"n": 1})
    entry = store.put("k", **content)
    DAMAGE[damage](entry.path)
    for reader in (store, Store(store.root)):
        assert reader.get("k") is None
    again = store.put("k", **content)
    assert again.array("x").tolist() == list(range(9)) and store.get("k").record == {"n": 1}
    assert Store(store.root).get("k").table("t").to_pydict() == {"a": [1, 2, 3]}


def test_digests_are_taken_once_per_file(store, monkeypatch):
    import cache.store

    store.put("k", arrays={"x": np.arange(9)})
    reader, taken = Store(store.root), []
    digest = cache.store._digest_of_file
    monkeypatch.setattr(cache.store, "_digest_of_file", lambda path: taken.append(path.name) or digest(path))
    for _ in range(3):
        assert reader.get("k") is not None
    assert taken == ["arrays.safetensors"]


def test_killed_at_every_system_call_the_store_is_whole(store):
    """A child is killed at its first, second, … sync or rename while it puts; no reader ever sees a part of an entry."""
    killed = 0
    for nth in range(1, 30):
        child = fork.Process(target=put_and_die, args=(store.root, nth))
        child.start()
        child.join(60)
        entry = Store(store.root).get("k")
        if entry is not None:
            assert entry.array("x").tolist() == list(range(1000)) and entry.table("t").num_rows == 3 and entry.record == {"n": 1}
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        killed += 1
        store.remove("k")
    assert killed >= 6 and child.exitcode == 0 and entry is not None  # arrays, table, record, folder; rename; root
    leftover = os.listdir(store.root / ".tmp")
    assert leftover
    for name in leftover:
        os.utime(store.root / ".tmp" / name, (0, 0))
    store.evict()
    assert os.listdir(store.root / ".tmp") == [] and Store(store.root).get("k") is not None


def put_and_die(root, nth):
    calls = [0]

    def deadly(real):
        def call(*arguments, **named):
            calls[0] += 1
            if calls[0] == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)
        return call

    os.fsync, os.rename = deadly(os.fsync), deadly(os.rename)
    Store(root).put("k", arrays={"x": np.arange(1000)}, tables={"t": pa.table({"a": [1, 2, 3]})}, record={"n": 1})


@pytest.mark.parametrize("key", ["", "..", "../x", "a/b", ".tmp", "a\n", "x" * 300])
def test_a_key_is_no_path(store, key):
    with pytest.raises(ValueError, match="no key"):
        store.put(key, arrays={})


# once


def compute_once(root, started, ran):
    store = Store(root)
    started.wait()
    with store.lock("k"):
        if store.get("k") is None:
            with open(ran, "a") as out:
                out.write("x")
            time.sleep(0.05)
            store.put("k", arrays={"x": np.arange(3)})


def test_four_processes_compute_one_key_once(store, tmp_path):
    started, ran = fork.Barrier(4), tmp_path / "ran"
    children = [fork.Process(target=compute_once, args=(store.root, started, ran)) for _ in range(4)]
    [c.start() for c in children]
    [c.join(60) for c in children]
    assert [c.exitcode for c in children] == [0] * 4
    assert ran.read_text() == "x" and store.get("k") is not None


def test_threads_exclude_each_other_and_a_waiter_may_give_up(store):
    class Tired(Exception):
        pass

    def give_up():
        raise Tired

    def attempt():
        try:
            with store.lock("k", waiting=give_up):
                outcomes.append("had it")
        except Tired:
            outcomes.append("gave up")

    outcomes = []
    with store.lock("k"):
        other = threading.Thread(target=attempt)
        other.start()
        other.join(30)
        with store.lock("another", waiting=give_up):
            pass
    attempt()
    assert outcomes == ["gave up", "had it"]


def test_a_lock_ends_with_its_process(store):
    child = fork.Process(target=lambda: [store.lock("k").__enter__(), os.kill(os.getpid(), signal.SIGKILL)])
    child.start()
    child.join(60)

    def give_up():
        raise AssertionError("still locked")

    with store.lock("k", waiting=give_up):
        pass


def test_concurrent_puts_of_one_key_leave_one_whole_entry(store):
    started = fork.Barrier(4)

    def put(n):
        started.wait()
        Store(store.root).put("k", arrays={"x": np.full(10_000, n)}, record={"n": n})

    children = [fork.Process(target=put, args=(n,)) for n in range(4)]
    [c.start() for c in children]
    [c.join(60) for c in children]
    assert [c.exitcode for c in children] == [0] * 4
    entry = store.get("k")
    assert set(entry.array("x")) == {entry.record["n"]} and os.listdir(store.root / ".tmp") == []


# eviction


def filled(store, *names, size=100_000):
    for age, name in enumerate(names):
        store.put(name, arrays={"x": np.zeros(size, np.uint8)}, record={"kind": "run" if name < "c" else "plan", "analysis": name})
        os.utime(store.root / name, (0, 1_000_000 + age))  # read long ago, in this order
    return store


def test_least_recently_read_goes_first(store):
    filled(store, "a", "b", "c", "d")
    store.get("a")  # read now
    assert store.evict(250_000) == ["b", "c"]
    assert store.keys() == ["a", "d"] and store.size() < 250_000


def test_pinned_locked_and_recent_entries_stay(store):
    filled(store, "a", "b", "c")
    store.pin("a")
    store.touch("c")
    with store.lock("b"):
        assert store.evict(0) == []
    assert store.evict(0) == ["b"]
    store.unpin("a")
    assert store.evict(0) == ["a"] and store.keys() == ["c"]
    assert store.evict(0, spare_seconds=0) == ["c"]


def test_a_put_beyond_the_budget_evicts(tmp_path):
    store = filled(Store(tmp_path / "s", budget_bytes=250_000), "a", "b")
    store.put("c", arrays={"x": np.zeros(100_000, np.uint8)})
    assert store.keys() == ["b", "c"]


def test_an_evicted_key_can_still_be_locked_by_those_who_wait(store):
    """The lock's file goes with the entry; somebody who held it open must not believe that he has the lock."""
    filled(store, "a")
    entered, leave, order = threading.Event(), threading.Event(), []

    def hold():
        with store.lock("a"):
            entered.set()
            leave.wait(30)
            os.unlink(store.root / ".locks" / "a")  # as eviction does, the lock held
            order.append("first")

    def follow():
        with store.lock("a"):
            order.append("second")

    first, second = threading.Thread(target=hold), threading.Thread(target=follow)
    first.start()
    entered.wait(30)
    second.start()
    leave.set()
    first.join(30)
    second.join(30)
    assert order == ["first", "second"] and (store.root / ".locks" / "a").exists()


def test_command_line_lists_and_shrinks(tmp_path):
    filled(Store(tmp_path / "store"), "a", "b", "c")
    run = lambda *more: subprocess.run([sys.executable, "-m", "cache", "--home", str(tmp_path), *more], cwd=REPO, capture_output=True, text=True)
    *kinds, everything = (line.split()[:3] for line in run().stdout.splitlines())
    assert sorted(kinds) == [["plan", "c", "1"], ["run", "a", "1"], ["run", "b", "1"]] and everything == ["all", "3", "entries"]
    shrunk = run("--keep", "150KB").stdout
    assert "removed 2 entries" in shrunk and Store(tmp_path / "store").keys() == ["c"]
    assert run("--keep", "much").returncode == 2 and "20GB" in run("--keep", "much").stderr
    assert run("--home", str(tmp_path / "none")).stdout.startswith("There is no store")


def test_a_record_is_readable_by_people(store):
    text = (store.put("k", arrays={"x": np.zeros(1)}, record={"plain": {"a": 1}}).path / "record.json").read_text()
    assert json.loads(text)["record"] == {"plain": {"a": 1}} and set(json.loads(text)["files"]) == {"arrays.safetensors"}
