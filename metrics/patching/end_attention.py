"""What the heads look at from a prompt's last token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metrics.prompts.tokenised import by_length
from models.loaded import Model

PLACES = ("operand A", "operator", "operand B", "first token", "elsewhere")
BATCH = 32


@contextmanager
def showing_patterns(model: Model) -> Iterator[None]:
    """Fused attention gives no pattern, so the plain implementation runs meanwhile; its outputs differ by rounding only."""
    before = model.module.config._attn_implementation
    model.module.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.module.set_attn_implementation(before)


def end_patterns(model: Model, ids: torch.Tensor) -> torch.Tensor:
    """[layer, prompt, head, position] attention of END over ids [prompt, position], layers as in model.layers; rows sum to 1."""
    with showing_patterns(model), torch.no_grad():
        seen = model.module.get_submodule(model.layout.base)(input_ids=ids.to(model.device), output_attentions=True, use_cache=False).attentions
    return torch.stack([seen[layer][:, :, -1].float().cpu() for layer in model.layers])


def shares(model: Model, prompts: list, step=lambda i, n: None) -> torch.Tensor:
    """[layer, head, prompt, 5] share of END's attention on each of PLACES; prompts have ids, a, op and b (positions). Special tokens
    and whatever stands first count as the first token: many heads rest there."""
    out, done = None, 0
    for part, ids in by_length([p.ids for p in prompts], BATCH):
        step(done, len(prompts))
        pattern = end_patterns(model, ids)
        n_layers, _, n_heads, length = pattern.shape
        out = torch.zeros(n_layers, n_heads, len(prompts), len(PLACES)) if out is None else out
        for row, i in enumerate(part):
            p = prompts[i]
            place = torch.full((length,), 4)
            place[0] = 3
            for k, positions in enumerate((p.a, p.op, p.b)):
                place[list(positions)] = k
            out[:, :, i] = pattern[:, row] @ torch.nn.functional.one_hot(place, len(PLACES)).float()
        done += len(part)
    return out
