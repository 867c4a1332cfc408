"""What the lab measures: a variant of A against A, as the page “What did the compression cost?” does, on the text of the sidebar."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from analysis import run
from analysis.contract import Run
from models import variant_shelf
from models.refusal import Refused
from models.variant import Variant
from pages.shared import visitor
from pages.shared.drawn import Kept
from pages.shared.view import View

COST = "compression_cost"


def request(view: View, a: Variant, v: Variant) -> run.Request:
    """The ordinary computation behind a point of the plane."""
    return run.request(COST, (run.keep_recipe(a), run.keep_recipe(v)), view.corpus, {}, view.device)


@dataclass(frozen=True)
class Measured:
    """A variant whose cost is stored; equal to itself read again."""

    variant: Variant
    request: run.Request
    kept: Kept

    @property
    def run(self) -> Run:
        return _read(self.kept, self.request)


def measured(view: View, a: Variant, v: Variant) -> Measured | None:
    """The stored cost of a variant, or None."""
    ask = request(view, a, v)
    try:
        entry = run.store().get(run.key(ask))
    except Refused:
        return None
    return None if entry is None else Measured(v, ask, Kept(entry))


@lru_cache(maxsize=512)
def _read(kept: Kept, ask: run.Request) -> Run:
    return run.read(kept.entry, ask, "B")


def of_a(a: Variant, v: Variant | None) -> bool:
    """Whether a variant is A with steps on top."""
    return (v is not None and len(v.steps) > len(a.steps) and v.steps[: len(a.steps)] == a.steps
            and (v.base, v.revision, v.dtype, v.parents) == (a.base, a.revision, a.dtype, a.parents))


def kept(a: Variant) -> list[variant_shelf.Kept]:
    """The variants of A on the visitor's shelf."""
    return [k for k in variant_shelf.listing(run.home(), visitor.owner()) if of_a(a, k.variant)]
