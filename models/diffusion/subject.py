"""What memorized images are looked for in: a pipeline, the prompts whose images it is said to have by heart, and those images.

Beside a pipeline's folder (models/diffusion/folder.py) lie

    memorized.txt     prompts, one a line                  training.npz     `images` [memorized prompt, height, width, channel] in 0–1
    others.txt        prompts that should not change       once.txt         (may be missing) prompts of images seen once, with `once` in training.npz: a control
    unet_before/      (may be missing) the UNet before it learned the memorized images: a null for the overlap of masks

“digits” is such a folder too, trained here and kept in the home folder, so that another share or another seed of noise trains nothing again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models import hashes
from models.diffusion import folder as folders
from models.diffusion.pipeline import Pipeline, require_library
from models.refusal import Refused, shown
from models.serving import public

DIGITS = "digits"
MEMORIZED, OTHERS, ONCE, IMAGES, BEFORE = "memorized.txt", "others.txt", "once.txt", "training.npz", "unet_before"
FEWEST = 4  # memorized prompts; fewer cannot be halved and say anything


@dataclass(frozen=True, eq=False)
class Subject:
    pipeline: Pipeline
    memorized: tuple[str, ...]
    images: np.ndarray  # float32 [memorized, H, W, C] in 0–1
    others: tuple[str, ...]
    once: tuple[str, ...] = ()
    once_images: np.ndarray | None = None  # float32 [once, H, W, C]
    before: Pipeline | None = None  # the same before it learned the memorized images


def place(text: str) -> Path:
    """The folder that a subject names; Refused where the app serves others, or where it is not whole. Reads no weights."""
    if public():
        raise Refused("Folders of the server cannot be opened while the app serves others; expected “digits”. Run Microtome on your own machine to look at a folder.")
    path = Path(text).expanduser()
    if not path.is_absolute():
        raise Refused(f"The subject {shown(text) or 'is empty and'} is neither “digits” nor the full path of a folder; expected one of them, such as /data/my-pipeline.")
    folders.require_parts(path)
    if missing := [file for file in (MEMORIZED, OTHERS, IMAGES) if not (path / file).is_file()]:
        raise Refused(f"{shown(path.name)} has no {missing[0]}; expected {MEMORIZED} and {OTHERS}, a prompt a line, and {IMAGES} with the memorized images beside the pipeline.")
    return path


def content(text: str, home: Path) -> str:
    """Content hash of everything that is read of a folder: part of the key."""
    path = place(text)
    beside = [file for file in (MEMORIZED, OTHERS, ONCE, IMAGES) if (path / file).is_file()]
    return hashes.of_files(path, (*folders.files(path), *beside), home)


def read(path: Path) -> Subject:
    memorized, others, once = (_prompts(path / file) for file in (MEMORIZED, OTHERS, ONCE))
    name = shown(path.name)
    if len(memorized) < FEWEST or not others:
        raise Refused(f"{name} names {len(memorized)} memorized prompts and {len(others)} others; expected at least {FEWEST} in {MEMORIZED} and 1 in {OTHERS}.")
    if both := sorted(set(memorized) & {*others, *once}):
        raise Refused(f"{name}: “{both[0][:80]}” stands in {MEMORIZED} and in {OTHERS} or {ONCE}; expected it in one of them.")
    arrays = _arrays(path / IMAGES)
    images, once_images = _images(arrays, "images", len(memorized), name), _images(arrays, "once", len(once), name) if once else None
    pipeline = folders.open_folder(path)
    pipeline.encode(["", *memorized, *others, *once])  # a prompt that it does not know is refused before anything is computed
    own = tuple(pipeline.decode(torch.zeros(1, *pipeline.latent_size, device=pipeline.device)).shape[1:])
    for array in filter(lambda a: a is not None, (images, once_images)):
        if array.shape[1:] != own:
            raise Refused(f"{name}/{IMAGES} holds images of {_size(array.shape[1:])}, the pipeline draws {_size(own)} (height × width × channels); expected training images of that size.")
    return Subject(pipeline, memorized, images, others, once, once_images, folders.with_unet(pipeline, path, BEFORE) if (path / BEFORE).is_dir() else None)


def write(subject: Subject, path: Path, prompts: tuple[str, ...]) -> None:
    """A folder that reads back the same, with embeddings of `prompts` in place of tokenizer and text encoder."""
    from safetensors.torch import save_file

    subject.pipeline.unet.save_pretrained(path / "unet", safe_serialization=True)
    if subject.before is not None:
        subject.before.unet.save_pretrained(path / BEFORE, safe_serialization=True)
    subject.pipeline.scheduler.save_pretrained(path / "scheduler")
    (path / folders.PROMPTS).write_text("\n".join(prompts) + "\n")
    save_file({"embeddings": subject.pipeline.encode(list(prompts)).contiguous().cpu()}, path / folders.EMBEDDINGS)
    for file, said in ((MEMORIZED, subject.memorized), (OTHERS, subject.others), (ONCE, subject.once)):
        (path / file).write_text("\n".join(said) + "\n")
    np.savez(path / IMAGES, images=subject.images, once=subject.once_images if subject.once else np.zeros(0, np.float32))


def kept(path: Path, make) -> Subject:
    """The subject kept at `path`, or that of `make()` -> (Subject, prompts), written there first."""
    if not path.is_dir():
        made, prompts = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".made-"))
        try:
            write(made, temporary, prompts)
            if not path.is_dir():
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return read(path)


def digits(home: Path, updates: int, seed: int, progress=None, memory: str = "feed-forward") -> Subject:
    """The small model that is trained here, from the home folder where it was trained before by the same program."""
    require_library()
    from cache.fingerprint import code_identity, fingerprint
    from models.diffusion import digits as own

    def make() -> tuple[Subject, tuple[str, ...]]:
        trained = own.train(updates, seed, progress, memory)
        images, once = (np.stack([trained.images[p] for p in prompts]) for prompts in (own.PLANTED, own.ONCE))
        return Subject(trained.pipeline, own.PLANTED, images, own.CLASSES, own.ONCE, once, trained.before), own.PROMPTS

    return kept(home / "diffusion" / f"digits-{fingerprint(code_identity(own), updates, seed, memory)[:16]}", make)


def _prompts(file: Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line.strip() for line in folders.lines(file) if line.strip())) if file.is_file() else ()


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except Exception as error:  # not a zip, damaged, an array of objects, a single array
        raise Refused(f"{shown(file.parent.name)}/{IMAGES} cannot be read ({shown(error, 100)}); expected numpy’s .npz with `images` [prompt, height, width, channel] in 0–1, numbers only. "
                      "Write it with numpy.savez(file, images=...).") from error


def _images(arrays: dict, key: str, n: int, name: str) -> np.ndarray:
    found = arrays.get(key)
    if found is None or found.ndim != 4 or len(found) != n or found.dtype.kind not in "fiub":
        held = f"no `{key}` but {shown(', '.join(sorted(arrays)) or 'nothing')}" if found is None else f"`{key}` of shape {list(found.shape)}, {found.dtype}"
        raise Refused(f"{name}/{IMAGES} holds {held}; expected numbers [{n}, height, width, channel], an image for each prompt of {MEMORIZED if key == 'images' else ONCE}, in order.")
    if not np.isfinite(found).all() or found.min() < 0 or found.max() > 1:
        raise Refused(f"{name}/{IMAGES}: `{key}` runs from {np.nanmin(found):g} to {np.nanmax(found):g}; expected values from 0 to 1. Divide by 255 where they are bytes.")
    return found.astype(np.float32)


def _size(shape) -> str:
    return " × ".join(map(str, shape))
