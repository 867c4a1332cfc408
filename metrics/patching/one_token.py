"""The whole model at END alone, with any heads replaced there: what activation patching and knock-outs need.

Earlier positions do not see END, so their keys and values are computed once and END's token is run on them, one position in place of
a whole prompt, in the model's own implementation. Unlike path patching nothing is frozen: later heads answer to what was changed.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch

from metrics.patching.end import EndStates, change, measures
from metrics.prompts.tokenised import by_length
from models.layout import heads as heads_of
from models.loaded import Model

COPIES = 512  # runs of END side by side


def replaced(model: Model, ids: torch.Tensor, masks: torch.Tensor, values: torch.Tensor):
    """Yields (first run, logits [run, prompt, vocab]) of ids [prompt, position], none padded, at END, where in run r the output z of
    each head with masks [run, layer, head] is values [layer, prompt or 1, head, d_head]; layers as in model.layers."""
    from transformers import DynamicCache

    with torch.no_grad():
        cache = DynamicCache()
        if ids.shape[1] > 1:
            model.module.get_submodule(model.layout.base)(input_ids=ids[:, :-1].to(model.device), past_key_values=cache, use_cache=True)
        per = max(1, COPIES // len(ids))
        for at in range(0, len(masks), per):
            part = masks[at : at + per].to(model.device)
            yield at, _run(model, ids[:, -1:], cache, part, values).view(len(part), len(ids), -1)


def _run(model: Model, end: torch.Tensor, cache, masks: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Logits [run × prompt, vocab] of END on copies of the cache."""
    n, copies = len(masks), type(cache)()
    for i, kept in enumerate(cache.layers):
        copies.update(kept.keys.repeat(n, 1, 1, 1), kept.values.repeat(n, 1, 1, 1), i)
    with ExitStack() as hooks:
        for i, layer in enumerate(model.layers):
            if bool(masks[:, i].any()):
                module = model.blocks[layer].get_submodule(model.layout.attn_output)
                hooks.callback(module.register_forward_pre_hook(_putting(model, masks[:, i], values[i], n)).remove)
        return model.module(input_ids=end.repeat(n, 1).to(model.device), past_key_values=copies, use_cache=True).logits[:, -1]


def _putting(model: Model, mask: torch.Tensor, values: torch.Tensor, n: int):
    """Hook on W_O's input [run × prompt, 1, head · d_head]; mask [run, head], values [prompt or 1, head, d_head]."""
    shape = heads_of(model.config)

    def hook(module, args):
        z = args[0].view(n, -1, shape.n_heads, shape.d_head)
        return (torch.where(mask[:, None, :, None], values[None].to(z), z).view_as(args[0]),)

    return hook


def scan_activations(model: Model, rows: list[tuple[int, ...]], other: EndStates, answer: torch.Tensor, others: torch.Tensor,
                     step=lambda i, n: None) -> torch.Tensor:
    """Plain activation patching: effects [layer, head, prompt, 3] float64 of giving each head alone its output at END from the `other`
    run, everything after it recomputed; `rows` are the reference prompts' ids."""
    n_layers, n_heads = other.z.shape[0], other.z.shape[2]
    masks = torch.cat([torch.zeros(1, n_layers, n_heads, dtype=torch.bool), torch.eye(n_layers * n_heads, dtype=torch.bool).view(-1, n_layers, n_heads)])
    out = torch.zeros(len(masks), len(rows), 3, dtype=torch.float64)
    done = 0
    for part, ids in by_length(rows, COPIES // 8):
        step(done, len(rows))
        wanted = answer[part].to(model.device)
        for at, logits in replaced(model, ids, masks, other.z[:, part]):
            for r, one in enumerate(logits):
                out[at + r, part] = measures(one, wanted, others.to(model.device)).cpu()
        done += len(part)
    return change(out[1:], out[:1]).view(n_layers, n_heads, len(rows), 3)


def knocked_out(model: Model, rows: list[tuple[int, ...]], answer: torch.Tensor, masks: torch.Tensor, values: torch.Tensor,
                step=lambda i, n: None) -> torch.Tensor:
    """[run, prompt] bool: is the answer the likeliest next token when the heads of masks [run, layer, head] give their mean, values
    [layer, 1, head, d_head], at END?"""
    out = torch.zeros(len(masks), len(rows), dtype=torch.bool)
    done = 0
    for part, ids in by_length(rows, COPIES // 8):
        step(done, len(rows))
        for at, logits in replaced(model, ids, masks, values):
            out[at : at + len(logits), part] = (logits.argmax(-1).cpu() == answer[part])
        done += len(part)
    return out
