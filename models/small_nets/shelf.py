"""Image files that a user brought, by name: `python -m models.small_nets.shelf FILE.npz` prints it.

A file is read whole once, to refuse early, and copied into the home folder; its name ends in a hash of what it holds, so that a
name means the same images for good.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

from models.refusal import Refused
from models.small_nets import data

DIGITS = "digits"
_NAME = re.compile(r"images/[a-z0-9][a-z0-9\-]{0,60}\Z")


def add(path: Path, home: Path, name: str | None = None) -> str:
    """Keep an .npz of images; returns `images/<name>-<12 hex>`. `name`: in place of the file's own."""
    path = Path(path).expanduser()
    data.from_file(path)
    stem = re.sub(r"[^a-z0-9\-]+", "-", (name or path.stem).lower()).strip("-")[:40] or "images"
    alias = f"{stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    target = home / "images" / f"{alias}.npz"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        shutil.copyfile(path, temporary)
        temporary.replace(target)
    return f"images/{alias}"


def names(home: Path) -> tuple[str, ...]:
    """What can be asked for: the digits, then the files that were added."""
    return (DIGITS, *sorted(f"images/{file.stem}" for file in (home / "images").glob("*.npz")))


def load(name: str, n_train: int, n_test: int, seed: int, home: Path) -> data.Images:
    """Up to `n_train` training and `n_test` test images, drawn by `seed`; the digits, which have no split of their own, are split
    by it. Refused with the known names where there is no such set."""
    if name == DIGITS:
        return data.drawn(data.digits(min(n_train, 1_500), seed), n_train, n_test, seed)
    if not _NAME.match(name) or not (file := home / f"{name}.npz").is_file():
        raise Refused(f"There are no images “{name[:60]}”; known: {', '.join(names(home))}. Files are added on the page, or by python -m models.small_nets.shelf FILE.")
    return data.drawn(data.from_file(file), n_train, n_test, seed)


if __name__ == "__main__":
    from models.home import home

    try:
        print(*(add(Path(argument), home()) for argument in sys.argv[1:]), sep="\n")
    except Refused as error:
        sys.exit(str(error))
