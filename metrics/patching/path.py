"""Path patching of every head and MLP at END, exact and without running attention again.

A sender's output at END is set to what it was on the counterfactual prompt, every other head's is held at its value on the reference
prompt, and the logits are read. Two conventions: MLPs *recomputed* (they belong to the path: head → MLPs → logits) or *frozen*
(the direct path only: head → logits). As nothing but END changes and attention is frozen, the whole scan is MLP calls on single
vectors, about H · L²/2 of them for a prompt, where the same with hooks is H · L forward passes of the whole prompt.
Source: path patching as in Wang et al. 2023 (IOI), in the noising direction of Zhang et al. 2024.
"""

from __future__ import annotations

import torch

from metrics.patching.end import EndStates, attention_adds, change, head_weights, read_out, run_on, through_block
from models.loaded import Model

CONVENTIONS = ("recomputed", "frozen")
BLOCK = 2048  # patched streams at once


def head_deltas(model: Model, reference: EndStates, other: EndStates, i: int) -> torch.Tensor:
    """[head, prompt, d]: what attention of block layers[i] would give more if one head's output were the other run's."""
    difference = (other.z[i] - reference.z[i]).transpose(0, 1)
    return difference @ head_weights(model, reference.layers[i]).transpose(1, 2)


def scan_heads(model: Model, reference: EndStates, other: EndStates, answer: torch.Tensor, others: torch.Tensor, convention: str,
               step=lambda i: None) -> torch.Tensor:
    """Effects [layer, head, prompt, 3] float64 of patching each head alone; see metrics.patching.end.change for the three. A head
    whose output is the same in both runs has effect exactly 0: there is nothing to patch."""
    with torch.no_grad():
        base = read_out(model, reference.post, answer, others)
        out = []
        for i in range(len(reference.layers)):
            step(i)
            deltas = head_deltas(model, reference, other, i)
            effects = change(base, base).repeat(len(deltas), 1, 1)
            head, prompt = deltas.abs().amax(-1).nonzero(as_tuple=True)
            for h, p in zip(head.split(BLOCK), prompt.split(BLOCK)):
                post = _with_head(model, reference, i, p, deltas[h, p], convention)
                effects[h, p] = change(read_out(model, post, answer[p], others), base[p])
            out.append(effects)
        return torch.stack(out)


def _with_head(model: Model, reference: EndStates, i: int, rows: torch.Tensor, delta: torch.Tensor, convention: str) -> torch.Tensor:
    """[row, d] the stream after the last block with `delta` added to attention's output in block layers[i]."""
    layer, attn = reference.layers[i], reference.attn[i, rows]
    if convention == "frozen":
        return reference.post[rows] + attention_adds(model, layer, attn + delta) - attention_adds(model, layer, attn)
    return run_on(model, reference, i + 1, through_block(model, layer, reference.pre[i, rows], attn + delta), rows)


def scan_mlps(model: Model, reference: EndStates, other: EndStates, answer: torch.Tensor, others: torch.Tensor, convention: str) -> torch.Tensor:
    """Effects [layer, prompt, 3] float64 of giving END, in place of what a block's MLP adds, what it added on the other prompt; all
    heads held, later MLPs recomputed or frozen."""
    with torch.no_grad():
        base, rows = read_out(model, reference.post, answer, others), torch.arange(reference.n_prompts, device=answer.device)
        out = []
        for i, layer in enumerate(reference.layers):
            if torch.equal(other.mlp[i], reference.mlp[i]):
                out.append(change(base, base))
                continue
            if convention == "frozen":
                post = reference.post + other.mlp[i] - reference.mlp[i]
            else:
                post = run_on(model, reference, i + 1, through_block(model, layer, reference.pre[i], reference.attn[i], other.mlp[i]), rows)
            out.append(change(read_out(model, post, answer, others), base))
        return torch.stack(out)


def contributions(model: Model, reference: EndStates, other: EndStates) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(embedding [prompt, d], heads [layer, head, prompt, d], MLPs [layer, prompt, d]) of the difference other − reference of the
    stream at END; they sum to post of `other` − post of `reference` where attention has no norm of its own."""
    heads = torch.stack([head_deltas(model, reference, other, i) for i in range(len(reference.layers))])
    return other.pre[0] - reference.pre[0], heads, other.mlp - reference.mlp
