"""Which selections help: the model is tuned for a few steps on each, and on many drawn at random; the target's held-out loss says which.

Every run starts from the same weights, and run s of every selection draws its batches by the same numbers. A selection's loss is the
mean over its runs. The null are the random selections themselves, each of which may be lucky: p is the rank of a selection among them,
(1 + how many random ones are at least as good) / (1 + their number). Where a selection is itself a random one, p is uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics import head_tuning
from metrics.gradient_features import asking
from metrics.head_tuning import IGNORED, Examples, Part
from models.loaded import Model
from models.progress import Stage
from models.refusal import Refused

LEAST_SEEDS, LEAST_RANDOM = 3, 8
BATCH = 32  # held-out examples read at one time


@dataclass(frozen=True, eq=False)
class Tuned:
    """loss [selection, seed] nats per asked token of the held-out target, the given selections first, then the random ones; before the same,
    untouched; tokens how many are asked for."""

    loss: np.ndarray
    before: float
    tokens: int


def rank_p(loss: np.ndarray, n: int) -> np.ndarray:
    """p [selection] of the first n rows of loss [selection, seed] against the others: small where few random selections are as good."""
    mean = loss.mean(1)
    return (1 + (mean[n:] <= mean[:n, None]).sum(1)) / (1 + len(mean) - n)


def tuned(model: Model, parts: list[Part], pool: Examples, selections: list[np.ndarray], candidates: np.ndarray, held: Examples, *, steps: int, batch: int, rate: float,
          seeds: int, random: int, seed: int = 0, progress) -> Tuned:
    """Tune on each selection (rows of the pool, all of one size) and on `random` others of that size drawn from the candidates; held are
    examples that none of them holds. Runs that are done are kept, and one that was interrupted goes on within itself."""
    sizes = sorted({len(rows) for rows in selections})
    if seeds < LEAST_SEEDS or random < LEAST_RANDOM or len(sizes) != 1:
        raise Refused(f"Expected selections of one size, at least {LEAST_SEEDS} seeds and {LEAST_RANDOM} random selections; found sizes {sizes}, {seeds} and {random}.")
    drawn = [np.random.default_rng([seed, i]).choice(candidates, sizes[0], replace=False) for i in range(random)]
    every = [rows[np.isin(rows, asking(pool))] for rows in (*selections, *drawn)]
    before, tokens = held_out_loss(model, held)
    loss = np.asarray((progress.saved() or {}).get("loss", np.full((len(every), seeds), np.nan)))
    runs = [(i, s) for s in range(seeds) for i in range(len(every))]
    for at, (i, s) in enumerate(runs):
        if np.isfinite(loss[i, s]):
            continue
        inner = _Named(Stage(progress.part(f"selection {i}, seed {s}"), at / len(runs), (at + 1) / len(runs)), f"tuning, run {at + 1} of {len(runs)}")
        values = head_tuning.tune(model, parts, Examples(pool.ids[every[i]], pool.targets[every[i]]), steps=steps if len(every[i]) else 0, batch=batch, rate=rate,
                                  seed=int(np.random.SeedSequence([seed, s]).generate_state(1)[0]), progress=inner)
        copy = model.copy(f"{model.written}, tuned")
        head_tuning.put(copy, parts, values)
        loss[i, s] = held_out_loss(copy, held)[0]
        progress.save({"loss": loss}, force=True)
    return Tuned(loss, before, tokens)


def held_out_loss(model: Model, held: Examples) -> tuple[float, int]:
    """(nats per asked token, how many are asked for)."""
    total, tokens = 0.0, int((held.targets != IGNORED).sum())
    for lo in range(0, len(held.ids), BATCH):
        targets = held.targets[lo : lo + BATCH]
        logits = model.logits(held.ids[lo : lo + BATCH]).float().flatten(0, 1)
        total += float(torch.nn.functional.cross_entropy(logits, targets.flatten().to(logits.device), ignore_index=IGNORED, reduction="sum"))
    return total / max(tokens, 1), tokens


class _Named:
    """One run's progress under the name of the whole: no live curve of its own among dozens."""

    def __init__(self, whole, name: str):
        self.whole, self.name = whole, name
        self.save, self.saved = whole.save, whole.saved

    def step(self, i: int, n: int, message: str = "", live=None) -> None:
        self.whole.step(i, n, self.name)
