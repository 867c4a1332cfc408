"""Path patching the slow way: the whole model on the whole prompt, once for every sender, with hooks on its real submodules.

The definition that the fast scan is checked against, in the tests and on a few senders of every run.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch

from metrics.patching.end import EndStates
from models.loaded import Model


def with_head(model: Model, ids: torch.Tensor, reference: EndStates, other: EndStates, i: int, head: int, convention: str) -> torch.Tensor:
    """Logits [prompt, vocab] at END of ids [prompt, position] with the output of one head of block layers[i] from the other run and
    every other head's held; the states hold these prompts and no others."""
    held = reference.z.clone()
    held[i, :, head] = other.z[i, :, head]
    return _run(model, ids, held, dict(enumerate(reference.mlp)) if convention == "frozen" else {})


def with_mlp(model: Model, ids: torch.Tensor, reference: EndStates, other: EndStates, i: int, convention: str) -> torch.Tensor:
    """The same with what the MLP of block layers[i] adds from the other run, and all heads held."""
    mlps = dict(enumerate(reference.mlp)) if convention == "frozen" else {}
    return _run(model, ids, reference.z, mlps | {i: other.mlp[i]})


def _run(model: Model, ids: torch.Tensor, z: torch.Tensor, mlps: dict[int, torch.Tensor]) -> torch.Tensor:
    """z [layer, prompt, head, d_head] and mlps {position in layers: [prompt, d]} are put in at END."""

    def before(value):
        def hook(module, args):
            x = args[0].clone()
            x[:, -1] = value
            return (x, *args[1:])

        return hook

    def after(value):
        def hook(module, args, output):
            x = output.clone()
            x[:, -1] = value
            return x

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for i, layer in enumerate(model.layers):
            block, layout = model.blocks[layer], model.layout
            hooks.callback(block.get_submodule(layout.attn_output).register_forward_pre_hook(before(z[i].flatten(1))).remove)
            if i in mlps:
                hooks.callback(block.get_submodule(layout.mlp_post_norm or layout.mlp).register_forward_hook(after(mlps[i])).remove)
        return model.module(input_ids=ids.to(model.device), use_cache=False).logits[:, -1]
