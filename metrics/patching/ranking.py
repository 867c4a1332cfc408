"""From prompts to ranked heads: both runs of each prompt at END, path patching, and the mean over operators."""

from __future__ import annotations

import torch

from metrics.patching.end import EndStates, record
from metrics.patching.path import scan_heads
from metrics.prompts.arithmetic_set import Prompt
from metrics.prompts.tokenised import by_length
from metrics.prompts.wordings import OPERATORS
from models.layout import heads as heads_of
from models.loaded import Model
from models.refusal import Refused

BATCH = 64


def states_of(model: Model, rows: list[tuple[int, ...]], step=lambda i, n: None) -> EndStates:
    """END of every row of ids, in the order of the rows."""
    parts, order = [], []
    for part, ids in by_length(rows, BATCH):
        step(len(order), len(rows))
        parts.append(record(model, ids))
        order += part
    return EndStates.gathered(parts, order)


def answers(model: Model, prompts: list[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
    """(answer [prompt], all different answers [n]) as token ids on the model's device."""
    own = torch.tensor([p.answer for p in prompts], device=model.device)
    return own, own.unique()


def operator_weights(prompts: list[Prompt]) -> torch.Tensor:
    """[prompt] float64, sum 1: every operator weighs the same, whatever number of its prompts was kept."""
    index = torch.tensor([OPERATORS.index(p.problem.operator) for p in prompts])
    counts = torch.bincount(index, minlength=len(OPERATORS)).double()
    return 1 / counts[index] / (counts > 0).sum()


def over_prompts(effects: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of effects [..., prompt, 3] over the prompts where they are defined, [..., 3]."""
    known = torch.isfinite(effects)
    w = weights.to(effects)[:, None] * known
    return (effects.nan_to_num() * w).sum(-2) / w.sum(-2)


def ranked(mean: torch.Tensor) -> list[tuple[int, int]]:
    """(position in layers, head) of mean effects [layer, head], the most harmful patch first; ties by layer and head."""
    order = torch.argsort(mean.flatten().nan_to_num(torch.inf), stable=True)
    return [divmod(int(i), mean.shape[1]) for i in order]


def key_heads(model: Model, prompts: list[Prompt], change: int, progress) -> list[tuple[int, int]]:
    """All heads as (layer, head), ranked by the mean relative logit of path patching, MLPs recomputed; `change` as in
    wordings.CHANGES. For callers that need nothing else of the scan."""
    if not prompts:
        raise Refused(f"{model.written} answers too few arithmetic prompts to seek heads on; name the heads, for instance L3H5.L4H1.")
    own, every = answers(model, prompts)
    reference, other = states_of(model, [p.ids for p in prompts]), states_of(model, [p.changed[change] for p in prompts])
    effects = scan_heads(model, reference, other, own, every, "recomputed", lambda i: progress.step(i, len(model.layers),
                                                                                                    f"path patching, block {model.layers[i]}"))
    mean = over_prompts(effects.cpu(), operator_weights(prompts))[..., 0]
    return [(model.layers[i], h) for i, h in ranked(mean)]


def label(layer: int, head: int) -> str:
    return f"L{layer}H{head}"


def read_heads(text: str, model_layers: tuple[int, ...], n_heads: int) -> tuple[tuple[int, int], ...]:
    """"L3H5.L4H1" as ((3, 5), (4, 1)); Refused where it is not written so or where a head does not exist."""
    found = []
    for word in filter(None, text.split(".")):
        layer, _, head = word.removeprefix("L").partition("H")
        if not (word.startswith("L") and layer.isdigit() and head.isdigit() and layer.isascii() and head.isascii()):
            raise Refused(f"“{word[:20]}” is not a head; heads are written like L3H5.L4H1, block and head counted from 0.")
        if int(layer) not in model_layers or int(head) >= n_heads:
            raise Refused(f"There is no head {word[:20]}; this model has blocks {model_layers[0]}–{model_layers[-1]} with heads 0–{n_heads - 1}.")
        found.append((int(layer), int(head)))
    return tuple(dict.fromkeys(found))


def kv_groups(model: Model) -> int:
    """Heads that share one key and value: 1 unless queries are grouped."""
    shape = heads_of(model.config)
    return shape.n_heads // shape.n_kv
