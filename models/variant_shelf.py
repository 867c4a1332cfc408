"""The shelf of variants: recipes that somebody keeps, with a name each, in `variants.json` of the home folder.

A kept variant is a recipe, not a copy of weights: its plans and numbers lie in the store and are made again where they are gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

from models import hashes
from models.refusal import Refused
from models.variant import Variant

LONGEST, MOST = 60, 500  # characters of a name, variants of one owner
_NAME = re.compile(r"[^\x00-\x1f\x7f<>`|~]+\Z")


@dataclass(frozen=True)
class Kept:
    """One variant on the shelf; names are unique for an owner."""

    name: str
    variant: Variant
    owner: str = ""
    created: float = 0.0


def listing(home: Path, owner: str = "") -> list[Kept]:
    """What this owner keeps, in the order it was kept."""
    return [kept for kept in _read(home) if kept.owner == owner]


def find(home: Path, variant: Variant, owner: str = "") -> Kept | None:
    return next((kept for kept in listing(home, owner) if kept.variant == variant), None)


def keep(home: Path, variant: Variant, name: str, owner: str = "") -> Kept:
    """Put a variant on the shelf; one that is there keeps its name. A name that is taken gets a number."""
    if not variant.steps and not variant.parents:
        raise Refused("A checkpoint without steps is no variant; add a step first.")
    name = _checked(name)
    with _locked(home) as shelf:
        own = [kept for kept in shelf if kept.owner == owner]
        there = next((kept for kept in own if kept.variant == variant), None)
        if there is not None:
            return there
        if len(own) >= MOST:
            raise Refused(f"There are {MOST} variants on the shelf, and that is all it holds; delete some first.")
        kept = Kept(_free(name, {k.name for k in own}), variant, owner, time.time())
        shelf.append(kept)
    return kept


def rename(home: Path, variant: Variant, name: str, owner: str = "") -> None:
    name = _checked(name)
    with _locked(home) as shelf:
        at = _place(shelf, variant, owner)
        if any(k.name == name and k.owner == owner and i != at for i, k in enumerate(shelf)):
            raise Refused(f"“{name}” is the name of another variant; choose one of its own.")
        shelf[at] = replace(shelf[at], name=name)


def delete(home: Path, variant: Variant, owner: str = "") -> None:
    """Take a variant off the shelf; what was computed of it stays in the store until room is needed."""
    with _locked(home) as shelf:
        del shelf[_place(shelf, variant, owner)]


def _place(shelf: list[Kept], variant: Variant, owner: str) -> int:
    for i, kept in enumerate(shelf):
        if kept.variant == variant and kept.owner == owner:
            return i
    raise Refused("This variant is not on the shelf. Nothing was changed.")


def _checked(name: str) -> str:
    name = " ".join(name.split())
    if not name or len(name) > LONGEST or not _NAME.match(name):
        raise Refused(f"A name has 1 to {LONGEST} characters and none of < > ` | ~; “{name[:LONGEST]}” does not fit.")
    return name


def _free(name: str, taken: set[str]) -> str:
    number, free = 2, name
    while free in taken:
        tail = f" {number}"
        free, number = name[: LONGEST - len(tail)] + tail, number + 1
    return free


def _read(home: Path) -> list[Kept]:
    path = home / "variants.json"
    if not path.is_file():
        return []
    try:
        return [Kept(row["name"], Variant.from_json(row["recipe"]), row["owner"], row["created"]) for row in json.loads(path.read_text())]
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(f"{path} cannot be read ({type(error).__name__}); expected the list of kept variants. Move it away and keep them again.") from error


@contextlib.contextmanager
def _locked(home: Path):
    """The shelf, to be changed in place; written when the block ends without an error."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "variants.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shelf = _read(home)
        yield shelf
        hashes.write_json(home / "variants.json", [{"name": k.name, "recipe": k.variant.to_json(), "owner": k.owner, "created": k.created} for k in shelf])
