"""How far is B's prediction from A's?

Mean over tokens of KL(A ‖ B) in nats, from both models' logits on the same text.
"""

from dataclasses import dataclass

import torch

TITLE, QUESTION, MODELS, CORPUS = "Divergence", "How far is B's prediction from A's?", (2, 2), "demo/stories:4x32"


@dataclass(frozen=True)
class Params:
    pass


@dataclass(frozen=True, eq=False)
class Result:
    kl: float  # nats per token
    n_tokens: int


def compute(captures, params, progress):
    a, b = captures
    with a.model() as one, b.model() as two:
        p, q = (m.logits(a.ids).double().log_softmax(-1) for m in (one, two))
    kl = (p.exp() * (p - q)).sum(-1)
    return Result(float(kl.mean()), kl.numel())


def answer(runs):
    return f"{runs[0].result.kl:.3f} nats per token."


def headlines(runs):
    return ()


def figures(runs):
    return []


def cost(shape, n_tokens, params):
    return shape.forward_flops * n_tokens
