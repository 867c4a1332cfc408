"""Does a selection help? The model is tuned for a few steps on each, and the target's held-out loss is read before and after.

Every run starts from the same weights; within one seed all selections see batches drawn by the same numbers, so that differences are
paired. Random is drawn anew for each seed, and is the control that every difference is taken from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics import head_tuning
from metrics.head_tuning import Examples, Part
from metrics.losses import NLL, TOKENS, sequence_losses
from models.loaded import Model
from models.progress import Stage
from models.refusal import Refused

RANDOM = "random"
LEAST_SEEDS = 3


@dataclass(frozen=True, eq=False)
class Tuned:
    """nats [method, seed, sequence]: summed −ln p over each held-out sequence after tuning; before [sequence] the same untouched;
    tokens [sequence]. `methods` ends with random."""

    methods: tuple[str, ...]
    nats: np.ndarray
    before: np.ndarray
    tokens: np.ndarray

    def loss(self) -> np.ndarray:
        """Nats per token of the held-out target [method, seed]."""
        return self.nats.sum(-1) / self.tokens.sum()

    def against_random(self, resamples: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(mean, low, high) [method − 1] of loss less random's, nats per token, below 0 where a selection helps more than luck; 95 % by
        resampling seeds and held-out sequences together, because both are drawn."""
        rng, (_, n_seeds, n) = np.random.default_rng(seed), self.nats.shape
        apart = self.nats[:-1] - self.nats[-1:]
        drawn = np.empty((resamples, len(apart)))
        for r in range(resamples):
            seeds, rows = rng.integers(n_seeds, size=n_seeds), rng.integers(n, size=n)
            drawn[r] = apart[:, seeds][..., rows].mean(1).sum(-1) / self.tokens[rows].sum()
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        return apart.mean(1).sum(-1) / self.tokens.sum(), low, high


def tuned(model: Model, parts: list[Part], pool: Examples, selections: dict[str, np.ndarray], candidates: np.ndarray, ids: torch.Tensor, keep: torch.Tensor,
          *, steps: int, batch: int, rate: float, seeds: int, seed: int = 0, progress) -> Tuned:
    """Tune on each selection (rows of the pool) and on as many random candidates, with `seeds` seeds each; ids, keep [sequence, position]
    are the held-out target. Runs that are done are kept, and a run resumes within itself."""
    sizes = {len(rows) for rows in selections.values()}
    if seeds < LEAST_SEEDS or len(sizes) != 1:
        raise Refused(f"Expected selections of one size and at least {LEAST_SEEDS} seeds, found sizes {sorted(sizes)} and {seeds} seeds.")
    (size,), methods = sizes, (*selections, RANDOM)
    before = sequence_losses(model, ids, keep)
    kept = progress.saved() or {}
    nats = np.asarray(kept.get("nats", np.full((len(methods), seeds, len(ids)), np.nan)))
    runs = [(m, s) for s in range(seeds) for m in range(len(methods))]
    for at, (m, s) in enumerate(runs):
        if np.isfinite(nats[m, s]).all():
            continue
        rows = selections[methods[m]] if methods[m] != RANDOM else np.random.default_rng([seed, s, 1]).choice(candidates, size, replace=False)
        inner = Stage(progress.part(f"{methods[m]}, seed {s}"), at / len(runs), (at + 1) / len(runs))
        values = head_tuning.tune(model, parts, Examples(pool.ids[rows], pool.targets[rows]), steps=steps, batch=batch, rate=rate,
                                  seed=int(np.random.SeedSequence([seed, s]).generate_state(1)[0]), progress=inner, name=f"{methods[m]}, loss")
        copy = model.copy(f"{model.written}, tuned on {methods[m]}")
        head_tuning.put(copy, parts, values)
        nats[m, s] = sequence_losses(copy, ids, keep)[NLL]
        progress.save({"nats": nats}, force=True)
    return Tuned(methods, nats, before[NLL], before[TOKENS])
