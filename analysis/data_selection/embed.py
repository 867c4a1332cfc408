"""What one forward pass over samples leaves behind: pooled SAE codes, pooled stream, and RDS+'s weighted last state, one row a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from kernels.sae_pool import SaePool
from models.layout import Site
from models.loaded import Model
from models.saes import Sae
from models.stream import Request, stream

POOLINGS = ("mean", "sum", "max", "binary", "last token")


@dataclass(frozen=True, eq=False)
class Embedded:
    """One row a sample: codes CSR [sample, feature], raw [sample, d_model] pooled at the SAE's site in the same way, rds [sample, d_model] of
    unit length, tokens CSR of counts [sample, vocabulary], length [sample] counted tokens."""

    codes: object
    raw: np.ndarray
    rds: np.ndarray
    tokens: object
    length: np.ndarray


def counted(ids: torch.Tensor, keep: torch.Tensor, spans: dict, part: str, first: bool) -> torch.Tensor:
    """bool [sample, position]: the tokens that a sample is judged by. Without `first`, the first token is left out (BOS, or an attention
    sink whose size would rule the mean); `part` is all of it, or what stands before or in the marked answer, where one is marked."""
    used = keep.clone()
    if not first:
        used[:, 0] = False
    if part != "all of it" and "answer" in spans:
        answer = torch.from_numpy(spans["answer"])
        used &= answer if part == "answer" else ~answer
    return used


def embed(model: Model, sae: Sae, ids: torch.Tensor, used: torch.Tensor, pooling: str, k: int, progress=None, encoder: Callable | None = None) -> Embedded:
    """ids, used [sample, position]; k: how many features of a token count (0: as the SAE says); encoder: what `coder` made for these, where
    one piece of a pool follows another."""
    from scipy.sparse import csr_matrix

    length, last = ids.shape[1], _last(used)
    own = "mean" if pooling in ("binary", "last token") else pooling
    kept = last if pooling == "last token" else used
    codes = (encoder or coder(sae, pooling, k))(length, kept)
    raw = _Pooled(lambda x: x.to(torch.float32), length, own, kept)
    rds = _Pooled(lambda x: x.to(torch.float32), length, "position", used)
    stream(model, ids, None, [Request(codes, (sae.site,)), Request(raw, (sae.site,)), Request(rds, (Site(None, "final"),))], progress=progress)
    indptr, features, values = codes.matrix()
    if pooling == "binary":
        values = np.ones_like(values)
    z = csr_matrix((values, features, indptr), shape=(len(ids), sae.d_sae))
    unit = rds.rows(len(ids))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True).clip(min=1e-12)
    return Embedded(z, raw.rows(len(ids)), unit, counts(ids, used, vocabulary(model)), used.sum(1).numpy())


def vocabulary(model: Model) -> int:
    return model.module.get_input_embeddings().num_embeddings


def counts(ids: torch.Tensor, used: torch.Tensor, vocab: int):
    """CSR [sample, token]: how often each token occurs among the counted ones."""
    from scipy.sparse import coo_matrix

    rows, places = used.nonzero(as_tuple=True)
    made = coo_matrix((np.ones(len(rows)), (rows.numpy(), ids[rows, places].numpy())), shape=(len(ids), vocab)).tocsr()
    made.sum_duplicates()
    return made


def _last(used: torch.Tensor) -> torch.Tensor:
    """Each row's last counted token alone."""
    return used & (used.flip(1).cumsum(1).flip(1) == 1)


def coder(sae: Sae, pooling: str, k: int) -> Callable:
    """(length of sequences, used) -> the statistic that codes them: the fused kernel where the SAE is what it computes, else the SAE's own
    encoder, batch by batch."""
    pool = "mean" if pooling in ("binary", "last token") else pooling
    if sae.normalise == "none" and (sae.architecture == "topk" or k > 0 and sae.architecture == "standard"):
        b_dec = sae.b_dec if sae.centred else torch.zeros_like(sae.b_dec)
        kernel = SaePool(sae.W_enc, sae.b_enc, b_dec, k=min(k or sae.k, sae.d_sae), length=1, pool=pool)
        return lambda length, used: _Masked(kernel.empty(length), used)
    return lambda length, used: _Pooled(lambda x: _largest(sae.encode(x), k), length, pool, used)


def _largest(z: torch.Tensor, k: int) -> torch.Tensor:
    if not 0 < k < z.shape[-1]:
        return z
    values, places = z.topk(k, dim=-1)
    return torch.zeros_like(z).scatter_(-1, places, values)


class _Masked:
    """A statistic that counts its own tokens: the stream gives it all of them."""

    def __init__(self, statistic, used: torch.Tensor):
        self.statistic, self.used = statistic, used.reshape(-1)
        self.matrix = statistic.matrix

    def add(self, x: torch.Tensor, keep=None, start: int = 0) -> None:
        self.statistic.add(x, self.used[start : start + len(x)], start=start)


class _Pooled:
    """`of(x)` [token, channel] pooled over each sample: mean, sum, max, or weighted by position 1 … T (SGPT, RDS+)."""

    def __init__(self, of, length: int, pool: str, used: torch.Tensor):
        self.of, self.length, self.pool, self.used = of, length, pool, used
        self._rows: dict[int, np.ndarray] = {}

    def add(self, x: torch.Tensor, keep=None, start: int = 0) -> None:
        y = self.of(x).cpu()
        first, n = start // self.length, len(x) // self.length
        used = self.used[first : first + n]
        y = y.view(n, self.length, -1)
        if self.pool == "max":
            pooled = y.masked_fill(~used[..., None], -torch.inf).amax(1)
            pooled[~used.any(1)] = 0.0
        else:
            weight = used.to(torch.float64)
            if self.pool == "position":
                weight = weight * used.cumsum(1)
            if self.pool != "sum":
                weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
            pooled = torch.einsum("st,stc->sc", weight, y.to(torch.float64))
        for i, row in enumerate(pooled.numpy()):
            self._rows[first + i] = row

    def rows(self, n: int) -> np.ndarray:
        return np.stack([self._rows[i] for i in range(n)]).astype(np.float64)

    def matrix(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(indptr, features, values) as SaePool gives them."""
        found = [np.flatnonzero(self._rows[i]) for i in range(len(self._rows))]
        indptr = np.concatenate([[0], np.cumsum([len(f) for f in found])]).astype(np.int64)
        return indptr, np.concatenate(found).astype(np.int32), np.concatenate([self._rows[i][f] for i, f in enumerate(found)])
