"""Tiny jobs for the engine's tests: `--kinds tests.jobs_kinds:KINDS`. Each leaves a line in <home>/ran when it computes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cache.fingerprint import fingerprint
from cache.store import Store
from models.refusal import Refused

KINDS = {
    kind: ("tests.jobs_kinds", kind)
    for kind in ("count", "wait", "refuse", "fault", "hungry", "die", "deaf", "train")
}


def home() -> Path:
    return Path(os.environ["MICROTOME_HOME"])


def note(line: str) -> None:
    with open(home() / "ran", "a") as out:
        out.write(line + "\n")


def count(spec, progress) -> str:
    """Store one array, once per key; `seconds` long."""
    store, key = Store(home() / "store"), fingerprint("count", spec["name"])
    with store.lock(key):
        if store.get(key) is None:
            note(f"count {spec['name']}")
            import numpy as np

            n = int(spec.get("steps", 3))
            for i in range(n):
                progress.step(i, n, "counting", live={"square": i * i})
                time.sleep(spec.get("seconds", 0.0) / n)
            store.put(key, arrays={"x": np.arange(5)}, record={"kind": "count"})
    return key


def wait(spec, progress) -> str:
    """Runs until the file <home>/go is there; steps all the time."""
    note("wait")
    i = 0
    while not (home() / "go").exists():
        progress.step(i, 0, "waiting")
        time.sleep(0.01)
        i += 1
    return "waited"


def refuse(spec, progress) -> str:
    raise Refused("The cupboard is empty; put something in.", details=("shelf 1", "shelf 2"))


def fault(spec, progress) -> str:
    raise KeyError("a secret of the program")


def hungry(spec, progress) -> str:
    raise MemoryError


def die(spec, progress) -> str:
    """Killed from inside, as the system does when memory runs out; before that, half an entry is written."""
    note("die")
    store = Store(home() / "store")
    (store.root / ".tmp" / f"half.{os.getpid()}.0").mkdir()
    os.kill(os.getpid(), 9)


def deaf(spec, progress) -> str:
    """Steps once and never again."""
    progress.step(0, 2, "deaf")
    note(f"deaf {os.getpid()}")
    time.sleep(600)


def train(spec, progress, after_step=lambda i: None) -> str:
    """Twenty steps of Adam with dropout on shuffled data: weights, both moments, the random state and the cursor matter.
    Adam is written out, because importing torch.optim costs seconds.

    `halt` in the spec: at these steps the process waits for <home>/pass-<step>, so that a test can kill it there.
    """
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(spec.get("seed", 0))
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1))
    weights = dict(model.named_parameters())
    moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}
    data = torch.randn(64, 8)
    order, cursor, losses = torch.randperm(64), 0, []
    state = progress.saved()
    if state is not None:
        model.load_state_dict(state["model"])
        moments, order, cursor, losses = state["moments"], state["order"], state["cursor"], state["losses"]
        torch.set_rng_state(state["random"])
    note(f"train from {cursor}")
    for i in range(cursor, 20):
        if i and i % 8 == 0:
            order = torch.randperm(64)
        batch = data[order[(i % 8) * 8 : (i % 8) * 8 + 8]]
        loss = (model(batch).squeeze(1) - batch.sum(1)).square().mean()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        with torch.no_grad():
            for (name, w), g in zip(weights.items(), gradients):
                first, second = moments[name]
                first.mul_(0.9).add_(g, alpha=0.1)
                second.mul_(0.99).add_(g * g, alpha=0.01)
                w -= 0.01 * (first / (1 - 0.9 ** (i + 1))) / ((second / (1 - 0.99 ** (i + 1))).sqrt() + 1e-8)
        losses.append(loss.item())
        progress.save({"model": model.state_dict(), "moments": moments, "order": order, "cursor": i + 1, "losses": losses,
                       "random": torch.get_rng_state()}, force=True)
        progress.step(i + 1, 20, "training", live={"loss": losses[-1]})
        after_step(i)
        while i in spec.get("halt", ()) and not (home() / f"pass-{i}").exists():
            progress.step(i + 1, 20, "halted")
            time.sleep(0.01)
    store, key = Store(home() / "store"), fingerprint("train", spec.get("name"))
    arrays = {**model.state_dict(), **{f"{name}.moment{k}": m for name, pair in moments.items() for k, m in enumerate(pair)}}
    store.put(key, arrays={**arrays, "random": torch.get_rng_state()}, record={"kind": "train", "losses": losses})
    return key
