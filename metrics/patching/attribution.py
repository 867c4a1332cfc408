"""Attribution patching: what path patching would give, guessed from gradients.

At END let F(z) be the answer's measure as a function of all heads' outputs there, with MLPs recomputed: path patching of head h is
F with z_h replaced, minus F. Its first-order guess is ∇_h F(z) · (z'_h − z_h), for all heads from one backward pass. *Integrated*,
the gradient is averaged over the straight way from z to z' of all heads together; those guesses sum to the effect of replacing them
all (up to the number of steps), which the plain ones do not. Both can be wrong for a single head: saturation, and other heads moved
along. Source: attribution patching (Nanda 2023); the averaging follows integrated gradients (Sundararajan et al. 2017).
"""

from __future__ import annotations

import torch

from metrics.patching.end import EndStates, attention_adds, measures, mlp_adds
from metrics.residuals import head as unembedding
from models.layout import weight
from models.loaded import Model

PROMPTS = 64  # at once


def attributed(model: Model, reference: EndStates, other: EndStates, answer: torch.Tensor, others: torch.Tensor, steps: int = 1,
               step=lambda i, n: None) -> torch.Tensor:
    """[layer, head, prompt, 3] float64 guesses of the path effects, MLPs recomputed, from the gradient at `steps` points: 1 is the
    plain gradient at the reference, more are the midpoints of as many pieces of the way to the other run."""
    n = reference.n_prompts
    out = torch.zeros(*reference.z.shape[:1], reference.z.shape[2], n, 3, dtype=torch.float64)
    for lo in range(0, n, PROMPTS):
        step(lo, n)
        here = slice(lo, lo + PROMPTS)
        z, way = reference.z[:, here], other.z[:, here] - reference.z[:, here]
        slope = sum(_gradient(model, reference, here, z + (k + 0.5) / steps * way if steps > 1 else z, answer[here], others) for k in range(steps)) / steps
        guess = (slope * way).sum(-1).double()
        with torch.no_grad():
            logit = measures_of(model, reference, here, z, answer[here], others)[:, 0, None]
        guess[0] = torch.where(logit > 0, guess[0] / logit.clamp(min=1e-12), torch.nan)
        out[:, :, here] = guess.permute(1, 3, 2, 0).cpu()
    return out


def _gradient(model: Model, states: EndStates, here: slice, z: torch.Tensor, answer: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """[3, layer, prompt, head, d_head] gradients of the three measures; prompts do not touch each other, so their sum is asked."""
    leaf = z.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        values = measures_of(model, states, here, leaf, answer, others).sum(0)
        return torch.stack([torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in values])


def measures_of(model: Model, states: EndStates, here: slice, z: torch.Tensor, answer: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """F: [prompt, 3] of all heads' outputs z [layer, prompt, head, d_head] at END, MLPs recomputed."""
    return measures(unembedding(model)(end_from_heads(model, states.pre[0, here], z)), answer, others)


def end_from_heads(model: Model, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """[prompt, d] the stream after the last block, from the stream x [prompt, d] into the first and every head's output."""
    for i, layer in enumerate(model.layers):
        module = model.blocks[layer].get_submodule(model.layout.attn_output)
        attn = torch.nn.functional.linear(z[i].flatten(1), weight(module), module.bias)
        added = attention_adds(model, layer, attn)
        x = x + added + mlp_adds(model, layer, x if model.layout.parallel else x + added)
    return x
