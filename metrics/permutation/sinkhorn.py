"""Orders learned from the loss of the merged network, through Sinkhorn and a straight-through estimate.

Each space has latents X [n, n]. Forward uses the assignment M(X) = argmax_P ⟨P, X⟩; backward takes its gradient for that of the doubly
stochastic S(X / τ) it is the limit of. The loss is that of λ a + (1−λ) π(b), λ uniform in [0.4, 0.6]. Sinkhorn's fixed point is
differentiated implicitly. After Peña et al., “Re-basin via implicit Sinkhorn differentiation”, CVPR 2023 (AdamW, learning rate 0.1), with the
assignment in the forward pass as in Git Re-Basin's straight-through estimator.

Heads move whole: groups of query heads with their K and V are learned, the units inside them stay as the start has them. Rotated
spaces stay as the start has them too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from metrics.permutation.matching import assign
from metrics.permutation.spec import Attention, Maps, Pieces, Spec, apply, compose, identity, move_piece
from models.progress import Quiet

BETAS, EPS, DECAY = (0.9, 0.999), 1e-8, 0.01


@dataclass(frozen=True, eq=False)
class Learned:
    maps: Maps
    losses: tuple[float, ...]  # of the merged network, one a step, each on its own batch and λ


def sinkhorn(x: torch.Tensor, iterations: int = 30) -> torch.Tensor:
    """The doubly stochastic matrix nearest to exp(x) in relative entropy; log space. x [n, n]."""
    for _ in range(iterations):
        x = x - x.logsumexp(1, keepdim=True)
        x = x - x.logsumexp(0, keepdim=True)
    return x.exp()


def sinkhorn_gradient(p: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
    """d loss / d x from P = sinkhorn(x) and d loss / d P: P ∘ (G − r 1ᵀ − 1 cᵀ), with r, c such that rows and columns sum to 0."""
    p, g = p.double(), upstream.double()
    weighted = p * g
    n = len(p)
    system = torch.eye(n, dtype=p.dtype) * (1 + 1e-9) - p @ p.T + 1.0 / n  # r is free up to a constant: the last term chooses one
    r = torch.linalg.solve(system, weighted.sum(1) - p @ weighted.sum(0))
    c = weighted.sum(0) - p.T @ r
    return (weighted - p * (r[:, None] + c[None, :])).to(upstream)


def sinkhorn_matching(spec: Spec, a: Pieces, b: Pieces, loss: Callable[[dict[str, torch.Tensor], int], torch.Tensor], *, start: Maps | None = None, fixed: frozenset[str] = frozenset(), steps: int = 100,
                      rate: float = 0.1, temperature: float = 1.0, seed: int = 0, progress=None) -> Learned:
    """Maps of B after `steps`, spaces in `fixed` as at the start; loss(pieces, i) is a differentiable loss of a network with these pieces on batch i."""
    progress = progress or Quiet()
    start = start or identity(spec)
    moved_b = apply(spec, b, start)
    blocks = [block for block in spec.blocks if not (isinstance(block, str) and (block in spec.rotates or block in fixed))]
    generator = torch.Generator().manual_seed(seed)
    n = [block.n_kv if isinstance(block, Attention) else spec.sizes[block] for block in blocks]
    state = {"step": 0, "losses": [], "random": generator.get_state()}
    for i, size in enumerate(n):
        state |= {f"x{i}": torch.eye(size) + 0.01 * torch.randn(size, size, generator=generator), f"m{i}": torch.zeros(size, size), f"v{i}": torch.zeros(size, size)}
    state["random"] = generator.get_state()
    state = progress.saved() or state
    generator.set_state(state["random"])
    losses = [float(x) for x in state["losses"]]
    for step in range(int(state["step"]), steps):
        progress.step(step, steps, f"learning the order, step {step + 1}", {"merged loss": losses[-1]} if losses else None)
        hard = [torch.eye(size)[assign(state[f"x{i}"])].requires_grad_() for i, size in enumerate(n)]
        share = float(0.4 + 0.2 * torch.rand((), generator=generator))
        maps = _spread(blocks, hard)
        merged = {name: share * a[name] + (1 - share) * move_piece(spec, name, piece, maps) for name, piece in moved_b.items()}
        value = loss(merged, step)
        gradients = torch.autograd.grad(value, hard)
        for i, gradient in enumerate(gradients):
            x, m, v = (state[f"{k}{i}"] for k in "xmv")
            g = sinkhorn_gradient(sinkhorn(x / temperature), gradient) / temperature
            m.mul_(BETAS[0]).add_(g, alpha=1 - BETAS[0])
            v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
            size = (v / (1 - BETAS[1] ** (step + 1))).sqrt() + EPS
            x.mul_(1 - rate * DECAY).sub_(rate / (1 - BETAS[0] ** (step + 1)) * m / size)
        losses.append(float(value.detach()))
        state |= {"step": step + 1, "losses": torch.tensor(losses, dtype=torch.float64), "random": generator.get_state()}
        progress.save(state)
    learned = {space: m.detach().argmax(1) for space, m in _spread(blocks, [torch.eye(size)[assign(state[f"x{i}"])] for i, size in enumerate(n)]).items()}
    return Learned(compose(start, identity(spec) | learned), tuple(losses))


def _spread(blocks: list, matrices: list[torch.Tensor]) -> Maps:
    """A matrix for each space: groups of heads spread over their units."""
    maps = {}
    for block, m in zip(blocks, matrices):
        if isinstance(block, Attention):
            wide, narrow = (torch.kron(m, torch.eye(k * block.d_head)) for k in (block.per_group, 1))
            maps |= {block.q: wide, block.k: narrow, block.v: narrow, block.z: wide}
        else:
            maps[block] = m
    return maps
