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
    """(mask [out, in], probabilities [out, group, 6]) of logits [out, group, 6]."""
    p = torch.softmax((scale * logits + noise) / temperature, -1)
    return (p @ patterns().to(p)).flatten(1), p


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
    shape = (len(w), w.shape[1] // 4, 6)
    logits = torch.randn(shape, generator=generator) * SPREAD
    agreement = prior.view(len(w), -1, 4).float() @ patterns().T  # 2 for the prior's own pattern, 1 for those that share a weight, 0
    logits = (logits + (agreement - 1) * SPREAD * strength).requires_grad_(True)
    optimiser, losses, entropies = torch.optim.Adam([logits], lr=rate), [], []
    with torch.enable_grad():
        for t in range(steps):
            at = t / max(steps - 1, 1)
            noise = -torch.log(-torch.log(torch.rand(shape, generator=generator).clamp(1e-9, 1 - 1e-7)))
            mask, p = soft_masks(logits, *(a + (b - a) * at for a, b in (SCALE, TEMPERATURE)), noise)
            change = w * (mask - 1)
            loss = ((change @ c) * change).sum() - reward * (share * mask.square()).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
            entropies.append(float(-(p * p.clamp(min=1e-30).log()).sum(-1).mean().detach()))
    mask = patterns()[logits.detach().argmax(-1)].flatten(1).bool()
    return Learned(mask, torch.tensor(losses, dtype=torch.float64), torch.tensor(entropies, dtype=torch.float64))
