"""MoDeGPT's decompositions of matrices that are multiplied with one another, and how much width each block gives.

C is Σ x xᵀ of the inputs in question, [channel, channel] float64. Weights are [out, in].
"""

from __future__ import annotations

import torch

from metrics.solvers import output_subspace

MOST = 0.9  # of a block's width that unequal ranks may take


def widths(influence: torch.Tensor, keep: float, temperature: float) -> torch.Tensor:
    """Share of the width that each block keeps, float64 [block], `keep` on average: its loss is in proportion to exp(−influence/ε), at
    most MOST, and what is over goes to the others."""
    weight = torch.softmax(-influence.to(torch.float64) / temperature, 0).clamp(min=1e-12)
    left, cap = (1 - keep) * len(influence), max(MOST, 1 - keep)
    loss, free = torch.zeros_like(weight), torch.ones_like(weight, dtype=torch.bool)
    while bool(free.any()):
        loss[free] = left * weight[free] / weight[free].sum()
        over = free & (loss > cap)
        if not bool(over.any()):
            break
        loss[over] = cap
        left, free = left - cap * int(over.sum()), free & ~over
    return 1 - loss


def leverage(gram: torch.Tensor, ridge: float) -> torch.Tensor:
    """[C (C + λI)⁻¹]_ii [channel], λ = ridge · mean diagonal."""
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0)
    return (vectors.square() * (values / (values + ridge * values.mean()).clamp(min=1e-300))).sum(1)


def refitted(weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """W [out, in] on the kept channels alone, least squares: W C_:K (C_KK)⁺, zeros elsewhere. kept bool [in]."""
    new = torch.zeros_like(weight)
    new[:, kept] = weight @ gram[:, kept] @ torch.linalg.pinv(gram[kept][:, kept], hermitian=True)
    return new


def query_key_channels(query: torch.Tensor, key: torch.Tensor, units: torch.Tensor, k: int) -> torch.Tensor:
    """bool [d_head]: the k channels that stay, by whole units; query and key [d_head] are second moments of the head's channels."""
    score = (query[units].sum(1) * key[units].sum(1)).sqrt()
    best = score.argsort(descending=True, stable=True)[: k // units.shape[1]]
    return torch.zeros(len(query), dtype=torch.bool).index_fill_(0, units[best].reshape(-1), True)


def value_output(value: torch.Tensor, output: torch.Tensor, gram: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(new value [k, in], new outputs [query, out, k], share of ‖output · value · C^½‖² that goes) of one value head [d_head, in] and the
    outputs [query, out, d_head] of the queries that use it."""
    basis, small = torch.linalg.qr(output.flatten(0, 1))
    product = small @ value
    energy, vectors = output_subspace(product, gram)
    vectors = vectors[:, :k]
    return vectors.T @ product, (basis @ vectors).view(*output.shape[:2], -1), float(energy[k:].sum() / energy.sum().clamp(min=1e-300))
