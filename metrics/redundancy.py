"""How alike the states of a residual stream are: turns, angles, CKA, spectra. Pure functions of tensors.

1 − cos is computed in float32 as ½‖a/‖a‖ − b/‖b‖‖², which keeps its digits where the cosine is close to 1; angles by Kahan's
2·atan2(‖û − v̂‖, ‖û + v̂‖), which needs no clamp. Sources: Block Influence, arXiv 2403.03853; attention and MLP similarity,
2406.15786; angular distance, 2403.17887; minibatch CKA, 2010.15327; matrix entropy, 2401.17139; Matrix Nuclear-Norm, 2410.10672.
"""

from __future__ import annotations

import math

import torch


def unit(x: torch.Tensor) -> torch.Tensor:
    """x / ‖x‖ along the last axis in float32; zero vectors stay zero."""
    x = x.float()
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(norm > 0, norm, 1.0)


def turn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """1 − cos(a, b) along the last axis, in [0, 2]. Block Influence of a block is its mean over tokens of (input, output)."""
    return 0.5 * (unit(a) - unit(b)).square().sum(-1)


def angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """arccos(cos(a, b)) / π along the last axis, in [0, 1]."""
    a, b = unit(a), unit(b)
    return 2.0 / math.pi * torch.atan2(torch.linalg.vector_norm(a - b, dim=-1), torch.linalg.vector_norm(a + b, dim=-1))


def angles(states: torch.Tensor) -> torch.Tensor:
    """Angular distances [state, state] of states [state, sample, channel], summed over samples, float64."""
    n = len(states)
    out = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(i + 1, n):
            out[i, j] = out[j, i] = angle(states[i], states[j]).double().sum()
    return out


def best_spans(distance) -> list[tuple[int, int]]:
    """(n, start) of the span of n blocks that turns the stream least, for each n, from distances [state, state]."""
    n_blocks = len(distance) - 1
    return [(n, min(range(n_blocks - n + 1), key=lambda start: float(distance[start, start + n]))) for n in range(1, n_blocks + 1)]


# ---- CKA


def hsic_unbiased(x: torch.Tensor) -> torch.Tensor:
    """HSIC₁ [state, state] of states [state, sample, channel] with linear kernels, float64; needs at least 4 samples.

    HSIC₁ = (tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1/((n−1)(n−2)) − 2/(n−2)·1ᵀK̃L̃1) / (n(n−3)), K̃ with a zero diagonal. It does not change when
    a vector is added to all samples; the mean is taken off first because the sums cancel badly otherwise.
    """
    x = x.float()
    return hsic_from_grams(grams(x - x.mean(1, keepdim=True)))


def grams(x: torch.Tensor) -> torch.Tensor:
    """Inner products [state, sample, sample] with a zero diagonal."""
    k = x @ x.transpose(1, 2)
    k.diagonal(dim1=1, dim2=2).zero_()
    return k


def hsic_from_grams(k: torch.Tensor) -> torch.Tensor:
    """HSIC₁ [state, state] from zero-diagonal Gram matrices [state, sample, sample]."""
    n = k.shape[1]
    if n < 4:
        raise ValueError(f"The unbiased HSIC needs at least 4 samples, not {n}.")
    k = k.double()
    flat, rows = k.flatten(1), k.sum(2)
    total = rows.sum(1)
    return (flat @ flat.T + torch.outer(total, total) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T) / (n * (n - 3))


def cka_from_hsic(hsic: torch.Tensor) -> torch.Tensor:
    """CKA [state, state] from HSIC summed over minibatches; NaN where a state's own HSIC is not positive (constant states)."""
    own = hsic.diagonal()
    scale = torch.where(own > 0, own, torch.nan).sqrt()
    return hsic / torch.outer(scale, scale)


def linear_cka(x: torch.Tensor) -> torch.Tensor:
    """Linear CKA [state, state] of states [state, sample, channel]: ‖YᵀX‖²/(‖XᵀX‖‖YᵀY‖), columns centred, float64.

    Biased upwards when samples are few relative to channels (0.45 for independent data at n = 40, d = 32).
    """
    x = x.double()
    x = x - x.mean(1, keepdim=True)
    n_states, n, width = x.shape
    if width > n:
        k = (x @ x.transpose(1, 2)).flatten(1)
        return cka_from_hsic(k @ k.T)
    cross = torch.zeros(n_states, n_states, dtype=torch.float64)
    for i in range(n_states):
        for j in range(i, n_states):
            cross[i, j] = cross[j, i] = (x[i].T @ x[j]).square().sum()
    return cka_from_hsic(cross)


# ---- spectra


def prepared(x: torch.Tensor) -> torch.Tensor:
    """The preprocessing of both papers: [sample, channel] minus its mean over samples, then each row at unit length."""
    return unit(x.float() - x.float().mean(-2, keepdim=True))


def spectrum(z: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of ZᵀZ, normalised to sum 1, of prepared [..., sample, channel]; the smaller of ZᵀZ and ZZᵀ is decomposed."""
    z = z.double()
    gram = z @ z.transpose(-1, -2) if z.shape[-2] <= z.shape[-1] else z.transpose(-1, -2) @ z
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    return values / values.sum(-1, keepdim=True)


def matrix_entropy(eigenvalues: torch.Tensor) -> torch.Tensor:
    """−Σ λ ln λ in nats; exp of it is the effective rank (p ∝ σ², the covariance's entropy, not RankMe's p ∝ σ)."""
    return torch.special.entr(eigenvalues).sum(-1)


def matrix_nuclear_norm(z: torch.Tensor) -> torch.Tensor:
    """Σ of the D largest column lengths, D = min(N, d), over N, of prepared [..., sample, channel].

    A ranking proxy: it changes when channels are rotated, and compares only at equal N and d.
    """
    n, width = z.shape[-2:]
    columns = torch.linalg.vector_norm(z.double(), dim=-2)
    return columns.topk(min(n, width), -1).values.sum(-1) / n
