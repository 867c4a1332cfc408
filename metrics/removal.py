"""What removing a block, an attention or an MLP really costs: measured KL, perplexity and top-1 agreement.

Removing something from block i changes nothing before it, so its run starts from the recorded stream: of n blocks removed
one at a time, n(n−1)/2 block calls instead of n(n−1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.divergence import AGREE, KL, LOG_P, LOG_Q, divergence, per_sequence
from metrics.residuals import Residuals, head, record, run_on, without_attention, without_mlp
from models.loaded import Model

KINDS = ("block", "attn", "mlp")
PLAIN = {"block": "block", "attn": "attention", "mlp": "MLP"}
MOST = 1 << 26  # numbers in a batch's reference probabilities [token, vocab]: 256 MB


@dataclass(frozen=True)
class Unit:
    """Something removable: kind "block", "attn" or "mlp" of the block at position `i` of the model's layers."""

    kind: str
    i: int
    layer: int

    @property
    def written(self) -> str:
        return f"block {self.layer}" if self.kind == "block" else f"{PLAIN[self.kind]} of block {self.layer}"

    @property
    def sublayers(self) -> frozenset[tuple[int, str]]:
        """What Model.remove takes."""
        kinds = ("attn", "mlp") if self.kind == "block" else (self.kind,)
        return frozenset((self.layer, kind) for kind in kinds)


def units(model: Model, kinds: tuple[str, ...] = KINDS) -> tuple[Unit, ...]:
    """All that can still be removed, kind by kind; what the variant already lacks is left out."""
    return tuple(Unit(kind, i, layer) for kind in kinds for i, layer in enumerate(model.layers) if (layer, kind) not in model.removed)


def batch_size(length: int, vocab: int) -> int:
    """Sequences per batch: about a thousand tokens, fewer where the vocabulary would fill the memory. Fixed, so that a
    result does not depend on the machine."""
    return max(1, min(8, 1024 // length, MOST // (length * vocab)))


@dataclass(eq=False)
class Sums:
    """Per-sequence sums, float64. Axis `scope`: 0 all tokens, 1 without position 0.

    kl, nll, agree [unit, scope, sequence]; base_nll, tokens, targets [scope, sequence] (targets: tokens with a next one).
    """

    kl: np.ndarray
    nll: np.ndarray
    agree: np.ndarray
    base_nll: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray

    @staticmethod
    def empty(n_units: int, n_sequences: int) -> Sums:
        wide, flat = (n_units, 2, n_sequences), (2, n_sequences)
        return Sums(*[np.zeros(s) for s in (wide, wide, wide, flat, flat, flat)])


def removed_stream(model: Model, seen: Residuals, unit: Unit) -> torch.Tensor:
    """The stream after the last block with `unit` removed."""
    start = {"block": lambda: seen.pre[unit.i], "attn": lambda: without_attention(model, seen, unit.i),
             "mlp": lambda: without_mlp(model, seen, unit.i)}[unit.kind]
    return run_on(model, seen, unit.i + 1, start())


def sweep_batch(model: Model, seen: Residuals, ids: torch.Tensor, keep: torch.Tensor, wanted: tuple[Unit, ...], sums: Sums,
                first: int, step=lambda unit: None) -> None:
    """Add one batch's measured removals to `sums` at sequences first, first + 1, …; `step` is called before each unit."""
    with torch.inference_mode():
        to_logits = head(model)
        sequence, position = (x.cpu() for x in keep.nonzero(as_tuple=True))
        targets = next_tokens(ids, keep)[keep]
        hidden = _kept(seen.post, keep)
        reference = to_logits(hidden).float()
        scopes = torch.stack([torch.ones_like(position), position > 0], 1).double()  # [token, scope]
        here = slice(first, first + len(ids))

        def spread(values: torch.Tensor) -> np.ndarray:
            """[scope, sequence] sums of values [token]."""
            return per_sequence(values[:, None] * scopes, sequence, len(ids)).T.numpy()

        sums.tokens[:, here] = spread(torch.ones(len(position)))
        sums.targets[:, here] = spread((targets >= 0).cpu().float())
        own = None
        for u, unit in enumerate(wanted):
            step(unit)
            own = divergence(reference, _kept(removed_stream(model, seen, unit), keep), to_logits, targets)
            sums.kl[u, :, here], sums.agree[u, :, here], sums.nll[u, :, here] = (
                spread(own[:, KL]), spread(own[:, AGREE]), -spread(own[:, LOG_Q]))
        if own is None:
            own = divergence(reference, hidden, to_logits, targets)
        sums.base_nll[:, here] = -spread(own[:, LOG_P])


def sweep(model: Model, ids: torch.Tensor, keep: torch.Tensor, wanted: tuple[Unit, ...], step=lambda unit: None) -> Sums:
    """Measured removals over ids [sequence, position]; for callers that need nothing else of the stream."""
    sums = Sums.empty(len(wanted), len(ids))
    size = batch_size(ids.shape[1], model.config.vocab_size)
    for first in range(0, len(ids), size):
        part, kept = ids[first : first + size].to(model.device), keep[first : first + size].to(model.device)
        seen = record(model, part, attention_mask(kept))
        sweep_batch(model, seen, part, kept, wanted, sums, first, step)
    return sums


def attention_mask(keep: torch.Tensor) -> torch.Tensor | None:
    """None where nothing is padded, so that attention takes its causal fast path."""
    return None if bool(keep.all()) else keep.long()


def next_tokens(ids: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """The token after each position, −1 at the end of a sequence or before padding."""
    out = torch.full_like(ids, -1)
    out[:, :-1] = torch.where(keep[:, 1:], ids[:, 1:], -1)
    return out


def _kept(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return x.flatten(0, 1) if bool(keep.all()) else x[keep]
