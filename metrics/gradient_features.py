"""LESS: which samples' gradients point where the target's do.

After a short warm-up on a random share of the pool, a sample of the pool is the direction in which Adam would go for it, a target
example its plain gradient; both are sketched in few numbers by random signs and brought to unit length. The score is their inner
product, mean over target examples and over the checkpoints of the warm-up.

Read from the method's code (princeton-nlp/LESS): the direction, with ε inside the root and no bias correction, signs, normalisation and
the mean within one task. Its own here: gradients by the slices that are given, in place of adapters; each parameter with its sign goes
into one sum instead of all of them (a count sketch: inner products have the same mean and variance, at a cost that does not grow with
the number of sums); a constant rate, so that every checkpoint weighs the same; plain loops, for small models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from metrics.head_tuning import BETA1, BETA2, EPSILON, IGNORED, Examples, Part, n_tuned, slopes_of
from models.loaded import Model
from models.progress import Quiet

BATCH = 16  # samples scored between two saves


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Slices after some warm-up, and Adam's two moments, flat [parameter]."""

    leaves: list[torch.Tensor]
    first: torch.Tensor
    second: torch.Tensor


@dataclass(frozen=True, eq=False)
class Sketch:
    """Which of `dim` sums each parameter goes into, and with which sign, both [parameter]."""

    place: torch.Tensor
    sign: torch.Tensor
    dim: int


def sketch(n: int, dim: int, seed: int, device="cpu") -> Sketch:
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, (n,), generator=generator, dtype=torch.int8)
    return Sketch(torch.randint(dim, (n,), generator=generator).to(device), (2.0 * sign - 1.0).to(device, torch.float32), dim)


def sketched(row: torch.Tensor, by: Sketch) -> torch.Tensor:
    """row [parameter] as [dim], of unit length; zero stays zero."""
    out = torch.zeros(by.dim, device=row.device).index_add_(0, by.place, row * by.sign)
    return out / out.norm().clamp(min=1e-30)


def adam_direction(slope: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(β₁ m + (1 − β₁) g) / √(β₂ v + (1 − β₂) g² + ε), elementwise."""
    return (BETA1 * first + (1 - BETA1) * slope) / (BETA2 * second + (1 - BETA2) * slope.square() + EPSILON).sqrt()


def warm_up(model: Model, parts: list[Part], pool: Examples, *, share: float, epochs: int, batch: int, rate: float, seed: int) -> Iterator[Checkpoint]:
    """The state after each epoch over a random share of the pool; Adam at a constant rate, with bias correction in its steps."""
    rng = np.random.default_rng(seed)
    asks = asking(pool)
    used = rng.choice(asks, max(1, round(share * len(asks))), replace=False)
    leaves = [part.of(model).detach().clone() for part in parts]
    first = second = torch.zeros(sum(x.numel() for x in leaves), device=model.device)
    step = 0
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(used), -(-len(used) // batch)):
            g, step = _flat(slopes_of(model, parts, leaves, _only(pool, rows), rng, len(rows))[1]), step + 1
            first, second = BETA1 * first + (1 - BETA1) * g, BETA2 * second + (1 - BETA2) * g.square()
            change = first / (1 - BETA1**step) / ((second / (1 - BETA2**step)).sqrt() + EPSILON)
            leaves = [x - rate * c.view_as(x) for x, c in zip(leaves, change.split([x.numel() for x in leaves]))]
        yield Checkpoint(leaves, first, second)


def features(model: Model, parts: list[Part], at: Checkpoint, examples: Examples, by: Sketch, *, adam: bool) -> torch.Tensor:
    """[example, dim] of unit length: each example's own gradient at a checkpoint, or Adam's direction for it."""
    rng, rows = np.random.default_rng(0), []
    for i in range(len(examples.ids)):
        slope = _flat(slopes_of(model, parts, at.leaves, _only(examples, np.array([i])), rng, 1)[1])
        rows.append(sketched(adam_direction(slope, at.first, at.second) if adam else slope, by))
    return torch.stack(rows)


def less(model: Model, parts: list[Part], pool: Examples, targets: list[Examples], *, dim: int = 1024, share: float = 0.05, epochs: int = 4, batch: int = 32,
         rate: float = 2e-5, seed: int = 0, progress=Quiet()) -> np.ndarray:
    """Score [target, sample of the pool], −1 to 1, higher is more useful to the target; 0 for samples that ask for no token. Nothing else
    grows with the pool; an interrupted run warms up again and goes on where it was."""
    by, rows = sketch(n_tuned(model, parts), dim, seed, model.device), asking(pool)
    targets = [_only(t, asking(t)) for t in targets]
    kept = progress.saved() or {}
    score, done, n = np.asarray(kept.get("score", np.zeros((len(targets), len(pool.ids))))), int(kept.get("done", 0)), epochs * len(rows)
    for epoch, state in enumerate(warm_up(model, parts, pool, share=share, epochs=epochs, batch=batch, rate=rate, seed=seed)):
        if done >= (epoch + 1) * len(rows):
            continue
        aim = torch.stack([features(model, parts, state, t, by, adam=False).mean(0) for t in targets])
        for lo in range(done - epoch * len(rows), len(rows), BATCH):
            here = rows[lo : lo + BATCH]
            score[:, here] += (features(model, parts, state, _only(pool, here), by, adam=True) @ aim.T).T.cpu().double().numpy() / epochs
            done += len(here)
            progress.save({"score": score, "done": done})
            progress.step(done, n, f"LESS: gradient {done:,} of {n:,}")
    return score


def asking(examples: Examples) -> np.ndarray:
    """Indices of the examples in which at least one token is to be predicted."""
    return np.flatnonzero((examples.targets != IGNORED).any(1).numpy())


def _only(examples: Examples, rows: np.ndarray) -> Examples:
    return Examples(examples.ids[rows], examples.targets[rows])


def _flat(slopes) -> torch.Tensor:
    return torch.cat([s.flatten().float() for s in slopes])
