"""Chains of layers: running a model's blocks in another order, with some skipped or repeated, and what a chain costs."""

from __future__ import annotations

import numpy as np
import torch

from metrics.divergence import KL, LOG_Q, divergence, per_sequence
from metrics.removal import attention_mask, batch_size, next_tokens
from metrics.residuals import Residuals, head, record
from models.loaded import Model

Chain = tuple[int, ...]
HOME, FIRST = 1.0, 0.01  # worth of a block at its own position, and of its first run being the one there
KEPT = 64  # prefixes whose streams are kept


def laid_out(chain: Chain, n_positions: int) -> tuple[int, ...]:
    """[position] the block that runs there, −1 where none does: the chain in its order, with as many blocks as possible at home."""
    n = len(chain)
    first = [j == chain.index(c) for j, c in enumerate(chain)]
    worth = lambda j, p: HOME + FIRST * first[j] if chain[j] == p else 0.0
    best = np.full((n + 1, n_positions + 1), -np.inf)
    best[0] = 0.0
    for j in range(1, n + 1):
        for p in range(j, n_positions + 1):
            best[j, p] = max(best[j, p - 1], best[j - 1, p - 1] + worth(j - 1, p - 1))
    out, p = [-1] * n_positions, n_positions
    for j in range(n, 0, -1):
        while best[j, p - 1] == best[j, p]:
            p -= 1
        p -= 1
        out[p] = chain[j - 1]
    return tuple(out)


class Runner:
    """A model and a text, ready to say what a chain costs there; streams after chains' beginnings are kept, the least recent dropped."""

    def __init__(self, model: Model, ids: torch.Tensor, keep: torch.Tensor):
        self.model, self.keep, self.n = model, keep, len(ids)
        self.at = {layer: i for i, layer in enumerate(model.layers)}
        self.batches = []
        size = batch_size(ids.shape[1], model.config.vocab_size)
        with torch.inference_mode():
            to_logits = head(model)
            for lo in range(0, len(ids), size):
                part, kept = ids[lo : lo + size].to(model.device), keep[lo : lo + size].to(model.device)
                seen = record(model, part, attention_mask(kept))
                self.batches.append((slice(lo, lo + size), kept, seen, to_logits(seen.post[kept]).float(), next_tokens(part, kept)[kept], {}))
        self.tokens = keep.sum(1).double().numpy()
        self.targets = (next_tokens(ids, keep) >= 0).sum(1).double().numpy()

    def cost(self, chain: Chain) -> np.ndarray:
        """float64 [2, sequence]: KL(full model ‖ chain) summed over tokens, and −ln p of the next token summed over those that have one."""
        out = np.zeros((2, self.n))
        with torch.inference_mode():
            to_logits = head(self.model)
            for rows, kept, seen, reference, targets, streams in self.batches:
                x = self._run(chain, seen, streams)
                each = divergence(reference, x[kept], to_logits, targets)
                sequence = kept.nonzero()[:, 0].cpu()
                sums = per_sequence(torch.stack([each[:, KL], -each[:, LOG_Q]], 1), sequence, len(kept))
                out[:, rows] = sums.T.numpy()
        return out

    def _run(self, chain: Chain, seen: Residuals, streams: dict) -> torch.Tensor:
        start = next((n for n in range(len(chain), 0, -1) if chain[:n] in streams), 0)
        x = streams[chain[:start]] if start else seen.pre[0]
        for n in range(start, len(chain)):
            args, kwargs = seen.calls[self.at[chain[n]]]
            x = self.model.blocks[chain[n]](x, *args, **kwargs)
            x = x[0] if isinstance(x, tuple) else x
            streams[chain[: n + 1]] = x
        while len(streams) > KEPT:
            del streams[next(iter(streams))]
        return x
