"""Encode and keep the top k on the CPU: latents come in pieces small enough for the cache, never as a whole matrix."""

from __future__ import annotations

import numpy as np
import torch

from kernels import tokens
from kernels.compiled import kernel
from kernels.sign_codes.cpu import above

TOKENS, LATENTS = 256, 2048  # the piece of pre-activations that exists at one time: 2 MB


@kernel
def _select(pre, first, channels, values):
    """pre [n, l] float32, latents first, first + 1, …; channels int32 and values float32 [n, k], largest first, updated.

    Empty places hold channel −1 and value 0, so that only positive pre-activations enter: ReLU after the selection.
    """
    k = values.shape[1]
    whole = pre.shape[1] - pre.shape[1] % 64
    for i in range(len(pre)):
        row = pre[i]
        for c0 in range(0, pre.shape[1], 64):
            if c0 < whole:
                mask = above(row, c0, values[i, k - 1])
            else:
                mask = np.uint64(0)
                for c in range(c0, pre.shape[1]):
                    if row[c] > values[i, k - 1]:
                        mask |= np.uint64(1) << np.uint64(c - c0)
            c = c0
            while mask != 0:
                if mask & np.uint64(1) and row[c] > values[i, k - 1]:
                    place = k - 1
                    while place > 0 and values[i, place - 1] < row[c]:
                        values[i, place] = values[i, place - 1]
                        channels[i, place] = channels[i, place - 1]
                        place -= 1
                    values[i, place] = row[c]
                    channels[i, place] = first + c
                mask >>= np.uint64(1)
                c += 1


def encode(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(latents int32, values float32) [n, k] of x [n, d]: the k largest positive pre-activations, ties by the lowest latent.

    weight [d, latents] and bias [latents] float32. Places left over hold latent −1 and value 0.
    """
    n, n_latents = len(x), weight.shape[1]
    channels, values = np.full((n, k), -1, np.int32), np.zeros((n, k), np.float32)
    held = torch.empty(min(n, TOKENS), min(n_latents, LATENTS))
    for lo in range(0, n, TOKENS):
        rows = torch.from_numpy(tokens.block(x, lo, min(n, lo + TOKENS)))
        for c in range(0, n_latents, LATENTS):
            part = weight[:, c : c + LATENTS]
            piece = held[: len(rows), : part.shape[1]]
            torch.addmm(bias[c : c + LATENTS], rows, part, out=piece)
            _select(piece.numpy(), c, channels[lo : lo + len(rows)], values[lo : lo + len(rows)])
    return channels, values
