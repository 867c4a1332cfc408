"""How much each block, attention and MLP turns the residual stream, summed over a corpus batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.divergence import per_sequence
from metrics.redundancy import angles, turn
from metrics.removal import KINDS, attention_mask, batch_size
from metrics.residuals import Residuals, record
from models.loaded import Model


@dataclass(eq=False)
class Similarities:
    """Sums in float64; axis `scope` is 0 all tokens, 1 without position 0.

    turn [kind, block, scope, sequence]: Σ (1 − cos) between the stream with and without what the block, its attention or
    its MLP adds; NaN where a sublayer is already removed. tokens [scope, sequence]. angle [state, state]: Σ over sequences
    of the angular distance at the last token; n_last of them.
    """

    turn: np.ndarray
    tokens: np.ndarray
    angle: np.ndarray
    n_last: int = 0

    @staticmethod
    def empty(n_blocks: int, n_sequences: int) -> Similarities:
        return Similarities(np.zeros((3, n_blocks, 2, n_sequences)), np.zeros((2, n_sequences)), np.zeros((n_blocks + 1, n_blocks + 1)))

    def add(self, model: Model, seen: Residuals, keep: torch.Tensor, first: int) -> None:
        """Add one batch, whose sequences are number first, first + 1, …"""
        sequence, position = (x.cpu() for x in keep.nonzero(as_tuple=True))
        scopes = torch.stack([torch.ones_like(position), position > 0], 1).double()
        here = slice(first, first + len(keep))
        self.tokens[:, here] = per_sequence(scopes, sequence, len(keep)).T.numpy()
        for k, kind in enumerate(KINDS):
            for i, layer in enumerate(seen.layers):
                if (layer, kind) in model.removed:
                    self.turn[k, i] = np.nan
                    continue
                values = turn(*ends(seen, kind, i))[keep].cpu().double()
                self.turn[k, i, :, here] = per_sequence(values[:, None] * scopes, sequence, len(keep)).T.numpy()
        last = keep.shape[1] - 1 - keep.flip(1).long().argmax(1)
        rows = torch.arange(len(keep), device=last.device)
        self.angle += angles(torch.stack([state[rows, last] for state in seen.states])).numpy()
        self.n_last += len(keep)

    @property
    def scores(self) -> np.ndarray:
        """Mean 1 − cos [kind, block, scope]: Block Influence, attention and MLP scores."""
        return self.turn.sum(-1) / self.tokens.sum(-1)

    @property
    def angular(self) -> np.ndarray:
        """Mean angular distance [state, state] at the last token, in units of π."""
        return self.angle / max(self.n_last, 1)


def ends(seen: Residuals, kind: str, i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The stream without and with what `kind` of block i adds. In parallel blocks both sublayers read the same stream."""
    after = seen.states[i + 1]
    if kind == "block":
        return seen.pre[i], after
    if seen.mid:
        return (seen.pre[i], seen.mid[i]) if kind == "attn" else (seen.mid[i], after)
    return seen.pre[i], seen.pre[i] + (seen.attn_out if kind == "attn" else seen.mlp_out)[i]


def similarities(model: Model, ids: torch.Tensor, keep: torch.Tensor, progress=None) -> Similarities:
    """One pass over ids [sequence, position]; for callers that need nothing else of the stream."""
    out = Similarities.empty(len(model.layers), len(ids))
    size = batch_size(ids.shape[1], model.config.vocab_size)
    for first in range(0, len(ids), size):
        if progress:
            progress.step(first, len(ids), f"similarities, sequence {first + 1} of {len(ids)}")
        kept = keep[first : first + size].to(model.device)
        with torch.inference_mode():
            out.add(model, record(model, ids[first : first + size], attention_mask(kept)), kept, first)
    return out
