"""What a step did to each matrix: the change of its weights, and of its outputs on the calibration text."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metrics.calibration import Inputs
from models.loaded import Model
from models.shape import shape_of


@dataclass(frozen=True)
class MatrixDamage:
    """weight_error = ‖W' − W‖ / ‖W‖; output_error = ‖(W' − W)X‖ / ‖WX‖ on the calibration inputs X, None where no Gram matrix
    is known. Both relative, Frobenius, 0 for an unchanged matrix; `zeros` is the share of exact zeros afterwards."""

    layer: int
    name: str
    kind: str
    weight_error: float
    output_error: float | None
    zeros: float


def matrix_damage(original: Model, variant: Model, inputs: Inputs | None = None) -> list[MatrixDamage]:
    """One row a matrix of the original, in order of depth. Both models have the same names (removal is by mask)."""
    rows = []
    for m in shape_of(original).matrices:
        before = original.matrix(m.layer, m.name).to(torch.float64)
        after = variant.matrix(m.layer, m.name).to(torch.float64)
        known = inputs is not None and m.site.written in inputs.gram
        gram = inputs.gram[m.site.written].to(before) if known else None
        rows.append(MatrixDamage(
            m.layer, m.name, m.kind, relative(after - before, before), relative(after - before, before, gram) if known else None,
            float((after == 0).double().mean()),
        ))
    return rows


def relative(change: torch.Tensor, whole: torch.Tensor, gram: torch.Tensor | None = None) -> float:
    """sqrt(tr(ΔW C ΔWᵀ) / tr(W C Wᵀ)); C = I without a Gram matrix. 0 / 0 is 0."""
    size = _energy(change, gram)
    return 0.0 if size == 0 else (size / max(_energy(whole, gram), 1e-300)) ** 0.5


def _energy(w: torch.Tensor, gram: torch.Tensor | None) -> float:
    return float((w * w).sum() if gram is None else ((w @ gram) * w).sum().clamp(min=0))
