"""Checkpoints of a Hugging Face hub: a name and a revision to a folder of plain files at one commit.

Only safetensors, JSON and tokenizer files are fetched, never code. Without a network (or with HF_HUB_OFFLINE=1) what was
fetched before is used and anything else is refused in a sentence. While the app serves others it asks without its owner's
token and keeps what it fetched in a cache of its own, so that nobody reads the owner's private models through it.

    find(name, revision, home)     what was fetched; never waits for a network, so a page may ask at each rerun
    fetch(name, revision, home)    ask the hub, download what is missing; in a worker or a shell

A name without a revision means the commit that it had when it was last fetched.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from models import hashes, weights
from models.refusal import Refused, amount, shown
from models.serving import public

WANTED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
          "merges.txt", "tokenizer.model")
KEEP_FREE = 2 << 30  # bytes of the disk that downloads never take
KEPT = 5  # times the largest download are kept while the app serves others; the least recently read go
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,95}/[A-Za-z0-9][A-Za-z0-9._\-]{0,95}\Z")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/\-]{0,127}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*\Z")  # a file of the first level, without signs that a pattern would read


def limit_bytes() -> int:
    """Largest download: MICROTOME_HUB_GB, by default 40 for one's own use and 4 while serving others; 0 closes the hub."""
    return int(float(os.environ.get("MICROTOME_HUB_GB", "4" if public() else "40")) * 1e9)


class NotHere(Refused):
    """A checkpoint of a hub that was not fetched; `source` is its name with the revision."""

    def __init__(self, source: str):
        super().__init__(f"{shown(source)} is not on this machine yet. Fetch it first, on the Checkpoints page.")
        self.source = source


def find(name: str, revision: str | None, home: Path) -> tuple[Path, str]:
    """(folder, commit) of `owner/name` at `revision` as it was last fetched; NotHere when it never was, or is gone."""
    found = _fetched(home).get(_at(name, revision))
    if found is None or not Path(found["folder"]).is_dir() or public() and home / "hub" not in Path(found["folder"]).parents:
        raise NotHere(_at(name, revision))
    return Path(found["folder"]), found["commit"]


def fetch(name: str, revision: str | None, home: Path) -> tuple[Path, str]:
    """(folder, commit) of `owner/name` at `revision`; downloads once, into the hub's own cache or, serving others, into `home`/hub."""
    if not _NAME.match(name) or revision is not None and not _REVISION.match(revision):
        raise Refused(f"{shown(_at(name, revision))} is not a name on a hub; expected owner/name or owner/name@revision. Copy it from the model's page.")
    folder, commit = _fetch(name, revision, home)
    for at in {revision, commit}:
        hashes.write_json(home / "hub.json", _fetched(home) | {_at(name, at): {"folder": str(folder), "commit": commit}})
    return folder, commit


def _at(name: str, revision: str | None) -> str:
    return f"{name}@{revision}" if revision else name


def _fetched(home: Path) -> dict[str, dict[str, str]]:
    path = home / "hub.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _fetch(name: str, revision: str | None, home: Path) -> tuple[Path, str]:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from httpx import HTTPError

    if not limit_bytes():
        raise Refused("Models of a hub are not fetched here (MICROTOME_HUB_GB=0). Upload the checkpoint instead.")
    if constants.HF_HUB_OFFLINE:
        return _cached(name, revision, home, "the hub is switched off (HF_HUB_OFFLINE=1)")
    try:
        info = HfApi(token=_token()).model_info(name, revision=revision, files_metadata=True, timeout=10)
    except GatedRepoError as error:
        raise Refused(f"{name} asks its readers to agree to terms. {_way_in('Agree on its page, log in with `hf auth login`, then try again.')}") from error
    except RevisionNotFoundError as error:
        raise Refused(f"{name} has no revision “{revision}”. Take a branch, tag or commit that its page lists.") from error
    except RepositoryNotFoundError as error:
        raise Refused(f"The hub has no model {name}, or it is private. {_way_in('Check the spelling, or log in with `hf auth login`.')}") from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        return _cached(name, revision, home, f"the hub cannot be reached ({type(error).__name__})")
    sizes = {file.rfilename: file.size or 0 for file in info.siblings if _PLAIN.match(file.rfilename)}
    chosen = _weights(sizes)
    if not chosen:
        raise Refused(f"{name} has no .safetensors at {info.sha[:12]}; other weight files can run code when opened. Convert it (python -m models.convert in.bin out/).")
    total = sum(sizes[file] for file in chosen)
    if total > limit_bytes():
        raise Refused(f"{name} has {amount(total)} of weights; at most {amount(limit_bytes())} are fetched. "
                      + ("Take a smaller model." if public() else "Raise MICROTOME_HUB_GB, or take a smaller model."))
    _make_room(total, home)
    return _snapshot(name, info.sha, home, [*chosen, *(file for file in WANTED if file in sizes)]), info.sha


def _weights(sizes: dict[str, int]) -> list[str]:
    """The weight files that models.weights would read, and the index: a second copy in other files stays on the hub."""
    files = [file for file in sizes if file.endswith(".safetensors")]
    if weights.INDEX in sizes:
        return [weights.INDEX, *([file for file in files if weights.is_shard(file)] or files)]
    return [weights.SINGLE] if weights.SINGLE in files else [file for file in files if weights.is_shard(file)] or files


def _token() -> bool | None:
    """False: ask as nobody. None: as whoever is logged in on this machine."""
    return False if public() else None


def _cache(home: Path) -> Path | None:
    return home / "hub" if public() else None


def _way_in(own: str) -> str:
    return "Only open models can be fetched here; take another one, or upload it." if public() else own


def _make_room(total: int, home: Path) -> None:
    """Refused when the disk would be full; serving others, what was fetched and is read least goes first."""
    from huggingface_hub import constants, scan_cache_dir

    cache = _cache(home) or Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    if public():
        found = scan_cache_dir(cache)
        held = found.size_on_disk
        for repo in sorted(found.repos, key=lambda repo: repo.last_accessed):
            if held + total > KEPT * limit_bytes():
                found.delete_revisions(*(revision.commit_hash for revision in repo.revisions)).execute()
                held -= repo.size_on_disk
    free = shutil.disk_usage(cache).free
    if free - total < KEEP_FREE:
        raise Refused(f"The disk has {amount(free)} left, {amount(KEEP_FREE)} stay in reserve; {amount(total)} do not fit. Free some space, or take a smaller model.")


def _cached(name: str, revision: str | None, home: Path, why: str) -> tuple[Path, str]:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(name, revision, home, None)
    except LocalEntryNotFoundError as error:
        raise Refused(f"{name} is not on this machine and {why}. Choose a demo model, give a local folder, or try again with a network.") from error
    return folder, folder.name


def _snapshot(name: str, revision: str | None, home: Path, files: list[str] | None) -> Path:
    """`files` None: what lies here already, without a network."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=files, local_files_only=files is None, cache_dir=_cache(home), token=_token()))
