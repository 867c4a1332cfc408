"""One batch's residual stream, and running the model on from any place in it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from models.loaded import Model


@dataclass(eq=False)
class Residuals:
    """Everything of a batch that the blocks saw, by position in `layers` (blocks not wholly removed).

    pre[i] is the stream into block layers[i], mid[i] between its attention and MLP, post after the last block, each
    [sequence, position, channel]. Parallel blocks have no mid: attn_out and mlp_out are kept instead. `calls` are the
    arguments besides the stream with which the model called each block (masks, rotary tables), so it can be called again.
    """

    layers: tuple[int, ...]
    pre: list = field(default_factory=list)
    mid: list = field(default_factory=list)
    attn_out: list = field(default_factory=list)
    mlp_out: list = field(default_factory=list)
    calls: list = field(default_factory=list)
    post: torch.Tensor | None = None

    @property
    def states(self) -> list[torch.Tensor]:
        """The n + 1 states: into the first block, then after each block. True block outputs, before the final norm."""
        return [*self.pre, self.post]


def record(model: Model, ids: torch.Tensor, mask: torch.Tensor | None = None) -> Residuals:
    """Run ids [sequence, position] through the model without its head, keeping the stream; masked-out blocks add nothing."""
    layout, seen = model.layout, Residuals(model.layers)
    with ExitStack() as hooks, torch.inference_mode():
        for layer in seen.layers:
            block = model.blocks[layer]

            def enter(_, args, kwargs):
                seen.pre.append(args[0])
                seen.calls.append((args[1:], kwargs))

            hooks.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
            if layout.parallel:
                for name, kept in (("attn_out", seen.attn_out), ("mlp_out", seen.mlp_out)):
                    module, _ = model.site(layer, name)
                    hooks.callback(module.register_forward_hook(lambda _, __, out, kept=kept: kept.append(_tensor(out))).remove)
            else:
                module, _ = model.site(layer, "resid_mid")
                hooks.callback(module.register_forward_pre_hook(lambda _, args: seen.mid.append(args[0])).remove)
        final = model.module.get_submodule(layout.final_norm)
        hooks.callback(final.register_forward_pre_hook(lambda _, args: setattr(seen, "post", args[0])).remove)
        model.module.get_submodule(layout.base)(input_ids=ids.to(model.device), attention_mask=mask, use_cache=False)
    return seen


def run_on(model: Model, seen: Residuals, start: int, x: torch.Tensor) -> torch.Tensor:
    """The stream after the last block when `x` enters block layers[start]."""
    for i in range(start, len(seen.layers)):
        args, kwargs = seen.calls[i]
        x = model.blocks[seen.layers[i]](x, *args, **kwargs)
    return x


def without_attention(model: Model, seen: Residuals, i: int) -> torch.Tensor:
    """What block layers[i] gives when its attention adds nothing: the stream plus the MLP of the stream."""
    x = seen.pre[i]
    if model.layout.parallel:
        return x + seen.mlp_out[i]
    block, layout = model.blocks[seen.layers[i]], model.layout
    added = block.get_submodule(layout.mlp)(block.get_submodule(layout.mlp_norm)(x))
    return x + (block.get_submodule(layout.mlp_post_norm)(added) if layout.mlp_post_norm else added)


def without_mlp(model: Model, seen: Residuals, i: int) -> torch.Tensor:
    """What block layers[i] gives when its MLP adds nothing."""
    return seen.pre[i] + seen.attn_out[i] if model.layout.parallel else seen.mid[i]


def head(model: Model):
    """The function from the stream after the last block to logits: final norm, unembedding, and Gemma 2's soft cap."""
    norm, unembed = model.module.get_submodule(model.layout.final_norm), model.module.get_submodule(model.layout.unembed)
    cap = getattr(model.config, "final_logit_softcapping", None)

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        out = unembed(norm(hidden))
        return torch.tanh(out / cap) * cap if cap else out

    return logits


def _tensor(output) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
