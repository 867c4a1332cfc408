"""The register of hostile uploads: each case writes files into a folder and says which sentence must come back.

A case is a function (into, good, canary): `into` is the upload, `good` an honest GPT-2 to start from, `canary` a path
that code in the file would create. `says` is a regular expression of the sentence; LOADS means that the harmful part is
ignored and the model opens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

LOADS = "loads"


@dataclass(frozen=True)
class Case:
    name: str
    attack: str  # the class it belongs to
    says: str
    write: Callable
    answers: dict | None = field(default_factory=dict)


CASES: list[Case] = []


def case(attack: str, says: str, answers: dict | None = None):
    def add(write: Callable) -> Callable:
        CASES.append(Case(write.__name__, attack, says, write, {} if answers is None else answers))
        return write

    return add
