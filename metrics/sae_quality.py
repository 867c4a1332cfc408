"""How well an SAE stands for what it reads: sparsity, reconstruction, and what putting the reconstruction in its place costs.

Explained variance is 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖² over tokens. Cross-entropy recovered is (zeroed − spliced) / (zeroed − clean), in
next-token loss with the site as it is, replaced by the reconstruction, and set to zero. The first token of each sequence is left out
of both: it is neither read nor replaced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.losses import NLL, TOKENS, sequence_losses
from models.loaded import Model
from models.saes.dictionary import Sae
from models.saes.inside import activations, emptied, replacing, through


@dataclass(frozen=True, eq=False)
class Quality:
    """Sums by sequence, so that intervals can be bootstrapped; loss in nats per token that has a next one.

    tokens, active (features that fire), error (‖x − x̂‖²), spread (‖x − x̄‖²), clean, spliced, zeroed, predicted [sequence]
    fired [d_sae] tokens at which a feature fires
    """

    tokens: np.ndarray
    active: np.ndarray
    error: np.ndarray
    spread: np.ndarray
    clean: np.ndarray
    spliced: np.ndarray
    zeroed: np.ndarray
    predicted: np.ndarray
    fired: np.ndarray

    @property
    def l0(self) -> float:
        return float(self.active.sum() / self.tokens.sum())

    @property
    def explained(self) -> float:
        return float(1 - self.error.sum() / self.spread.sum())

    @property
    def dead(self) -> float:
        return float((self.fired == 0).mean())

    @property
    def recovered(self) -> float:
        return recovered(self.clean.sum(), self.spliced.sum(), self.zeroed.sum())


def recovered(clean, spliced, zeroed):
    """Share of the loss that zeroing adds and the reconstruction saves; NaN where zeroing does not hurt."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(zeroed > clean, (zeroed - spliced) / (zeroed - clean), np.nan)[()]


def quality(model: Model, sae: Sae, ids: torch.Tensor, keep: torch.Tensor, batch: int = 16, progress=None) -> Quality:
    """Over the kept tokens of ids [sequence, position], first position left out."""
    n = len(ids)
    rows = {name: np.zeros(n) for name in ("tokens", "active", "error", "spread")}
    fired = np.zeros(sae.d_sae, np.int64)
    mean = _mean(model, sae, ids, keep, batch)
    for lo in range(0, n, batch):
        kept = keep[lo : lo + batch, 1:]
        x = activations(model, sae.site, ids[lo : lo + batch])[:, 1:].cpu()
        z = sae.encode(x)
        rows["tokens"][lo : lo + batch] = kept.sum(1)
        for name, each in (("active", (z > 0).sum(-1)), ("error", (x - sae.decode(z, x)).double().square().sum(-1)), ("spread", (x.double() - mean).square().sum(-1))):
            rows[name][lo : lo + batch] = (each * kept).sum(1)
        fired += ((z > 0) & kept[..., None]).sum((0, 1)).numpy()
        if progress is not None:
            progress.step(min(lo + batch, n), 2 * n, f"reconstruction, {min(lo + batch, n)} of {n} sequences")
    losses = {}
    for name, edit in (("clean", None), ("spliced", through(sae)), ("zeroed", emptied)):
        losses[name] = spliced_losses(model, sae, edit, ids, keep)
        if progress is not None:
            progress.step(n + n * (len(losses)) // 3, 2 * n, f"loss, {name}")
    return Quality(**rows, **{name: each[NLL] for name, each in losses.items()}, predicted=losses["clean"][TOKENS], fired=fired)


def spliced_losses(model: Model, sae: Sae, edit, ids: torch.Tensor, keep: torch.Tensor) -> np.ndarray:
    """`sequence_losses` with the SAE's site edited; None: as it is."""
    if edit is None:
        return sequence_losses(model, ids, keep)
    with replacing(model, sae.site, edit):
        return sequence_losses(model, ids, keep)


def _mean(model: Model, sae: Sae, ids: torch.Tensor, keep: torch.Tensor, batch: int) -> torch.Tensor:
    """float64 [channel] mean activation over the kept tokens after the first."""
    total, count = 0.0, 0
    for lo in range(0, len(ids), batch):
        kept = keep[lo : lo + batch, 1:]
        total = total + activations(model, sae.site, ids[lo : lo + batch])[:, 1:].cpu()[kept].double().sum(0)
        count += int(kept.sum())
    return total / count
