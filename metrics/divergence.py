"""How far one model's predictions are from another's: KL, negative log-likelihood, top-1 agreement, per token.

KL is always KL(reference ‖ other) in nats, from float32 logits; the fused comparison of kernels.logprob_compare reads each
block of logits while it is in the cache, so nothing of size [token, vocab] but the reference's logits is kept.
"""

from __future__ import annotations

import torch

from kernels.logprob_compare import LogProbCompare

KL, AGREE, LOG_P, LOG_Q = range(4)
BLOCK = 1 << 22  # logits alive at once


def chunks(n_tokens: int, vocab: int):
    """Slices of tokens whose [token, vocab] block stays small."""
    size = max(128, BLOCK // vocab)
    return (slice(i, min(i + size, n_tokens)) for i in range(0, n_tokens, size))


def divergence(reference: torch.Tensor, hidden: torch.Tensor, head, targets: torch.Tensor) -> torch.Tensor:
    """[token, 4] float32: KL, agreement (0 or 1), ln p(target) of the reference and of the other; NaN where target is −1.

    reference [token, vocab] logits; hidden [token, channel] of the other model, turned into logits by `head` in chunks.
    """
    if len(hidden) == 0:
        return torch.empty(0, 4)
    compare = LogProbCompare(per_token=True)
    for at in chunks(*reference.shape):
        compare.add(reference[at], head(hidden[at]), targets[at], start=at.start)
    return torch.from_numpy(compare.tokens())


def token_divergence(reference: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """As `divergence`, of two logit blocks [token, vocab]."""
    return divergence(reference, logits, lambda rows: rows, targets)


def per_sequence(values: torch.Tensor, sequence: torch.Tensor, n_sequences: int) -> torch.Tensor:
    """Sums [sequence, column] in float64 of values [token, column] whose sequence index is `sequence` [token]; NaN counts 0."""
    out = torch.zeros(n_sequences, values.shape[1], dtype=torch.float64)
    return out.index_add_(0, sequence, values.double().nan_to_num(nan=0.0))
