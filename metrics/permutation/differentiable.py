"""The loss of a transformer as a function of its parameters: for learning an order, and for slopes and curvatures along a path."""

from __future__ import annotations

from collections.abc import Callable

import torch

from metrics.permutation.mixture import State
from metrics.removal import attention_mask, next_tokens
from models.loaded import Model


def mean_loss(model: Model, state: State, ids: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss in nats of the model with these parameters; differentiable, also twice."""
    ids, keep = ids.to(model.device), keep.to(model.device)
    targets = next_tokens(ids, keep)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the fused kernels have no second derivative
        logits = torch.func.functional_call(model.module, state, kwargs=dict(input_ids=ids, attention_mask=attention_mask(keep), use_cache=False)).logits
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return torch.nn.functional.cross_entropy(exact[targets >= 0], targets[targets >= 0])


def taylor_barrier(a: State, b: State, loss: Callable[[State, int], torch.Tensor], batches: int, share: float = 0.5, step=lambda i: None) -> float:
    """The barrier at `share` of a that gradients and Hessians at the two ends predict; loss(state, i) is the mean over batch i.

    With μ = b − a: λ(1−λ)(g_a − g_b)·μ + ½ λ(1−λ) [(1−λ) μᵀH_a μ + λ μᵀH_b μ]. Exact where the loss is quadratic with one Hessian.
    """
    mu = {name: b[name] - a[name] for name in a}
    slopes, curvatures = [0.0, 0.0], [0.0, 0.0]
    for i in range(batches):
        for end, state in enumerate((a, b)):
            step(2 * i + end)
            slope, curvature = _along(state, mu, lambda s: loss(s, i))
            slopes[end] += slope / batches
            curvatures[end] += curvature / batches
    rest = 1 - share
    return share * rest * (slopes[0] - slopes[1]) + 0.5 * share * rest * (rest * curvatures[0] + share * curvatures[1])


def _along(state: State, mu: State, loss: Callable[[State], torch.Tensor]) -> tuple[float, float]:
    """(g·μ, μᵀHμ) at a state, by a double backward."""
    own = {name: value.detach().clone().requires_grad_() for name, value in state.items()}
    gradients = torch.autograd.grad(loss(own), list(own.values()), create_graph=True)
    slope = sum((g * mu[name]).sum() for name, g in zip(own, gradients))
    second = torch.autograd.grad(slope, list(own.values()))
    return float(slope.detach()), float(sum((h * mu[name]).sum() for name, h in zip(own, second)))
