"""Many ordinary computations as one job: each has its own entry in the store, so what is finished is never computed again, and a
sweep that was cancelled or killed goes on where it stopped.

A computation that is refused, does not apply or fails does not end the others: what became of each is kept beside them.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from analysis import run
from cache.fingerprint import fingerprint
from cache.store import Store
from models.progress import Quiet
from models.refusal import NotApplicable, Refused

PARTS = 1_000  # of the progress of one computation


@dataclass(frozen=True)
class Outcome:
    """What became of one request: "done", "not applicable", "refused" or "failed", with the sentence where it is not done."""

    state: str
    why: str = ""


def spec(name: str, requests: list[run.Request] | tuple[run.Request, ...], link: dict | None = None) -> dict:
    """The job that computes them; `link` is {"page": …, "query": {…}}, the way back to where it was asked for."""
    return {"kind": "sweep", "name": name, "requests": [r.to_json() for r in requests], "link": link or {}}


def execute(spec: dict, progress=None, compute: Callable[[dict, object], str] = run.execute) -> str:
    """Compute what is missing; returns the key of the outcomes. Called by workers and the shell."""
    progress, asked = progress or Quiet(), spec["requests"]
    outcomes = []
    for i, request in enumerate(asked):
        part = _Share(progress, i, len(asked), _label(request))
        part.step(0, 1)
        outcomes.append(_one(request, part, compute))
    progress.step(len(asked) * PARTS, len(asked) * PARTS, "done")
    key = key_of(asked)
    run.store().put(key, record={"kind": "sweep", "name": spec.get("name", ""), "outcomes": outcomes, "computed": time.time()}, replace=True)
    return key


def key_of(requests: list[dict]) -> str:
    return fingerprint("sweep", requests)


def outcomes(requests: list[run.Request] | tuple[run.Request, ...], store: Store | None = None) -> list[Outcome | None]:
    """What is known of each request: done where its result is stored; else what the last sweep of these requests said, if it
    was about the same code and files; None where it was not tried yet."""
    store = store or run.store()
    entry = store.get(key_of([r.to_json() for r in requests]))
    said = entry.record["outcomes"] if entry else [None] * len(requests)
    return [_known(request, before, store) for request, before in zip(requests, said)]


def _known(request: run.Request, said: dict | None, store: Store) -> Outcome | None:
    try:
        key = run.key(request)
    except NotApplicable as error:
        return Outcome("not applicable", str(error))
    except Refused as error:
        return Outcome("refused", str(error))
    if store.get(key) is not None:
        return Outcome("done")
    return Outcome(said["state"], said["why"]) if said and said["key"] == key and said["state"] != "done" else None


def _one(request: dict, progress, compute: Callable) -> dict:
    """One computation; its key as far as it is known, its state, and why it is not done."""
    key = ""
    try:
        key = run.key(run.from_json(request))
        return {"key": compute(request, progress), "state": "done", "why": ""}
    except NotApplicable as error:
        return {"key": key, "state": "not applicable", "why": str(error)}
    except Refused as error:
        return {"key": key, "state": "refused", "why": str(error)}
    except MemoryError:
        return {"key": key, "state": "failed", "why": "It ran out of memory; choose fewer sequences or a smaller model."}
    except Exception as fault:
        log = run.home() / "logs" / f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{key[:8]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
        return {"key": key, "state": "failed", "why": f"It stopped at an error in the program ({type(fault).__name__}), not in what you asked. The report is in logs/{log.name} of the home folder."}


def _label(request: dict) -> str:
    from models.variant import Variant

    last = Variant.from_json(request["variants"][-1]).label if request["variants"] else ""
    return ", ".join(filter(None, [request["analysis"].replace("_", " "), last]))


class _Share:
    """Progress of one computation as its share of the whole."""

    def __init__(self, whole, at: int, n: int, label: str):
        self._whole, self._at, self._n, self._label = whole, at, n, label

    def step(self, i: int, n: int, message: str = "", live: dict | None = None) -> None:
        done = PARTS * self._at + (PARTS * min(i, n) // n if n else 0)
        said = ": ".join(filter(None, [self._label, message]))
        self._whole.step(done, PARTS * self._n, f"{self._at + 1} of {self._n}, {said}")

    def save(self, state: dict, force: bool = False) -> None:
        self._whole.save(state, force)

    def saved(self) -> dict | None:
        return self._whole.saved()

    def part(self, key: str) -> _Share:
        return _Share(self._whole.part(key), self._at, self._n, self._label)
