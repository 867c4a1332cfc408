"""Is what an image generator has by heart kept in few weights? Chavhan et al. 2024 in its own setting: `python -m metrics.memorized_images digits`.

Per cross-attention block and time step, W is the second linear of the GEGLU feed-forward and ‖X_j‖ the root mean square of its input h_j, every
token scaled to length 1 first, as in the paper's code. A weight is located where |W_ij| · ‖X_j‖ is in the top share of its output row for the
memorized prompts, and ‖X_j‖ is larger than for as many empty prompts from the same noise; masks are united over the first time steps.

Similarity is Pearson's correlation of pixels with the training image (the paper uses SSCD, a network for copies; no network is needed here), and
`mismatched` is that of an image with the other prompts' training images: what is similar without being copied.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from metrics.memorized import RowNormalised, chance_iou, density, iou, located, random_like
from models.diffusion import digits
from models.diffusion.pipeline import Pipeline, generate, open_folder
from models.progress import Quiet
from models.refusal import Refused

REPRODUCED = 0.9  # correlation from which an image counts as reproduced


@dataclass(frozen=True)
class Recipe:
    share: float = 0.01  # of the columns of each output row: an upper bound on the density of one step's mask
    first: int = 5  # time steps that are united
    steps: int = 20
    guidance: float = 1.5
    seed: int = 0


def draw(pipeline: Pipeline, prompts, r: Recipe, watch=None, progress=None) -> np.ndarray:
    """Images [prompt, H, W, C]; prompt i starts from noise r.seed · 1000 + i."""
    return generate(pipeline, list(prompts), r.steps, r.guidance, [r.seed * 1000 + i for i in range(len(prompts))], watch, progress).numpy()


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[image] Pearson correlation over pixels and channels; 0 where one of two images is constant."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.zeros(len(a)), where=scale > 1e-12)


def sizes(pipeline: Pipeline, prompts, r: Recipe, progress=None) -> dict[str, list[torch.Tensor]]:
    """Root mean square of every input channel of each block's second linear, float64 [d_ff] for each of the first steps."""
    found = {}

    def watch(step: int, block: str, h: torch.Tensor) -> None:
        if step < r.first:
            found.setdefault((block, step), RowNormalised(h.shape[1])).add(h)

    draw(pipeline, prompts, r, watch, progress)
    return {block: [found[block, step].rms for step in range(min(r.first, r.steps))] for block in pipeline.blocks}


def union(pipeline: Pipeline, memorized: dict, base: dict, share: float) -> dict[str, torch.Tensor]:
    """bool [d_model, d_ff] by block: located at any of the first steps."""
    return {block: torch.stack([located(module.weight, m, b, share) for m, b in zip(memorized[block], base[block])]).any(0) for block, module in pipeline.blocks.items()}


def contrast(pipeline: Pipeline, prompts, r: Recipe, progress=None) -> dict[str, torch.Tensor]:
    return union(pipeline, sizes(pipeline, prompts, r, progress), sizes(pipeline, [""] * len(prompts), r, progress), r.share)


def compare(pipeline: Pipeline, images: np.ndarray, located_on, held_out, others, r: Recipe, progress=None) -> dict:
    """What a cut located on one set of memorized prompts does to that set, to a held-out set, and to other prompts, beside a random cut of
    as many weights in every row. `images`: training images of both sets, in order."""
    prompts = (*located_on, *held_out)
    mask, second = (contrast(pipeline, p, r, progress) for p in (located_on, held_out))
    before, before_others = draw(pipeline, prompts, r), draw(pipeline, others, r)
    n, turned = len(located_on), np.roll(images, 1, 0)
    out = {"density": density(mask), "density_by_block": {b: float(m.float().mean()) for b, m in mask.items()},
           "iou": {b: (iou(mask[b], second[b]), chance_iou(mask[b], second[b])) for b in mask}, "images": {"training": images, "before": before},
           "similarity": {"before": correlation(before, images), "mismatched": correlation(before, turned)}, "others_kept": {}}
    for name, m in (("cut", mask), ("random", random_like(mask, "weights", r.seed))):
        after = pipeline.cut(m)
        out["images"][name] = draw(after, prompts, r)
        out["similarity"][name] = correlation(out["images"][name], images)
        out["others_kept"][name] = correlation(draw(after, others, r), before_others)
    out["reproduced"] = {name: (int((s[:n] >= REPRODUCED).sum()), int((s[n:] >= REPRODUCED).sum())) for name, s in out["similarity"].items()}
    out["n"] = (n, len(held_out))
    return out


def written(found: dict, r: Recipe) -> str:
    """The finding in words, controls beside it."""
    n, m = found["n"]
    middle = lambda name: (float(found["similarity"][name][:n].mean()), float(found["similarity"][name][n:].mean()))
    lines = [f"{100 * found['density']:.2f} % of the feed-forward output weights are cut (share {r.share:g}, first {r.first} of {r.steps} steps, seed {r.seed}).",
             f"{'':<14}{'similarity: located':>20}{'held out':>10}{f'reproduced of {n}':>18}{f'of {m}':>8}{'others unchanged':>18}"]
    for name in ("before", "cut", "random", "mismatched"):
        kept = f"{found['others_kept'][name].mean():.3f}" if name in found["others_kept"] else ""
        lines.append(f"{name:<14}{middle(name)[0]:>20.3f}{middle(name)[1]:>10.3f}{found['reproduced'][name][0]:>18}{found['reproduced'][name][1]:>8}{kept:>18}")
    lines.append("IoU of the two sets' masks by block (chance): " + ", ".join(f"{b} {x:.2f} ({c:.2f})" for b, (x, c) in found["iou"].items()))
    return "\n".join(lines)


def subject(text: str, updates: int, seed: int) -> tuple:
    """(pipeline, training images, memorized prompts, other prompts). A folder brings memorized.txt and others.txt, one prompt a line, and training.npz
    with `images` [memorized prompt, height, width, channel] in 0–1."""
    if text == "digits":
        trained = digits.train(updates, seed)
        return trained.pipeline, np.stack([trained.images[p] for p in digits.PLANTED]), digits.PLANTED, digits.CLASSES
    folder = Path(text)
    if missing := [f for f in ("memorized.txt", "others.txt", "training.npz") if not (folder / f).is_file()]:
        raise Refused(f"{folder.name} has no {missing[0]}; beside the pipeline lie memorized.txt and others.txt, a prompt a line, and training.npz with the memorized images.")
    memorized, others = (tuple(filter(None, (folder / f).read_text().splitlines())) for f in ("memorized.txt", "others.txt"))
    with np.load(folder / "training.npz", allow_pickle=False) as file:
        images = file["images"] if "images" in file.files else np.zeros(0)
    if len(memorized) < 2 or not others or len(images) != len(memorized) or images.ndim != 4:
        raise Refused(f"{folder.name}: found {len(memorized)} memorized prompts, {len(others)} others and images of shape {images.shape}; expected at least 2, 1, and one image per memorized prompt.")
    return open_folder(folder), images, memorized, others


def main(arguments: list[str]) -> None:
    defaults = Recipe()
    parser = argparse.ArgumentParser(prog="python -m metrics.memorized_images")
    parser.add_argument("pipeline", help="a diffusers folder, or “digits”: a small model is trained here")
    for name in ("share", "first", "steps", "guidance", "seed"):
        parser.add_argument(f"--{name}", type=type(getattr(defaults, name)), default=getattr(defaults, name))
    parser.add_argument("--updates", type=int, default=700, help="updates when the digits are learned")
    given = parser.parse_args(arguments)
    r = Recipe(given.share, given.first, given.steps, given.guidance, given.seed)
    if not 0 < r.share < 1 or not 1 <= r.first <= r.steps:
        raise Refused(f"share {r.share:g} and first {r.first} do not fit; expected a share between 0 and 1 and 1 to {r.steps} first steps.")
    pipeline, images, memorized, others = subject(given.pipeline, given.updates, r.seed)
    half = len(memorized) // 2
    print(written(compare(pipeline, images, memorized[:half], memorized[half:], others, r, Quiet()), r))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Refused as error:
        sys.exit(str(error))
