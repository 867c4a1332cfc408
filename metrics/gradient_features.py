"""LESS: which samples' gradients point where the target's do.

After a short warm-up on a random share of the pool, a sample of the pool is the direction in which Adam would go for it, a target
example its plain gradient; both are projected by random signs and brought to unit length. The score is their inner product, mean over
target examples, summed over the checkpoints of the warm-up.

Read from the method's code (princeton-nlp/LESS): the direction, with ε inside the root and no bias correction, signs, normalisation and
the mean within one task. Its own here: gradients by the slices that are given, in place of adapters; a constant rate, so that every
checkpoint weighs the same; plain loops, for small models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.head_tuning import Examples, Part, slopes_of
from models.loaded import Model
from models.progress import Quiet, Stage

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
ROWS = 8192  # of the projection that exist at one time


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Slices after some warm-up, and Adam's two moments, flat [parameter]."""

    leaves: list[torch.Tensor]
    first: torch.Tensor
    second: torch.Tensor


def adam_direction(slope: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(β₁ m + (1 − β₁) g) / √(β₂ v + (1 − β₂) g² + ε), elementwise."""
    return (BETA1 * first + (1 - BETA1) * slope) / (BETA2 * second + (1 - BETA2) * slope.square() + EPSILON).sqrt()


def projected(rows: torch.Tensor, dim: int, seed: int) -> torch.Tensor:
    """rows [sample, parameter] times random signs [parameter, dim], each row of unit length (zero stays zero); the same signs for a seed."""
    generator, out = torch.Generator().manual_seed(seed), torch.zeros(len(rows), dim, device=rows.device)
    for lo in range(0, rows.shape[1], ROWS):
        part = rows[:, lo : lo + ROWS]
        signs = torch.randint(0, 2, (part.shape[1], dim), generator=generator, dtype=torch.int8).to(rows.device, torch.float32) * 2 - 1
        out += part @ signs
    return out / out.norm(dim=1, keepdim=True).clamp(min=1e-30)


def warm_up(model: Model, parts: list[Part], pool: Examples, *, share: float, epochs: int, batch: int, rate: float, seed: int, progress=Quiet()) -> list[Checkpoint]:
    """The state after each epoch over a random share of the pool; Adam at a constant rate, with bias correction in its steps."""
    rng = np.random.default_rng(seed)
    used = rng.choice(len(pool.ids), max(1, round(share * len(pool.ids))), replace=False)
    leaves = [part.of(model).detach().clone() for part in parts]
    first = second = torch.zeros(sum(x.numel() for x in leaves), device=model.device)
    out, step, n = [], 0, epochs * -(-len(used) // batch)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(used), -(-len(used) // batch)):
            loss, slopes = slopes_of(model, parts, leaves, _only(pool, rows), rng, len(rows))
            g, step = _flat(slopes), step + 1
            first, second = BETA1 * first + (1 - BETA1) * g, BETA2 * second + (1 - BETA2) * g.square()
            change = first / (1 - BETA1**step) / ((second / (1 - BETA2**step)).sqrt() + EPSILON)
            leaves = [x - rate * c.view_as(x) for x, c in zip(leaves, change.split([x.numel() for x in leaves]))]
            progress.step(step, n, f"warming up, step {step} of {n}", live={"warm-up loss": loss})
        out.append(Checkpoint(leaves, first, second))
    return out


def features(model: Model, parts: list[Part], at: Checkpoint, examples: Examples, *, adam: bool, dim: int, seed: int, batch: int = 16, progress=Quiet()) -> torch.Tensor:
    """[sample, dim] of unit length: each example's own gradient at a checkpoint, or Adam's direction for it."""
    out, rng, n = [], np.random.default_rng(0), len(examples.ids)
    for lo in range(0, n, batch):
        rows = []
        for i in range(lo, min(n, lo + batch)):
            slope = _flat(slopes_of(model, parts, at.leaves, _only(examples, np.array([i])), rng, 1)[1])
            rows.append(adam_direction(slope, at.first, at.second) if adam else slope)
            progress.step(i + 1, n, f"gradient {i + 1} of {n}")
        out.append(projected(torch.stack(rows), dim, seed))
    return torch.cat(out)


def less(model: Model, parts: list[Part], pool: Examples, target: Examples, *, dim: int = 1024, share: float = 0.05, epochs: int = 4, batch: int = 32,
         rate: float = 2e-5, seed: int = 0, progress=Quiet()) -> np.ndarray:
    """Score [sample of the pool], −1 to 1, higher is more useful to the target; every example must ask for at least one token."""
    states = warm_up(model, parts, pool, share=share, epochs=epochs, batch=batch, rate=rate, seed=seed, progress=Stage(progress, 0.0, 0.05))
    score = np.zeros(len(pool.ids))
    for c, state in enumerate(states):
        start, end = (0.05 + 0.95 * i / epochs for i in (c, c + 1))
        aim = features(model, parts, state, target, adam=False, dim=dim, seed=seed)
        mine = features(model, parts, state, pool, adam=True, dim=dim, seed=seed, progress=Stage(progress, start, end))
        score += (mine @ aim.mean(0)).cpu().double().numpy() / epochs
    return score


def _only(examples: Examples, rows: np.ndarray) -> Examples:
    return Examples(examples.ids[rows], examples.targets[rows])


def _flat(slopes) -> torch.Tensor:
    return torch.cat([s.flatten().float() for s in slopes])
