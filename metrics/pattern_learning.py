"""2:4 patterns chosen by gradient: a categorical choice among six for every group of four inputs, drawn with Gumbel noise (MaskLLM)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch

TEMPERATURE = (4.0, 0.05)  # first and last step
SCALE = (100.0, 500.0)  # of the logits
SPREAD = 0.01  # of the logits at the start


@dataclass(frozen=True, eq=False)
class Learned:
    """`mask` bool [out, in]; `loss` and `entropy` float64 [step]: the loss of the drawn soft mask, the choice's entropy in nats."""

    mask: torch.Tensor
    loss: torch.Tensor
    entropy: torch.Tensor


def patterns() -> torch.Tensor:
    """float32 [6, 4]: the two of four that stay, 1 or 0."""
    found = torch.zeros(6, 4)
    for i, pair in enumerate(combinations(range(4), 2)):
        found[i, list(pair)] = 1
    return found


def soft_masks(logits: torch.Tensor, scale: float, temperature: float, noise: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
    """(mask [out, in], probabilities [6, out, group]) of logits [6, out, group]: the patterns are first, where six passes over long rows
    take a third of the time of many passes over six."""
    p = torch.softmax((scale * logits + noise) / temperature, 0)
    each = p.unbind(0)
    return torch.stack([sum(each[k] for k, pair in enumerate(combinations(range(4), 2)) if i in pair) for i in range(4)], -1).flatten(1), p


def error(weight: torch.Tensor, mask: torch.Tensor, gram: torch.Tensor) -> float:
    """‖(W ⊙ M − W) X‖² / ‖W X‖², from the Gram matrix of the inputs."""
    w = weight.to(torch.float64)
    change = torch.where(mask, 0.0, w)
    return float(((change @ gram) * change).sum() / ((w @ gram) * w).sum().clamp(min=1e-300))


def learn(weight: torch.Tensor, gram: torch.Tensor, prior: torch.Tensor, steps: int, rate: float, strength: float, reward: float, generator: torch.Generator) -> Learned:
    """Masks for a matrix [out, in] from a prior bool [out, in] with two of four, by Adam on the logits alone."""
    if steps == 0:
        return Learned(prior, torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
    w = weight.detach().to(torch.float32).clone()
    c = (gram / ((weight.double() @ gram) * weight.double()).sum().clamp(min=1e-300)).to(torch.float32).clone()
    share = w.square() / w.square().sum().clamp(min=1e-30)
    shape = (6, len(w), w.shape[1] // 4)
    logits = torch.randn(shape, generator=generator) * SPREAD
    agreement = (prior.view(len(w), -1, 4).float() @ patterns().T).permute(2, 0, 1)  # 2 for the prior's own pattern, 1 for those that share a weight, 0
    logits = (logits + (agreement - 1) * SPREAD * strength).requires_grad_(True)
    optimiser, losses, entropies = torch.optim.Adam([logits], lr=rate), [], []
    with torch.enable_grad():
        for t in range(steps):
            at = t / max(steps - 1, 1)
            noise = -torch.log(-torch.log(torch.rand(shape, generator=generator).clamp(1e-9, 1 - 1e-7)))
            mask, p = soft_masks(logits, *(a + (b - a) * at for a, b in (SCALE, TEMPERATURE)), noise)
            change = w * (mask - 1)
            pulled, kept = change.detach() @ c, reward * (share * mask.square()).sum()
            cost = (pulled * change).sum()  # its gradient is half of the loss's, because C is symmetric: one product instead of two
            optimiser.zero_grad()
            (2 * cost - kept).backward()
            optimiser.step()
            losses.append(float((cost - kept).detach()))
            entropies.append(float(torch.special.entr(p.detach()).sum(0).mean()))
    mask = patterns()[logits.detach().argmax(0)].flatten(1).bool()
    return Learned(mask, torch.tensor(losses, dtype=torch.float64), torch.tensor(entropies, dtype=torch.float64))
