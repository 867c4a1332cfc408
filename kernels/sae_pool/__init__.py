"""Sparse codes of an SAE, pooled over each sequence, without the dense latent matrix (MONA's representation)."""

from __future__ import annotations

from copy import copy

import numpy as np
import torch

from kernels import tokens
from kernels.sae_pool.reference import codes, pooled

POOLS = ("mean", "sum", "max")


class SaePool:
    """Accumulates over whole sequences of `length` tokens, as models.stream hands them over.

    weight [d, latents], b_enc [latents], b_dec [d] are the encoder's; a token's code is top_k(ReLU((x − b_dec) W + b_enc)).

    sequence(i)   (latents int32 ascending, values float64) of sequence i: mean, sum or max over its kept tokens
    matrix()      (indptr, latents, values) of all sequences 0 … n − 1, as a CSR matrix [sequence, latent]
    fired         int64 [latents], tokens in which a latent is among the k; `fired / count` is its density
    count         tokens seen
    codes_of(x)   (latents int32, values float32) [token, k], −1 and 0 in places left over: for feature cards (TopK.add_sparse)
    """

    def __init__(
        self,
        weight: torch.Tensor,
        b_enc: torch.Tensor,
        b_dec: torch.Tensor,
        *,
        k: int,
        length: int,
        pool: str = "mean",
    ):
        if pool not in POOLS or not 1 <= k <= weight.shape[1] or length < 1:
            raise ValueError(f"Expected a pool of {', '.join(POOLS)}, 1 ≤ k ≤ {weight.shape[1]} and a length; found {pool}, {k}, {length}.")
        self.weight = weight.detach().to(torch.float32).contiguous()
        exact = b_enc.detach().to(torch.float64) - b_dec.detach().to(torch.float64) @ weight.detach().to(torch.float64)
        self.bias = exact.to(torch.float32)
        self.k, self.length, self.pool, self.count = k, length, pool, 0
        self.fired = torch.zeros(weight.shape[1], dtype=torch.int64)
        self._sequences: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def empty(self, length: int) -> SaePool:
        """The same encoder with nothing seen, for sequences of `length` tokens."""
        other = copy(self)
        other.length, other.count, other.fired, other._sequences = length, 0, torch.zeros_like(self.fired), {}
        return other

    def codes_of(self, x: torch.Tensor, impl: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """x [token, d]."""
        tokens.check(x, len(self.weight), None)
        impl = tokens.chosen(x, impl)
        if impl == "reference":
            values, latents = codes(x, self.weight, self.bias, self.k).sort(dim=1, descending=True, stable=True)
            values, latents = values[:, : self.k], latents[:, : self.k]
            return latents.masked_fill(values == 0, -1).to(torch.int32).numpy(), values.to(torch.float32).numpy()
        if impl == "cpu":
            from kernels.sae_pool import cpu

            return cpu.encode(x, self.weight, self.bias, self.k)
        from kernels.sae_pool import gpu

        return gpu.encode(x, self.weight.to(x.device), self.bias.to(x.device), self.k)

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        """x [token, d]: whole sequences, the first at sequence start / length."""
        tokens.check(x, len(self.weight), keep)
        if start % self.length or len(x) % self.length:
            raise ValueError(f"Expected whole sequences of {self.length} tokens, found {len(x)} tokens from {start}.")
        kept = np.ones(len(x), bool) if keep is None else keep.cpu().numpy()
        if tokens.chosen(x, impl) == "reference":
            dense = codes(x, self.weight, self.bias, self.k)
            self.fired += (dense[torch.from_numpy(kept)] > 0).sum(0).cpu()
            for i, row in enumerate(pooled(dense, torch.from_numpy(kept), self.length, self.pool).cpu().numpy()):
                latents = np.flatnonzero(row).astype(np.int32)
                self._sequences[start // self.length + i] = latents, row[latents]
        else:
            latents, values = self.codes_of(x, impl)
            used = latents[kept]
            self.fired += torch.from_numpy(np.bincount(used[used >= 0], minlength=len(self.fired)))
            for lo in range(0, len(x), self.length):
                rows = slice(lo, lo + self.length)
                self._sequences[(start + lo) // self.length] = self._pooled(latents[rows], values[rows], kept[rows])
        self.count += int(kept.sum())

    def _pooled(self, latents: np.ndarray, values: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        there = (latents >= 0) & kept[:, None]
        unique, place = np.unique(latents[there], return_inverse=True)
        result = np.zeros(len(unique))
        (np.maximum if self.pool == "max" else np.add).at(result, place, values[there].astype(np.float64))
        return unique, result / max(int(kept.sum()), 1) if self.pool == "mean" else result

    def merge(self, other: SaePool) -> None:
        """Join sequences gathered elsewhere."""
        self.count += other.count
        self.fired += other.fired
        self._sequences |= other._sequences

    def sequence(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self._sequences[i]

    def matrix(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = max(self._sequences, default=-1) + 1
        empty = np.zeros(0, np.int32), np.zeros(0)
        rows = [self._sequences.get(i, empty) for i in range(n)]
        indptr = np.concatenate([[0], np.cumsum([len(latents) for latents, _ in rows])]).astype(np.int64)
        return indptr, *(np.concatenate([row[part] for row in rows] or [empty[part]]) for part in (0, 1))
