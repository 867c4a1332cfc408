"""The residual stream at a prompt's last token (END), and running it on when something at END is changed.

Only END predicts the answer and nothing looks at END but END, so a patch there leaves every earlier position as it was. With the
outputs of attention held as recorded ("all other heads frozen"), the stream at END is a sum that only the MLPs have to be asked
again about: no attention is run.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields

import torch

from metrics.prompts.answering import LOGITS
from metrics.residuals import head as unembedding
from models.layout import heads as heads_of
from models.loaded import Model

MEASURES = ("relative logit", "log-probability", "logit difference")
ROWS = 4096  # streams that an MLP is given at once


@dataclass(eq=False)
class EndStates:
    """One run at END, by position in `layers` (blocks not wholly removed), float32 of the model's dtype, no gradient.

    pre [layer, prompt, d] the stream into the block; z [layer, prompt, head, d_head] each head's output before W_O; attn
    [layer, prompt, d] what attention gives, bias included, before a norm of its own (Gemma 2); mlp [layer, prompt, d] what the MLP
    adds; post [prompt, d] the stream after the last block.
    """

    layers: tuple[int, ...]
    pre: torch.Tensor
    z: torch.Tensor
    attn: torch.Tensor
    mlp: torch.Tensor
    post: torch.Tensor

    @property
    def n_prompts(self) -> int:
        return self.post.shape[0]

    def first(self, n: int) -> EndStates:
        """The first n prompts."""
        return EndStates(self.layers, self.pre[:, :n], self.z[:, :n], self.attn[:, :n], self.mlp[:, :n], self.post[:n])

    @staticmethod
    def gathered(parts: list[EndStates], order: list[int]) -> EndStates:
        """Batches put together, prompts in the order of `order` (where each of the concatenated prompts belongs)."""
        back = torch.argsort(torch.tensor(order))
        whole = {f.name: torch.cat([getattr(p, f.name) for p in parts], -2 if f.name != "z" else 1) for f in fields(EndStates) if f.name != "layers"}
        return EndStates(parts[0].layers, **{name: x.index_select(0 if name == "post" else 1, back.to(x.device)) for name, x in whole.items()})


def record(model: Model, ids: torch.Tensor) -> EndStates:
    """Run ids [prompt, position], none of them padded, and keep what happens at the last position."""
    seen: dict[str, list] = {"pre": [], "z": [], "attn": [], "mlp": [], "post": []}
    last = lambda x: (x[0] if isinstance(x, tuple) else x)[:, -1].detach()
    with ExitStack() as hooks, torch.no_grad():
        def keep(name: str, module, before: bool) -> None:
            if before:
                hooks.callback(module.register_forward_pre_hook(lambda _, args: seen[name].append(last(args[0]))).remove)
            else:
                hooks.callback(module.register_forward_hook(lambda _, __, out: seen[name].append(last(out))).remove)

        for layer in model.layers:
            block = model.blocks[layer]
            keep("pre", block, True)
            keep("z", block.get_submodule(model.layout.attn_output), True)
            keep("attn", block.get_submodule(model.layout.attn), False)
            keep("mlp", block.get_submodule(model.layout.mlp_post_norm or model.layout.mlp), False)
        keep("post", model.module.get_submodule(model.layout.final_norm), True)
        model.module.get_submodule(model.layout.base)(input_ids=ids.to(model.device), use_cache=False)
    shape = heads_of(model.config)
    stacked = {name: torch.stack(seen[name]) for name in ("pre", "z", "attn", "mlp")}
    stacked["z"] = stacked["z"].unflatten(-1, (shape.n_heads, shape.d_head))
    return EndStates(model.layers, **stacked, post=seen["post"][0])


def attention_adds(model: Model, layer: int, attn: torch.Tensor) -> torch.Tensor:
    """What attention's output [..., d] becomes on its way into the stream: itself, or the norm of it (Gemma 2 and 3)."""
    name = model.layout.attn_post
    return model.blocks[layer].get_submodule(name)(attn) if name else attn


def mlp_adds(model: Model, layer: int, x: torch.Tensor) -> torch.Tensor:
    """What the MLP of a block adds to the stream x [..., d] that it reads, norms included."""
    block, layout = model.blocks[layer], model.layout
    flat = x.reshape(1, -1, x.shape[-1])
    out = []
    for part in flat.split(ROWS, 1):
        added = block.get_submodule(layout.mlp)(block.get_submodule(layout.mlp_norm)(part))
        out.append(block.get_submodule(layout.mlp_post_norm)(added) if layout.mlp_post_norm else added)
    return torch.cat(out, 1).view(x.shape)


def through_block(model: Model, layer: int, x: torch.Tensor, attn: torch.Tensor, mlp: torch.Tensor | None = None) -> torch.Tensor:
    """The stream after a block that `x` [..., d] enters, with attention giving `attn`; its MLP is asked, or adds `mlp`."""
    added = attention_adds(model, layer, attn)
    read = x if model.layout.parallel else x + added
    return x + added + (mlp_adds(model, layer, read) if mlp is None else mlp)


def run_on(model: Model, states: EndStates, start: int, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The stream after the last block when x [row, d] enters block layers[start]: attention as recorded for the prompts `rows`
    [row], MLPs recomputed."""
    for i in range(start, len(states.layers)):
        x = through_block(model, states.layers[i], x, states.attn[i, rows])
    return x


def head_weights(model: Model, layer: int) -> torch.Tensor:
    """W_O split by heads, [head, d, d_head]; the bias of the output belongs to no head."""
    shape = heads_of(model.config)
    return model.matrix(layer, model.layout.attn_output).unflatten(1, (shape.n_heads, shape.d_head)).transpose(0, 1)


def measures(logits: torch.Tensor, answer: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """[row, 3] of logits [row, vocab]: the answer's logit, its log-probability, and its logit minus the mean logit of the `others`
    [answers] (all answers of the prompt set) without it. float64."""
    logits = logits.double()
    own = logits.gather(1, answer[:, None])[:, 0]
    among = logits[:, others]
    same = others[None] == answer[:, None]
    rest = (among * ~same).sum(1) / (~same).sum(1).clamp(min=1)
    return torch.stack([own, own - logits.logsumexp(1), own - rest], 1)


def read_out(model: Model, post: torch.Tensor, answer: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """`measures` [row, 3] of streams post [row, d] after the last block; logits come in blocks, so that a large vocabulary fits."""
    to_logits = unembedding(model)
    size = max(1, LOGITS // model.config.vocab_size)
    return torch.cat([measures(to_logits(x), a, others) for x, a in zip(post.split(size), answer.split(size))])


def change(patched: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Effect [..., 3] from measures of the patched and the reference run: the paper's (logit* − logit) / logit, then the plain
    differences of log-probability (nats) and of logit difference. The first is NaN where the reference logit is not above zero:
    there a ratio says nothing."""
    difference = patched - reference
    logit = reference[..., 0]
    relative = torch.where(logit > 0, difference[..., 0] / logit.clamp(min=1e-12), torch.nan)
    return torch.stack([relative.expand_as(difference[..., 0]), difference[..., 1], difference[..., 2]], -1)
