"""Next-token distributions at a few positions: the model runs without its head, which is asked at those positions alone, so that a large
vocabulary costs no more than what is read."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from models.loaded import Model

LOGITS = 1 << 24  # numbers in one block of logits [row, vocab]: 64 MB


def hidden(model: Model, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """[sequence, position, d] after the final norm, of ids [sequence, position]; no gradient."""
    with torch.no_grad():
        return model.module.get_submodule(model.layout.base)(input_ids=ids.to(model.device), attention_mask=mask, use_cache=False).last_hidden_state


def logits(model: Model, rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Logits [row, vocab] of rows [row, d] of `hidden`, in blocks in order; Gemma 2's soft cap included."""
    unembed, cap = model.module.get_submodule(model.layout.unembed), getattr(model.config, "final_logit_softcapping", None)
    with torch.no_grad():
        for part in rows.split(max(1, LOGITS // model.config.vocab_size)):
            out = unembed(part)
            yield torch.tanh(out / cap) * cap if cap else out


def likeliest(model: Model, rows: torch.Tensor) -> torch.Tensor:
    """[row] the likeliest next token of rows [row, d] of `hidden`, on the CPU."""
    return torch.cat([part.argmax(-1).cpu() for part in logits(model, rows)])


def padded(rows: list[tuple[int, ...]]) -> torch.Tensor:
    """ids [row, position], padded on the right by zeros, where a causal model does not look."""
    out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


def after_last(model: Model, rows: list[tuple[int, ...]], batch: int = 64) -> torch.Tensor:
    """[row] the likeliest token after each row of ids; rows of like length run together."""
    out = torch.zeros(len(rows), dtype=torch.long)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for at in range(0, len(order), batch):
        part = order[at : at + batch]
        ends = torch.tensor([len(rows[i]) - 1 for i in part])
        out[part] = likeliest(model, hidden(model, padded([rows[i] for i in part]))[torch.arange(len(part)), ends])
    return out
