"""What the MLPs do with what the heads fetched: cosines with the numbers' unembeddings by block, and the logit lens along depth."""

from __future__ import annotations

import torch

from metrics.patching.end import EndStates, attention_adds
from metrics.residuals import head as unembedding
from models.loaded import Model

CURVES = ("into the MLP, operand A", "into the MLP, operand B", "into the MLP, another number", "added, answer", "added, another answer")


def into_mlp(model: Model, states: EndStates) -> torch.Tensor:
    """[layer, prompt, d] the stream that each MLP reads, before its norm."""
    if model.layout.parallel:
        return states.pre
    return torch.stack([states.pre[i] + attention_adds(model, layer, states.attn[i]) for i, layer in enumerate(states.layers)])


def mlp_cosines(model: Model, states: EndStates, a: torch.Tensor, b: torch.Tensor, answer: torch.Tensor, another: torch.Tensor) -> torch.Tensor:
    """[curve, layer, prompt] cosine at END, as in CURVES, between the stream into each MLP and the unembedding of the operands, and
    between what the MLP adds and that of the answer. a, b, answer, another [prompt] are token ids, −1 where a number is not one
    token (NaN). `another` is a number that the prompt has nothing to do with: the null of both."""
    rows = model.module.get_submodule(model.layout.unembed).weight
    read = into_mlp(model, states)

    def cosine(x: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        token = token.to(x.device)
        value = torch.nn.functional.cosine_similarity(x.float(), rows[token.clamp(min=0)].float(), dim=-1)
        return torch.where(token >= 0, value, torch.nan)

    with torch.no_grad():
        return torch.stack([cosine(read, a), cosine(read, b), cosine(read, another), cosine(states.mlp, answer), cosine(states.mlp, another)]).cpu()


def lens(model: Model, states: EndStates) -> torch.Tensor:
    """[state, prompt, vocab] next-token probabilities if the stream at END were read out at once: into the first block, then after
    each block; final norm and unembedding of the model."""
    to_logits = unembedding(model)
    with torch.no_grad():
        return torch.stack([to_logits(x).float().softmax(-1).cpu() for x in (*states.pre, states.post)])
