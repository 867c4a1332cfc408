"""A model whose parameters are a weighted mean of several models': the straight path between two, the triangle between three.

Loss barrier of a path (Frankle et al. 2020; Git Re-Basin, ICLR 2023): B = max_λ [L(λ a + (1−λ) b) − (λ L(a) + (1−λ) L(b))], with λ the
share of a. Over a grid that includes the ends it cannot be negative; at the midpoint it can, and then the merged model is better than its parents' mean.
"""

from __future__ import annotations

import numpy as np
import torch

from metrics.bootstrap import LEVEL
from metrics.losses import sequence_losses
from models.loaded import Model

State = dict[str, "torch.Tensor"]


class Mixture:
    """One skeleton of `like`'s architecture with parameters of its own, filled again and again; `states` give every parameter by name."""

    def __init__(self, like: Model, states: list[State]):
        self.model = like.copy("mixture")
        self.states = [{name: value.to(like.device) for name, value in state.items()} for state in states]
        self.names = list(self.states[0])
        self.model.set_parameters({name: torch.empty_like(self.states[0][name]) for name in self.names})
        self.own = dict(self.model.module.named_parameters())

    def at(self, weights: np.ndarray) -> Model:
        """The model Σ weights[m] · states[m]; weights sum to 1. An entry of 1 gives that state exactly."""
        with torch.no_grad():
            for name in self.names:
                mean = sum(float(w) * state[name] for w, state in zip(weights, self.states) if w != 0)
                self.own[name].copy_(mean)
        return self.model


def grid(n: int = 25) -> np.ndarray:
    """Shares [n, 2] of (a, b) along the path, from b to a."""
    share = np.linspace(0.0, 1.0, n)
    return np.stack([share, 1 - share], 1)


def path_losses(mixture: Mixture, weights: np.ndarray, ids: torch.Tensor, keep: torch.Tensor, step=lambda i: None) -> np.ndarray:
    """[point, 3, sequence] of metrics.losses at each row of weights [point, model]."""
    out = np.zeros((len(weights), 3, len(ids)))
    for i, w in enumerate(weights):
        step(i)
        out[i] = sequence_losses(mixture.at(w), ids, keep)
    return out


def barrier_along(weights: np.ndarray, sums: np.ndarray, counts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """L(point) − Σ weights · L(end), [..., point]; sums [..., point, sequence] and ends [..., model, sequence] are per-sequence, counts [sequence]."""
    return sums.sum(-1) / counts.sum() - (ends.sum(-1) / counts.sum()) @ weights.T


def barriers(weights: np.ndarray, sums: np.ndarray, counts: np.ndarray, ends: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """[2, 3]: the largest over the path and that at its middle, each with its 95 % interval; sequences are resampled whole, the largest is
    taken anew in each resample. Arguments as in `barrier_along`, one path."""
    middle = len(weights) // 2
    here = barrier_along(weights, sums, counts, ends)
    out = np.full((2, 3), np.nan)
    out[:, 0] = here.max(), here[middle]
    if len(counts) > 1:
        drawn = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), resamples)
        total = np.maximum(drawn @ counts, 1e-300)[:, None]
        each = drawn @ sums.T / total - (drawn @ ends.T / total) @ weights.T
        tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        out[0, 1:], out[1, 1:] = np.quantile(each.max(1), tails), np.quantile(each[:, middle], tails)
    return out
