"""Checkpoints of a Hugging Face hub: a name and a revision to a folder of plain files at one commit.

Only safetensors, JSON and tokenizer files are fetched, never code. Without a network (or with HF_HUB_OFFLINE=1) what was
fetched before is used and anything else is refused in a sentence.
"""

from __future__ import annotations

import os
from pathlib import Path

from models.refusal import Refused

WANTED = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
          "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")


def limit_bytes() -> int:
    """Largest download: MICROTOME_HUB_GB, by default 40 for one's own use and 4 while serving others."""
    default = "4" if os.environ.get("MICROTOME_PUBLIC", "") not in ("", "0") else "40"
    return int(float(os.environ.get("MICROTOME_HUB_GB", default)) * 1e9)


def fetch(name: str, revision: str | None, home: Path) -> tuple[Path, str]:
    """(folder, commit) of `owner/name` at `revision`; downloads into the hub's own cache, once."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from httpx import HTTPError

    del home  # the hub's cache is shared with every other tool of this machine
    if constants.HF_HUB_OFFLINE:
        return _cached(name, revision, "the hub is switched off (HF_HUB_OFFLINE=1)")
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=10)
    except GatedRepoError as error:
        raise Refused(f"{name} asks its readers to agree to terms. Agree on its page, log in with `hf auth login`, then try again.") from error
    except RevisionNotFoundError as error:
        raise Refused(f"{name} has no revision “{revision}”. Take a branch, tag or commit that its page lists.") from error
    except RepositoryNotFoundError as error:
        raise Refused(f"The hub has no model {name}, or it is private. Check the spelling, or log in with `hf auth login`.") from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        return _cached(name, revision, f"the hub cannot be reached ({type(error).__name__})")
    sizes = {file.rfilename: file.size or 0 for file in info.siblings}
    if not any(file.endswith(".safetensors") for file in sizes):
        raise Refused(f"{name} has no .safetensors at {info.sha[:12]}; other weight files can run code when opened. Convert it (python -m models.convert in.bin out/).")
    total = sum(size for file, size in sizes.items() if file.endswith(".safetensors"))
    if total > limit_bytes():
        raise Refused(f"{name} has {total / 1e9:.1f} GB of weights; at most {limit_bytes() / 1e9:.0f} GB are fetched. Raise MICROTOME_HUB_GB, or take a smaller model.")
    return _snapshot(name, info.sha, False), info.sha


def _cached(name: str, revision: str | None, why: str) -> tuple[Path, str]:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(name, revision, True)
    except LocalEntryNotFoundError as error:
        raise Refused(f"{name} is not on this machine and {why}. Choose a demo model, give a local folder, or try again with a network.") from error
    return folder, folder.name


def _snapshot(name: str, revision: str | None, local: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=list(WANTED), local_files_only=local))
