"""Next-token loss and top-1 accuracy of a model, per sequence, so that intervals can be bootstrapped over sequences."""

from __future__ import annotations

import numpy as np
import torch

from metrics.removal import attention_mask, batch_size, next_tokens
from models.loaded import Model

NLL, RIGHT, TOKENS = range(3)


def sequence_losses(model: Model, ids: torch.Tensor, keep: torch.Tensor) -> np.ndarray:
    """float64 [3, sequence] sums over the tokens of ids [sequence, position] that have a next one: −ln p of it in nats, whether it is
    the likeliest, 1."""
    out = np.zeros((3, len(ids)))
    targets = next_tokens(ids, keep)
    size = batch_size(ids.shape[1], model.config.vocab_size)
    for at in range(0, len(ids), size):
        here, kept = targets[at : at + size], keep[at : at + size]
        mask = attention_mask(kept)
        logits = model.logits(ids[at : at + size], None if mask is None else mask.to(model.device)).float()
        known = (here >= 0).to(logits.device)
        nll = torch.nn.functional.cross_entropy(logits[known], here.to(logits.device)[known], reduction="none").double()
        right = (logits[known].argmax(-1) == here.to(logits.device)[known]).double()
        sequence = known.nonzero()[:, 0]
        for row, values in ((NLL, nll), (RIGHT, right), (TOKENS, torch.ones_like(nll))):
            out[row, at : at + size] = torch.zeros(len(here), dtype=torch.float64, device=nll.device).index_add_(0, sequence, values).cpu().numpy()
    return out
