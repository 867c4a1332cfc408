"""The shelf: the models one can choose by name, written `demo/<name>` and `shelf/<alias>`.

A folder on this machine or an upload appears by an alias bound to a content hash, never by its path: a link or a cache key
that names it cannot come to mean other weights. Upload aliases are random, so nobody finds one by guessing; who may use
one is asked of `may_use` by every page and route.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from models import configs, hashes, weights
from models.refusal import Refused
from models.serving import public

DEMO = Path(__file__).resolve().parents[1] / "demo" / "models"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")
_ALIAS = re.compile(r"[a-z0-9][a-z0-9\-]{0,63}\Z")


@dataclass(frozen=True)
class ShelfEntry:
    """One model on the shelf; `owner` is empty on a one-person app, `expires` is seconds since 1970 or None."""

    source: str  # demo/… or shelf/…
    path: str
    kind: str  # demo, folder or upload
    title: str
    fingerprint: str | None = None
    owner: str = ""
    shared: bool = False
    created: float = 0.0
    expires: float | None = None
    n_bytes: int = 0
    runnable: bool = True
    why: str = ""  # the sentence where it can be inspected but not run
    notes: tuple[str, ...] = ()  # how it came: what was found, inferred, converted and left out

    @property
    def alias(self) -> str:
        return self.source.partition("/")[2]

    @property
    def folder(self) -> Path:
        return Path(self.path)


def shelf(home: Path, user: str = "", demo: Path | None = None, inspectable: bool = False) -> list[ShelfEntry]:
    """What `user` may choose, demo models first, then the newest; expired uploads are not shown. Reads no weights.

    `inspectable` lists also what can be looked at but not run (their `why` says the reason).
    """
    now = time.time()
    own = [e for e in _entries(home).values() if may_use(e, user) and (e.expires is None or e.expires > now) and (e.runnable or inspectable)]
    return demo_models(demo) + sorted(own, key=lambda e: -e.created)


def owned(home: Path, owner: str) -> list[ShelfEntry]:
    """All entries of one owner, expired ones too (they take room until swept)."""
    return [entry for entry in _entries(home).values() if entry.owner == owner]


def demo_models(demo: Path | None = None) -> list[ShelfEntry]:
    """The shipped models, by name; checkpoints along a training run (`<name>-steps/step-…`) after them."""
    root = demo or DEMO
    if not root.is_dir():
        return []
    folders = sorted(p.parent for pattern in ("*/config.json", "*/*/config.json") for p in root.glob(pattern))
    names = sorted((f.relative_to(root).as_posix() for f in folders), key=lambda n: ("/" in n, n))
    return [ShelfEntry(f"demo/{name}", str(root / name), "demo", name.replace("-", " "), shared=True) for name in names]


def may_use(entry: ShelfEntry, user: str) -> bool:
    """Owner, shared, or an app with one user."""
    return entry.shared or entry.owner == user


def find(alias: str, home: Path) -> ShelfEntry:
    """The entry of `shelf/<alias>`; Refused when there is none or it has expired."""
    entry = _entries(home).get(alias) if _ALIAS.match(alias) else None
    if entry is None:
        raise _unknown(alias)
    if entry.expires is not None and entry.expires <= time.time():
        raise Refused(f"shelf/{alias} expired on {time.strftime('%Y-%m-%d', time.gmtime(entry.expires))}. Upload it again.")
    return entry


def _unknown(alias: str) -> Refused:
    return Refused(f"Nothing called shelf/{alias[:64]} is on the shelf: deleted, expired or never there. Choose another model, or add it again on the checkpoints page.")


def require_use(source: str, home: Path, user: str = "") -> None:
    """Refused unless `user` may open `source`; in the same words as for one that does not exist, so that nothing is told."""
    if source.startswith("shelf/"):
        alias = source.removeprefix("shelf/")
        if not may_use(find(alias, home), user):
            raise _unknown(alias)


def register(path: str | Path, home: Path, owner: str = "") -> str:
    """Put a folder of this machine on the shelf (the folder stays where it is); returns its alias."""
    if public():
        raise Refused("Folders of the server cannot be opened while the app serves others. Upload the checkpoint or name one of a hub.")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise Refused(f"Found no folder {str(folder)[:200]}; expected one with config.json and model.safetensors. Check the path.")
    folder = folder.resolve()
    fingerprint = content(folder, home)
    slug = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:40] or "model"
    return add(ShelfEntry(f"shelf/{slug}-{fingerprint[:8]}", str(folder), "folder", folder.name[:80], fingerprint, owner, False, time.time()), home)


def add(entry: ShelfEntry, home: Path) -> str:
    """Write an entry (uploads come here once they are whole); returns its alias."""
    if not _ALIAS.match(entry.alias):
        raise ValueError(f"alias {entry.alias!r}")
    with _locked(home) as entries:
        entries[entry.alias] = entry
    return entry.alias


def share(alias: str, user: str, home: Path, shared: bool = True) -> None:
    """Let others see an upload, or stop it; only its owner may."""
    with _locked(home) as entries:
        entries[alias] = replace(_owned(entries, alias, user), shared=shared)


def delete(alias: str, user: str, home: Path) -> None:
    """Take a model off the shelf; an upload's files are removed, a registered folder stays untouched."""
    with _locked(home) as entries:
        entry = _owned(entries, alias, user)
        del entries[alias]
    _remove_files(entry, home)


def sweep(home: Path) -> tuple[str, ...]:
    """Remove expired uploads; returns their aliases."""
    now = time.time()
    with _locked(home) as entries:
        gone = [e for e in entries.values() if e.expires is not None and e.expires <= now]
        for entry in gone:
            del entries[entry.alias]
    for entry in gone:
        _remove_files(entry, home)
    return tuple(entry.alias for entry in gone)


def files(folder: Path) -> tuple[str, ...]:
    """The files that make a checkpoint what it is: config, weights, tokenizer."""
    listed = weights.read(folder).files
    return ("config.json", *listed, *(name for name in TOKENIZER_FILES if (folder / name).is_file()))


def content(folder: Path, home: Path | None) -> str:
    """Content hash of a checkpoint folder; refuses one whose config or headers cannot be read."""
    configs.read(folder)
    return hashes.of_files(folder, files(folder), home)


def _owned(entries: dict[str, ShelfEntry], alias: str, user: str) -> ShelfEntry:
    entry = entries.get(alias)
    if entry is None or entry.owner != user:  # one sentence for both: the difference would tell who has what
        raise Refused(f"shelf/{alias[:64]} is not yours or not there. Nothing was changed.")
    return entry


def _remove_files(entry: ShelfEntry, home: Path) -> None:
    folder, uploads = Path(entry.path).resolve(), (home / "uploads").resolve()
    if entry.kind == "upload" and uploads in folder.parents:
        shutil.rmtree(uploads / folder.relative_to(uploads).parts[0], ignore_errors=True)


def _entries(home: Path) -> dict[str, ShelfEntry]:
    path = home / "shelf.json"
    if not path.is_file():
        return {}
    try:
        return {alias: ShelfEntry(**{**fields, "notes": tuple(fields.get("notes", ()))}) for alias, fields in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused(f"{path} cannot be read ({type(error).__name__}); expected the list of models on the shelf. Move it away and add the models again.") from error


@contextlib.contextmanager
def _locked(home: Path):
    """The entries, to be changed in place; written when the block ends without an error."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "shelf.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = _entries(home)
        yield entries
        hashes.write_json(home / "shelf.json", {alias: asdict(entry) for alias, entry in entries.items()})
