"""Does a model answer: is every token of the answer the likeliest after what comes before it?

Read in one pass over prompt and answer. That is what greedy decoding gives, too: while it is right it reads the same tokens, and at its
first other token the answer is lost. So this is also the test of extraction of a memorised passage from its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.prompts.answering import hidden, logits, padded
from models.loaded import Model

Row = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Answers:
    """right [question] bool; log_p [question] float64, natural log of the answer's probability, mean over its tokens."""

    right: np.ndarray
    log_p: np.ndarray


def answers(model: Model, prompts: list[Row], wanted: list[Row], step=lambda done: None, batch: int = 32) -> Answers:
    """Of each prompt and its answer, both token ids and neither empty; rows of like length run together."""
    right, log_p = np.zeros(len(prompts), bool), np.zeros(len(prompts))
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(wanted[i]))
    for at in range(0, len(order), batch):
        step(at)
        part = order[at : at + batch]
        states = hidden(model, padded([prompts[i] + wanted[i][:-1] for i in part]))
        owner = torch.tensor([k for k, i in enumerate(part) for _ in wanted[i]])
        place = torch.tensor([len(prompts[i]) - 1 + j for i in part for j in range(len(wanted[i]))])
        target = torch.tensor([t for i in part for t in wanted[i]])
        here = 0
        hits, logs = [], []
        for block in logits(model, states[owner, place]):
            block, own = block.float().cpu(), target[here : here + len(block)]
            hits.append(block.argmax(-1) == own)
            logs.append(block.log_softmax(-1).gather(-1, own[:, None])[:, 0])
            here += len(block)
        hit, log, counts = torch.cat(hits).numpy(), torch.cat(logs).double().numpy(), np.bincount(owner.numpy())
        right[part] = np.bincount(owner.numpy(), hit) == counts
        log_p[part] = np.bincount(owner.numpy(), log) / counts
    return Answers(right, log_p)
