"""Text that a model writes on while a direction is added to one of its sites."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from models.layout import Site
from models.loaded import Model
from models.saes.inside import replacing


def adding(model: Model, site: Site, direction: torch.Tensor | None):
    """While open, `direction` [channel] is added at every position of the site but the first; None: nothing is."""
    if direction is None:
        return nullcontext()

    def edit(x):
        return torch.cat([x[:, :1], x[:, 1:] + direction.to(x)], 1)

    return replacing(model, site, edit)


def next_log_probabilities(model: Model, site: Site, ids: list[int], direction: torch.Tensor | None) -> torch.Tensor:
    """Natural log probabilities [vocab] of the token after ids, float64."""
    with adding(model, site, direction):
        return model.logits(torch.tensor([ids]))[0, -1].double().cpu().log_softmax(-1)


def written_on(model: Model, site: Site, ids: list[int], direction: torch.Tensor | None, n: int, temperature: float, seed: int) -> list[int]:
    """n further tokens, or up to the end of the context; temperature 0 takes the likeliest one. The seed draws alike whatever is added."""
    generator = torch.Generator().manual_seed(seed)
    room = getattr(model.config, "max_position_embeddings", None) or len(ids) + n
    out = list(ids)
    with adding(model, site, direction):
        for _ in range(min(n, room - len(out))):
            last = model.logits(torch.tensor([out]))[0, -1].double().cpu()
            if temperature == 0:
                out.append(int(last.argmax()))
            else:
                chance = (last / temperature).softmax(-1).cumsum(-1)
                out.append(int(torch.searchsorted(chance, torch.rand((), generator=generator, dtype=torch.float64)).clamp(max=len(chance) - 1)))
    return out[len(ids) :]
