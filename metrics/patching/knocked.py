"""Heads set to their mean at chosen positions of whole sequences: answers of several tokens, and text that has no END."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from metrics.prompts.answering import hidden, likeliest, logits, padded
from metrics.prompts.tokenised import Ids
from models.layout import heads as heads_of
from models.loaded import Model

BATCH = 16


@contextmanager
def heads_at_mean(model: Model, mask: torch.Tensor, values: torch.Tensor, where: torch.Tensor) -> Iterator[None]:
    """Inside, the heads of mask [layer, head] give values [layer, head, d_head] at the positions where [sequence, position] is True;
    layers as in model.layers. Hooks are removed whatever happens."""
    shape = heads_of(model.config)

    def putting(chosen: torch.Tensor, value: torch.Tensor):
        def hook(module, args):
            z = args[0].unflatten(-1, (shape.n_heads, shape.d_head))
            here = where[:, :, None, None].to(z.device) & chosen[None, None, :, None].to(z.device)
            return (torch.where(here, value.to(z), z).flatten(2), *args[1:])

        return hook

    with ExitStack() as hooks:
        for i, layer in enumerate(model.layers):
            if bool(mask[i].any()):
                module = model.blocks[layer].get_submodule(model.layout.attn_output)
                hooks.callback(module.register_forward_pre_hook(putting(mask[i], values[i])).remove)
        yield


def score(model: Model, questions: list[Ids], mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """[question, 2] float64: 1 where greedy decoding gives the whole answer, else 0; and ln p(answer) in nats. The heads of `mask`
    stand at their mean at END and at every token of the answer: wherever a part of it is predicted. Greedy decoding equals the
    answer exactly if each of its tokens is the likeliest after those before it, so one pass with the answer given is enough."""
    out = torch.zeros(len(questions), 2, dtype=torch.float64)
    order = sorted(range(len(questions)), key=lambda i: len(questions[i].prompt))
    for at in range(0, len(order), BATCH):
        part = [questions[i] for i in order[at : at + BATCH]]
        ids = padded([q.prompt + q.answer[:-1] for q in part])
        start, end = torch.tensor([len(q.prompt) - 1 for q in part]), torch.tensor([len(q.prompt) + len(q.answer) - 1 for q in part])
        position = torch.arange(ids.shape[1])[None]
        asked = (position >= start[:, None]) & (position < end[:, None])
        with heads_at_mean(model, mask, values, asked):
            rows = hidden(model, ids)[asked.to(model.device)]
        log_p = torch.cat([block.float().log_softmax(-1).cpu() for block in logits(model, rows)])
        wanted = torch.tensor([token for q in part for token in q.answer])
        right, own = log_p.argmax(-1) == wanted, log_p.gather(1, wanted[:, None])[:, 0].double()
        for i, r, p in zip(order[at : at + BATCH], right.split([len(q.answer) for q in part]), own.split([len(q.answer) for q in part])):
            out[i] = torch.tensor([float(r.all()), float(p.sum())])
    return out


def text_accuracy(model: Model, ids: torch.Tensor, keep: torch.Tensor, marked: torch.Tensor, mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """[sequence, 4] float64 over ids [sequence, position] with the heads at their mean everywhere: next tokens predicted rightly (top-1),
    next tokens, marked ones predicted rightly, marked ones."""
    out = torch.zeros(len(ids), 4, dtype=torch.float64)
    for at in range(0, len(ids), BATCH):
        part, kept, chosen = (x[at : at + BATCH] for x in (ids, keep, marked))
        counted = kept[:, 1:] & kept[:, :-1]
        with heads_at_mean(model, mask, values, kept):
            rows = hidden(model, part)[:, :-1][counted.to(model.device)]
        right = torch.zeros_like(counted)
        right[counted] = likeliest(model, rows) == part[:, 1:][counted]
        chosen = chosen[:, 1:] & counted
        out[at : at + BATCH] = torch.stack([right.sum(1), counted.sum(1), (right & chosen).sum(1), chosen.sum(1)], 1).double()
    return out
