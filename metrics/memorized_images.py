"""Which feed-forward weights an image generator uses for what it has by heart, and what cutting them does: Chavhan et al. 2024 in its own setting.

Per cross-attention block and time step, W is the second linear of the GEGLU feed-forward and ‖X_j‖ the root mean square of its input h_j, every
token scaled to length 1 first, as in the paper's code. A weight is located where |W_ij| · ‖X_j‖ is in the top share of its output row for the
memorized prompts, and ‖X_j‖ is larger than for as many empty prompts from the same noise; masks are united over the first time steps.

Similarity is Pearson's correlation of pixels with the training image (the paper uses SSCD, a network for copies; no network is needed here).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.memorized import RowNormalised, located
from models.diffusion.pipeline import Pipeline, generate, observe

REPRODUCED = 0.9  # correlation from which an image counts as reproduced
LOCATING, JUDGING = 0, 1  # noises of their own, so that what is found on some is seen on others


@dataclass(frozen=True)
class Recipe:
    """How images are drawn; `first` of the steps are watched, each prompt starts from `noises` different noises."""

    first: int = 5
    steps: int = 20
    guidance: float = 1.5
    noises: int = 1
    seed: int = 0

    def seeds(self, n: int, purpose: int) -> list[int]:
        """[n · noises], by the prompt's place and not by its words: the empty prompt starts from the same noises."""
        return [(2 * self.seed + purpose) * 1_000_000 + 1_000 * noise + i for i in range(n) for noise in range(self.noises)]


def draw(pipeline: Pipeline, prompts, r: Recipe, progress=None) -> np.ndarray:
    """Images float32 [prompt, noise, H, W, C] in 0–1."""
    every = [p for p in prompts for _ in range(r.noises)]
    images = generate(pipeline, every, r.steps, r.guidance, r.seeds(len(prompts), JUDGING), progress).numpy()
    return images.reshape(len(prompts), r.noises, *images.shape[1:])


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[image] Pearson correlation over pixels and channels; 0 where one of two images is constant."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.zeros(len(a)), where=scale > 1e-12)


def similarity(drawn: np.ndarray, images: np.ndarray) -> np.ndarray:
    """[prompt, noise]: each drawn image [prompt, noise, H, W, C] with its prompt's image [prompt, H, W, C], or with [prompt, noise, H, W, C]."""
    n, k = drawn.shape[:2]
    other = images if images.ndim == drawn.ndim else np.repeat(images[:, None], k, 1)
    return correlation(drawn.reshape(n * k, -1), other.reshape(n * k, -1)).reshape(n, k)


def mismatched(drawn: np.ndarray, images: np.ndarray) -> np.ndarray:
    """[prompt · (prompts − 1)]: each prompt's images with the other prompts' training images, mean over noises: similar without being copied."""
    n = len(drawn)
    turned = [similarity(drawn, np.roll(images, -k, 0)).mean(1) for k in range(1, n)]
    return np.concatenate(turned) if turned else np.zeros(0)


def squares(pipeline: Pipeline, prompts, r: Recipe, progress=None) -> dict[str, torch.Tensor]:
    """Mean square of every input channel of each block's second linear: float64 [prompt, step, d_ff], over tokens scaled to length 1 and over noises.
    Any set of these prompts is their mean, so one pass serves all sets."""
    every = [p for p in prompts for _ in range(r.noises)]
    found = {}

    def watch(step: int, block: str, start: int, h: torch.Tensor) -> None:
        for i, tokens in enumerate(h):
            moments = RowNormalised(h.shape[-1], h.device)
            moments.add(tokens)
            found[block, step, start + i] = moments.rms.square().cpu()

    observe(pipeline, every, r.steps, r.guidance, r.seeds(len(prompts), LOCATING), r.first, watch, progress)
    return {block: torch.stack([torch.stack([found[block, step, i] for step in range(r.first)]) for i in range(len(every))]).unflatten(0, (len(prompts), r.noises)).mean(1) for block in pipeline.blocks}


def by_step(pipeline: Pipeline, memorized: dict, base: dict, rows: np.ndarray, share: float, contrast: bool = True) -> dict[str, torch.Tensor]:
    """bool [step, d_model, d_ff] by block: located on the prompts `rows` at each of the first steps; `base` are the empty prompts from the same noises."""
    size = lambda squared: squared[torch.as_tensor(rows)].mean(0).sqrt()
    return {block: torch.stack([located(module.weight, m, b if contrast else None, share) for m, b in zip(size(memorized[block]), size(base[block]))]) for block, module in pipeline.blocks.items()}


def union(steps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """bool [d_model, d_ff] by block: located at any of the first steps."""
    return {block: mask.any(0) for block, mask in steps.items()}
