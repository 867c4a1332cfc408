"""What takes seconds or minutes to say about a checkpoint: computed in a worker, kept in the store, read by the page.

    Ask("statistics", source)            every tensor's numbers and histogram, and which tensors are equal
    Ask("spectrum", source, tensor=…)    all singular values of one matrix
    Ask("difference", source, other)     two checkpoints tensor by tensor, B − A
    Ask("selfcheck", source)             load it, and see whether it behaves like a model
    Ask("fetch", source)                 bring a checkpoint of a hub to this machine

A source that cannot be run can still be examined, but for its self-check. Who may see a source is for the page to ask
before it makes an Ask.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from cache.fingerprint import code_identity, fingerprint
from cache.store import Entry, Store
from models import checkpoints, differences, hub, inspect, selfcheck, shelf, weights
from models.refusal import Refused, shown

TITLES = {
    "statistics": "Statistics of a checkpoint", "spectrum": "Spectrum of a tensor", "difference": "Difference of two checkpoints",
    "selfcheck": "Self-check of a checkpoint", "fetch": "Fetching a checkpoint",
}
READ_RATE = 2e7  # elements per second of two passes over a tensor, one slow core
SVD_RATE = 2e9  # m·n·min(m, n) per second, the same core


@dataclass(frozen=True)
class Ask:
    task: str
    source: str
    other: str = ""
    tensor: str = ""

    def spec(self, home: Path, estimate: float | None = None) -> dict:
        """The job; the files' seals are part of its id, so that changed files are another job."""
        seals = [seal(folder_of(name, home)) for name in (self.source, self.other) if name and self.task != "fetch"]
        spec = {"kind": "checkpoint", "name": TITLES[self.task], **asdict(self), "seals": seals}
        return spec if estimate is None else spec | {"estimate": estimate}


def key(ask: Ask, home: Path) -> str:
    """Of the stored answer: files (place, size, time), tensor, and the code that measures."""
    folders = [folder_of(name, home) for name in (ask.source, ask.other) if name] if ask.task != "fetch" else []
    return fingerprint("checkpoint", _code() if folders else "", ask.task, ask.source if not folders else "", [(str(f), seal(f)) for f in folders], ask.tensor)


def stored(ask: Ask, home: Path) -> Entry | None:
    if ask.task == "fetch":
        try:
            folder_of(ask.source, home)
        except hub.NotHere:
            return None
    return _store(home).get(key(ask, home))


def execute(spec: dict, home: Path, progress) -> str:
    """Compute one Ask (its fields in a job's spec) unless it is stored; returns its key. Called by a worker."""
    ask = Ask(spec["task"], spec["source"], spec.get("other", ""), spec.get("tensor", ""))
    found, store = key(ask, home), _store(home)
    with store.lock(found, waiting=lambda: progress.step(0, 0, "another run computes this")):
        if store.get(found) is None or ask.task == "fetch":
            began = time.perf_counter()
            tables, arrays, plain = _TASKS[ask.task](ask, home, progress)
            store.put(found, arrays, tables, {"checkpoint": ask.task, "computed": time.time(), "seconds": time.perf_counter() - began, **plain}, replace=True)
    return found


def seconds(ask: Ask, home: Path) -> float:
    """A guess from the headers, for the choice of lane and for the page."""
    if ask.task == "fetch":
        return 60.0
    tensors = [t for name in (ask.source, ask.other) if name for t in weights.read(folder_of(name, home)).tensors.values()]
    if ask.task == "spectrum":
        tensors = [t for t in tensors if t.name == ask.tensor]
    elements = sum(t.n_elements for t in tensors)
    if ask.task == "selfcheck":
        return 6.0 + elements / READ_RATE
    decomposed = [t for t in tensors if ask.task == "spectrum" or ask.task == "statistics" and inspect.cheap(t)]
    return elements / READ_RATE + sum(t.n_elements * min(t.shape) / SVD_RATE for t in decomposed if len(t.shape) == 2)


def folder_of(source: str, home: Path) -> Path:
    """The folder of a source, runnable or not; a hub's name must have been fetched."""
    head, _, name = source.partition("/")
    if head == "demo":
        entry = next((e for e in shelf.demo_models() if e.source == source), None)
        if entry is None:
            raise Refused(f"There is no demo model {shown(source, 60)}. Choose one of the shelf.")
        return Path(entry.path)
    if head == "shelf":
        folder = Path(shelf.find(name, home).path)
        if not folder.is_dir():
            raise Refused(f"The folder of {shown(source, 60)} is gone. Put it back, or add it again.")
        return folder
    name, _, revision = source.partition("@")
    return hub.find(name, revision or None, home)[0]


def seal(folder: Path) -> str:
    """Changes when a file of the checkpoint does: names, sizes, times and inodes, no content read."""
    names = [*weights.read(folder).files, "config.json", *shelf.TOKENIZER_FILES]
    stats = [(name, (folder / name).stat()) for name in names if (folder / name).is_file()]
    return fingerprint("seal", [(name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in stats])[:16]


def register(path: str, home: Path, owner: str = "") -> str:
    """The source of a folder (or of the one .safetensors in it) of this machine; without a config it can be examined, not run."""
    folder = Path(path.strip()).expanduser()
    if folder.suffix == ".safetensors" and folder.is_file():
        folder = folder.parent
    try:
        return f"shelf/{shelf.register(folder, home, owner)}"
    except Refused as refusal:
        if shelf.public() or not folder.is_dir():
            raise
        folder = folder.resolve()
        n_bytes = weights.read(folder).n_bytes
        alias = f"x-{fingerprint(str(folder), seal(folder))[:16]}"
        entry = shelf.ShelfEntry(f"shelf/{alias}", str(folder), "folder", folder.name[:80], None, owner, False, time.time(), None, n_bytes, False, str(refusal))
        return f"shelf/{shelf.add(entry, home)}"


def _statistics(ask: Ask, home: Path, progress):
    folder = folder_of(ask.source, home)
    table = inspect.statistics(folder, progress)
    groups = inspect.duplicates(folder)
    equal = pa.table({"group": pa.array([i for i, g in enumerate(groups) for _ in g], pa.int32()), "name": pa.array([n for g in groups for n in g], pa.string())})
    return {"statistics": table, "equal": equal}, {}, {}


def _spectrum(ask: Ask, home: Path, progress):
    progress.step(0, 1, "singular values")
    sigma, effective, stable = inspect.spectrum(folder_of(ask.source, home), ask.tensor)
    return {}, {"sigma": sigma}, {"effective": effective, "stable": stable}


def _difference(ask: Ask, home: Path, progress):
    return {"difference": differences.of_weights(folder_of(ask.source, home), folder_of(ask.other, home), progress)}, {}, {}


def _selfcheck(ask: Ask, home: Path, progress):
    """Every line is a fact or the reason why there is none; a model that does not load is Refused with the list."""
    progress.step(0, 4, "comparing config and weights")
    checkpoint = checkpoints.resolve(ask.source, home)
    checkpoints.check(checkpoint)
    progress.step(1, 4, "loading")
    fits = checkpoints.estimate(checkpoint) + checkpoints.HEADROOM <= checkpoints.available("cpu")
    model, tokenizer = checkpoints.load(checkpoint, device="cpu" if fits else "offload", finite=False)
    progress.step(2, 4, "four checks on a short text")
    found = selfcheck.run(model, tokenizer)
    del model
    progress.step(3, 4, "the same through TransformerLens")
    try:
        bridge, why = (checkpoints.plain_vs_bridge(checkpoint), "") if fits else (None, "not compared: the model does not fit into memory whole.")
    except Refused as refusal:
        bridge, why = None, str(refusal)
    return {}, {}, {"check": {**asdict(found), "lines": list(found.lines)}, "passed": found.passed, "bridge": bridge, "no_bridge": why}


def _fetch(ask: Ask, home: Path, progress):
    name, _, revision = ask.source.partition("@")
    progress.step(0, 1, f"fetching {shown(name, 60)}")
    folder, commit = hub.fetch(name, revision or None, home)
    return {}, {}, {"folder": str(folder), "commit": commit}


_TASKS = {"statistics": _statistics, "spectrum": _spectrum, "difference": _difference, "selfcheck": _selfcheck, "fetch": _fetch}


def _code() -> str:
    return code_identity(sys.modules[__name__])


@lru_cache(maxsize=4)
def _store(home: Path) -> Store:
    return Store(home / "store")
