"""Which feed-forward weights fire for what a model has by heart, more than for other text: the contrast of Chavhan et al. (2024).

Per block, W [d_model, d_mlp] is the feed-forward output projection and ‖X_j‖ the root mean square of its input channel j over the
positions that predict a memorized suffix. A weight is located where S = |W_ij| · ‖X_j‖ is among the largest of its output row and
larger for memorized text than for the base text. Root *means*, so that unequal numbers of tokens do not bias the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.moments import Moments
from metrics.extraction import Passages
from models.layout import Site
from models.loaded import Model
from models.stream import Request, stream


class RowNormalised(Moments):
    """Moments of activations whose every token was scaled to length 1 first, as in the paper's code."""

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        x = x.float()
        super().add(x / x.norm(dim=1, keepdim=True).clamp(min=1e-12), keep, start, impl)


@dataclass(frozen=True, eq=False)
class Sizes:
    """Root mean square of every input channel of the feed-forward output projection, by block: float64 [d_mlp] each."""

    rms: dict[int, torch.Tensor]
    tokens: int


def sizes(model: Model, ids: torch.Tensor, keep: torch.Tensor, normalised: bool = False, progress=None) -> Sizes:
    """One streamed pass over ids [sequence, position], counting the tokens of `keep`."""
    statistic = RowNormalised if normalised else Moments
    blocks = [i for i in model.layers if (i, "mlp") not in model.removed]
    found = stream(model, ids, keep, [Request(statistic, (Site(i, "mlp_post"),)) for i in blocks], progress=progress)
    return Sizes({i: m.rms for i, m in zip(blocks, found)}, found[0].count if found else 0)


def of_passages(model: Model, p: Passages, normalised: bool = False, progress=None) -> Sizes:
    return sizes(model, p.ids, p.predicting, normalised, progress)


def output_matrix(model: Model, layer: int) -> torch.Tensor:
    return model.matrix(layer, model.layout.mlp_output)


def located(weight: torch.Tensor, mem: torch.Tensor, base: torch.Tensor | None, ratio: float) -> torch.Tensor:
    """bool [out, in]: the top max(1, ⌊ratio · in⌋) of each output row by |W| · mem, where mem > base; base None: no contrast."""
    k = max(1, int(ratio * weight.shape[1]))
    score = weight.abs().double() * mem.to(weight.device)
    top = torch.zeros_like(weight, dtype=torch.bool).scatter_(1, score.topk(k, 1).indices, True)
    return top if base is None else top & (mem > base).to(weight.device)


def columns(weight: torch.Tensor, score: torch.Tensor, ratio: float, signed: bool = True) -> torch.Tensor:
    """bool [out, in] of whole columns: the top max(1, ⌊ratio · in⌋) neurons by `score` [in]; `signed`: positive ones only."""
    chosen = torch.zeros_like(score, dtype=torch.bool)
    chosen[score.topk(max(1, int(ratio * len(score) + 1e-9))).indices] = True
    return (chosen & (score > 0) if signed else chosen).to(weight.device).expand(weight.shape)


def neuron_scores(weight: torch.Tensor, mem: torch.Tensor, base: torch.Tensor | None) -> torch.Tensor:
    """‖w_j‖ · (mem_j − base_j), float64 [in]; base None: no contrast, mem_j alone."""
    return weight.double().norm(dim=0).cpu() * (mem if base is None else mem - base)


def masks(model: Model, mem: Sizes, base: Sizes | None, ratio: float, unit: str = "weights") -> dict[int, torch.Tensor]:
    """Located weights of every block; `unit` is weights or neurons, base None means no contrast."""
    out = {}
    for i, x in mem.rms.items():
        w, b = output_matrix(model, i), None if base is None else base.rms[i]
        out[i] = columns(w, neuron_scores(w, x, b), ratio) if unit == "neurons" else located(w, x, b, ratio)
    return out


def neuron_masks(model: Model, scores: dict[int, torch.Tensor], ratio: float, signed: bool = True) -> dict[int, torch.Tensor]:
    """Whole columns of every block, by any score per neuron (metrics.attribution)."""
    return {i: columns(output_matrix(model, i), score, ratio, signed) for i, score in scores.items()}


def random_like(masks: dict[int, torch.Tensor], unit: str, seed: int) -> dict[int, torch.Tensor]:
    """Random masks with as many weights in every row (or as many whole columns) of every block."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for i, mask in masks.items():
        if unit == "neurons":
            order = torch.rand(mask.shape[1], generator=generator).argsort()
            out[i] = mask[:, order]
        else:
            order = torch.rand(mask.shape, generator=generator).argsort(1)
            out[i] = torch.zeros_like(mask).scatter_(1, order, torch.arange(mask.shape[1]).expand(mask.shape) < mask.sum(1, keepdim=True))
    return out


def cut(model: Model, masks: dict[int, torch.Tensor], written: str = "cut") -> Model:
    """A copy whose located weights are zero."""
    variant = model.copy(written)
    for i, mask in masks.items():
        variant.set_matrix(i, model.layout.mlp_output, torch.where(mask, 0.0, output_matrix(model, i)))
    return variant


def density(masks: dict[int, torch.Tensor]) -> float:
    return sum(int(m.sum()) for m in masks.values()) / max(sum(m.numel() for m in masks.values()), 1)


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    """|A ∩ B| / |A ∪ B|; 0 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def chance_iou(a: torch.Tensor, b: torch.Tensor) -> float:
    """Expected IoU of two independent random masks of these densities: pq / (p + q − pq); d / (2 − d) where they are equal."""
    p, q = float(a.float().mean()), float(b.float().mean())
    return p * q / (p + q - p * q) if p + q > 0 else 0.0
