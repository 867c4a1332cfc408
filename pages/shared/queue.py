"""Jobs as the pages see them: one standing per computation, found by what it computes, whoever asked for it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import streamlit as st

import analysis
from analysis import run
from jobs import client
from jobs.spec import job_id
from jobs.table import Job
from models import shelf
from models.progress import SHARES
from models.refusal import Refused
from models.variant import Variant, write_value
from pages.shared import visitor
from pages.shared.wording import duration

ASKED = ("queued", "running")
REFUSED = "job_refused"
PAGES = ("compression", "compression_report")  # pages that ask for jobs of their own


@dataclass(frozen=True)
class Standing:
    """A job with the words for it."""

    job: Job

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def mine(self) -> bool:
        """Asked for by this visitor; always, while the app serves its own user."""
        return not shelf.public() or self.job.spec.get("owner", "") == visitor.owner()

    @property
    def state(self) -> str:
        return "waiting" if self.job.state == "queued" else self.job.state

    @property
    def active(self) -> bool:
        """Waiting or running."""
        return self.job.state in ASKED

    @property
    def running(self) -> bool:
        return self.job.state == "running"

    @property
    def failed(self) -> bool:
        return self.job.state == "failed"

    @property
    def cancelled(self) -> bool:
        return self.job.state == "cancelled"

    def computed_otherwise(self, request: run.Request) -> bool:
        """Done, but stored under another key: the worker runs a newer text of the program, or newer files, than this page."""
        return self.job.state == "done" and self.job.result_key not in (None, run.key(request))

    @property
    def fraction(self) -> float:
        if self.job.state == "done":
            return 1.0
        return min(max(self.job.i / self.job.n, 0.0), 1.0) if self.job.n else 0.0

    @property
    def left(self) -> str:
        """ "9 s left", or "" while no rate is known."""
        return f"{duration(self.job.seconds_left)} left" if self.running and self.job.seconds_left is not None else ""

    @property
    def short(self) -> str:
        if self.job.cancel_asked and self.running:
            return "cancelling"
        return ", ".join(filter(None, [f"{self.fraction * 100:.0f} %", self.left])) if self.running else "waiting"

    @property
    def sentence(self) -> str:
        """What it does now, how far, how long still."""
        if not self.running:
            return self.job.message or "waiting for a worker"
        if self.job.cancel_asked:
            return "cancelling after this step"
        return ", ".join(filter(None, [self.job.message or "starting", self._count, self.left]))

    @property
    def _count(self) -> str:
        if not self.job.n or self.job.spec["kind"] == "sweep":  # a sweep counts in its message
            return ""
        return f"{self.fraction * 100:.0f} %" if self.job.n == SHARES else f"{self.job.i:,} of {self.job.n:,}"

    @property
    def resumable(self) -> bool:
        """Interrupted, and a state was kept to go on from."""
        return client.resumable(self.id)

    @property
    def title(self) -> str:
        """Its analysis and its models; of somebody else's run, no more than that there is one."""
        spec = self.job.spec
        if not self.mine:
            return "Somebody else’s run"
        try:
            what = analysis.load(spec.get("analysis", "")).TITLE
        except Refused:
            what = str(spec.get("name") or spec.get("kind", "job"))
        return ", ".join([what, *map(_label, spec.get("variants", []))])

    @property
    def seconds(self) -> float | None:
        return self.job.finished - self.job.started if self.job.started and self.job.finished else None

    @property
    def page(self) -> str | None:
        """The page that shows what it computes."""
        name = self.job.spec.get("analysis") or self.job.spec.get("link", {}).get("page")
        return name if self.mine and name in (*analysis.ANALYSES, *PAGES) else None

    @property
    def query(self) -> dict[str, str]:
        """The link's values for that page."""
        spec = self.job.spec
        if "link" in spec:
            return spec["link"].get("query", {})
        written = [Variant.from_json(v).written for v in spec["variants"]]
        default = analysis.load(spec["analysis"]).Params()
        out = dict(zip(("a", "b"), written)) | ({"more": ";".join(written[2:])} if len(written) > 2 else {}) | ({"corpus": spec["corpus"]} if spec["corpus"] else {})
        changed = {k: tuple(v) if isinstance(v, list) else v for k, v in spec["params"].items()}
        return out | {k: write_value(v) for k, v in changed.items() if getattr(default, k, None) != v}


def find(request: run.Request) -> Standing | None:
    """The latest job of this computation, an "again" before a first time."""
    found = [job for job in (client.status(job_id(_spec(request, again))) for again in (True, False)) if job is not None]
    return Standing(max(found, key=lambda job: (job.state in ASKED, job.updated))) if found else None


def submit(request: run.Request, again: bool = False) -> str | None:
    return ask({**_spec(request, again), "estimate": run.estimate(request).seconds})


def ask(spec: dict) -> str | None:
    """Every page's way to the engine: the visitor's name goes along, and a refusal (too much is waiting) is told once in the
    sidebar instead of raised. Returns the job's id, or None."""
    try:
        id = client.submit({**spec, "owner": visitor.owner()})
    except Refused as refusal:
        st.session_state[REFUSED] = str(refusal)
        return None
    st.session_state.pop(REFUSED, None)
    return id


def refusal() -> str | None:
    """What the last `ask` of this session was refused for."""
    return st.session_state.get(REFUSED)


def cancel(id: str) -> None:
    """Ends a run; where the app serves others, only for who asked for it."""
    job = client.status(id)
    if job is not None and Standing(job).mine:
        client.cancel(id)


def active() -> list[Standing]:
    return [Standing(job) for job in client.queue()]


def history(limit: int) -> list[Standing]:
    return [Standing(job) for job in client.history(limit)]


def fraction(standings: list[Standing | None]) -> float:
    """Of several jobs together; one that is not there any more is done."""
    return sum(1.0 if s is None else s.fraction for s in standings) / max(len(standings), 1)


def settled(standings: list[Standing | None]) -> bool:
    return not any(s is not None and s.active for s in standings)


def age(standing: Standing) -> float:
    """Seconds since it ended, or since it was asked for."""
    return time.time() - (standing.job.finished or standing.job.created)


def _spec(request: run.Request, again: bool) -> dict:
    return {**request.to_json(), "again": True} if again else request.to_json()


def _label(variant: dict) -> str:
    return Variant.from_json(variant).label
