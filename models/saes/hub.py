"""SAEs of a Hugging Face hub: one folder of a repository at a revision, safetensors and JSON only; in a shell or a worker."""

from __future__ import annotations

import re
from pathlib import Path

from models.hub import limit_bytes
from models.refusal import Refused, shown
from models.saes.reading import CONFIG, LENS, SPARSIFY
from models.serving import public

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,95}/[A-Za-z0-9][A-Za-z0-9._\-]{0,95}(@[A-Za-z0-9][A-Za-z0-9._\-]{0,127})?\Z")
_FOLDER = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/\-]{0,191}\Z")


def fetch(repository: str, folder: str) -> Path:
    """Where the folder lies on this machine, downloaded if it was not. Refused in words where it cannot be had."""
    from huggingface_hub import constants, snapshot_download

    if not _REPOSITORY.match(repository) or not _FOLDER.match(folder):
        raise Refused(f"{shown(repository, 80)} {shown(folder, 80)} is not a folder on a hub; expected owner/name[@revision] and a folder such as layers.30.")
    if limit_bytes() <= 0 or public():
        raise Refused("SAEs are fetched from a hub on one's own machine only; here the hub is closed.")
    name, _, revision = repository.partition("@")
    if not constants.HF_HUB_OFFLINE:
        _require_small_enough(name, revision or None, folder)
    wanted = [f"{folder}/{file}" for file in (CONFIG, LENS, SPARSIFY)]
    try:
        root = snapshot_download(name, revision=revision or None, allow_patterns=wanted, local_files_only=constants.HF_HUB_OFFLINE)
    except Exception as error:  # the hub's client raises a dozen kinds; each means the same here
        raise Refused(f"{shown(repository, 80)} cannot be had ({type(error).__name__}). Check name and network, or copy the folder here: python -m models.saes add FOLDER.") from error
    found = Path(root) / folder
    if not (found / CONFIG).is_file():
        raise Refused(f"{shown(repository, 80)} has no folder {shown(folder, 80)} with a {CONFIG}; an SAE of another format is converted first: sae-lens loads it and its save_model writes it.")
    return found


def fetch_release(release: str, sae_id: str) -> Path:
    """By sae-lens's own list of releases; only those that are stored as sae-lens or sparsify folders."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory()
    found = known.get(release)
    if found is None:
        near = [name for name in known if release.split("-")[0] in name][:5]
        raise Refused(f"sae-lens lists no release {shown(release, 80)}{f'; near it are {chr(44).join(near)}' if near else ''}.")
    if sae_id not in found.saes_map:
        raise Refused(f"The release {release} has no SAE {shown(sae_id, 80)}; it has {', '.join(list(found.saes_map)[:5])}, …")
    return fetch(found.repo_id, found.saes_map[sae_id])


def _require_small_enough(name: str, revision: str | None, folder: str) -> None:
    from huggingface_hub import HfApi

    try:
        files = HfApi().list_repo_tree(name, path_in_repo=folder, revision=revision)
        total = sum(getattr(file, "size", 0) or 0 for file in files if file.path.rsplit("/", 1)[-1] in (CONFIG, LENS, SPARSIFY))
    except Exception as error:
        raise Refused(f"{shown(name, 80)} {shown(folder, 80)} cannot be read from the hub ({type(error).__name__}). Check name and network.") from error
    if total > limit_bytes():
        raise Refused(f"This SAE has {total / 1e9:.1f} GB; at most {limit_bytes() / 1e9:.1f} GB are fetched. Raise MICROTOME_HUB_GB.")
