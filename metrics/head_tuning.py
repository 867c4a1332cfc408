"""Training some slices of a model's matrices while every other weight keeps its bits.

A slice is some rows or columns of one block matrix, seen as [out, in]: for a head its rows of W_Q, W_K, W_V and its columns of W_O.
Only the slices are parameters; the matrix that runs is the old one with them written in, so nothing else can move, neither by
momentum nor by decay. Biases, norms and embeddings stay. Where several query heads share one key and value, tuning one of them tunes
the K and V of its whole group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.prompts.arithmetic_set import Prompt
from metrics.stored_bits import parameter_name, split_key
from models.layout import heads as heads_of
from models.layout import is_conv1d
from models.loaded import Model
from models.shape import row_parts, shape_of

IGNORED = -100  # target where nothing is to be predicted
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, eq=False)
class Part:
    """Rows (dim 0) or columns (dim 1) of the block matrix `key`, such as 3.attn.c_proj; `index` which, in order."""

    key: str
    dim: int
    index: torch.Tensor

    def of(self, model: Model) -> torch.Tensor:
        """The slice as it is, [k, in] or [out, k]."""
        return model.matrix(*split_key(self.key)).index_select(self.dim, self.index.to(model.device))


def head_parts(model: Model, heads: tuple[tuple[int, int], ...]) -> list[Part]:
    """The Q, K, V rows and O columns of heads (layer, head)."""
    shape, every = shape_of(model), heads_of(model.config)
    wide = lambda which: torch.tensor(sorted(which))[:, None] * every.d_head + torch.arange(every.d_head)
    matrices = {(m.layer, m.name): m for m in shape.matrices}
    found = []
    for layer in sorted({layer for layer, _ in heads}):
        own = {head for at, head in heads if at == layer}
        shared = {head * every.n_kv // every.n_heads for head in own}
        rows = {"q": wide(own).flatten(), "k": wide(shared).flatten(), "v": wide(shared).flatten()}
        for name, kinds in zip(model.layout.attn_inputs, ("q", "k", "v") if len(model.layout.attn_inputs) == 3 else ("qkv",)):
            matrix = matrices.get((layer, name))
            if matrix is None:
                continue  # attention of this block was removed
            inside = row_parts(shape, matrix)
            index = torch.cat([inside[k][rows[k]] if k in inside else rows[k] for k in kinds])
            found.append(Part(f"{layer}.{name}", 0, index))
        if (layer, model.layout.attn_output) in matrices:
            found.append(Part(f"{layer}.{model.layout.attn_output}", 1, rows["q"]))
    return found


def whole_parts(model: Model, which: str, layers: tuple[int, ...]) -> list[Part]:
    """All rows of every matrix of `which` sublayers ("all", "attn" or "mlp") in these blocks."""
    return [Part(m.key, 0, torch.arange(m.n_out)) for m in shape_of(model).matrices if m.layer in layers and which in ("all", m.kind)]


def n_tuned(model: Model, parts: list[Part]) -> int:
    return sum(part.of(model).numel() for part in parts)


@dataclass(frozen=True, eq=False)
class Examples:
    """ids [example, position], padded on the right where a causal model does not look; targets [example, position] the token to be
    predicted at each position, IGNORED where none is asked for."""

    ids: torch.Tensor
    targets: torch.Tensor


def of_prompts(prompts: list[Prompt]) -> Examples:
    """The answer at each prompt's last token, nothing else."""
    width = max(len(p.ids) for p in prompts)
    ids, targets = torch.zeros(len(prompts), width, dtype=torch.long), torch.full((len(prompts), width), IGNORED)
    for i, p in enumerate(prompts):
        ids[i, : len(p.ids)] = torch.tensor(p.ids)
        targets[i, len(p.ids) - 1] = p.answer
    return Examples(ids, targets)


def of_text(ids: torch.Tensor, keep: torch.Tensor, marked: torch.Tensor | None) -> Examples:
    """The next token everywhere; only where it is marked, if the text marks any (answers, for instance)."""
    targets = torch.full_like(ids, IGNORED)
    counted = keep[:, 1:] & keep[:, :-1]
    if marked is not None and bool((marked[:, 1:] & counted).any()):
        counted = counted & marked[:, 1:]
    targets[:, :-1] = torch.where(counted, ids[:, 1:], IGNORED)
    return Examples(ids, targets)


def tune(model: Model, parts: list[Part], examples: Examples, *, steps: int, batch: int, rate: float, optimiser: str = "adam",
         scale: float = 1.0, seed: int = 0, progress, name: str = "loss") -> list[torch.Tensor]:
    """The slices after `steps` steps on the cross-entropy (nats per asked token) of batches drawn by the seed; constant rate, no decay.
    `scale` multiplies every gradient: with plain SGD a larger rate, with Adam next to nothing."""
    leaves = [part.of(model).detach().clone() for part in parts]
    if not leaves:
        return leaves
    first, second = [torch.zeros_like(x) for x in leaves], [torch.zeros_like(x) for x in leaves]
    start, kept = 0, progress.saved()
    if kept:
        start, (leaves, first, second) = int(kept["step"]), ([x.to(model.device) for x in kept[k]] for k in ("leaves", "first", "second"))
    for step in range(start, steps):
        loss, slopes = slopes_of(model, parts, leaves, examples, np.random.default_rng([seed, step]), batch)
        for i, slope in enumerate(slopes):
            slope = slope * scale
            if optimiser == "sgd":
                leaves[i] = leaves[i] - rate * slope
                continue
            first[i] = BETA1 * first[i] + (1 - BETA1) * slope
            second[i] = BETA2 * second[i] + (1 - BETA2) * slope.square()
            mean, spread = first[i] / (1 - BETA1 ** (step + 1)), second[i] / (1 - BETA2 ** (step + 1))
            leaves[i] = leaves[i] - rate * mean / (spread.sqrt() + EPSILON)
        progress.save({"step": step + 1, "leaves": leaves, "first": first, "second": second})
        progress.step(step + 1, steps, f"tuning, step {step + 1} of {steps}", live={name: loss})
    return leaves


def slopes_of(model: Model, parts: list[Part], leaves: list[torch.Tensor], examples: Examples, rng, batch: int) -> tuple[float, tuple]:
    """(loss in nats per asked token, its gradient by each slice) on `batch` examples that rng draws."""
    chosen = torch.from_numpy(rng.choice(len(examples.ids), min(batch, len(examples.ids)), replace=False))
    ids, targets = examples.ids[chosen], examples.targets[chosen]
    length = int((targets != IGNORED).any(0).nonzero().max()) + 1
    leaves = [x.requires_grad_(True) for x in leaves]
    with torch.enable_grad():
        weights = {_parameter(model, part): written(model, part, leaf) for part, leaf in zip(parts, leaves)}
        logits = torch.func.functional_call(model.module, weights, kwargs={"input_ids": ids[:, :length].to(model.device), "use_cache": False}).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets[:, :length].flatten().to(model.device), ignore_index=IGNORED)
        slopes = torch.autograd.grad(loss, leaves)
    for leaf in leaves:
        leaf.requires_grad_(False)
    return float(loss.detach()), slopes


def written(model: Model, part: Part, leaf: torch.Tensor) -> torch.Tensor:
    """The whole matrix as its module stores it, with the slice replaced by `leaf`."""
    layer, name = split_key(part.key)
    whole = model.matrix(layer, name).detach().index_copy(part.dim, part.index.to(model.device), leaf)
    return whole.T if is_conv1d(model.blocks[layer].get_submodule(name)) else whole


def _parameter(model: Model, part: Part) -> str:
    return parameter_name(model, *split_key(part.key))


def put(model: Model, parts: list[Part], values: list[torch.Tensor]) -> None:
    """Write tuned slices into a copy; tensors shared with its parent stay untouched."""
    for part, value in zip(parts, values):
        layer, name = split_key(part.key)
        model.set_matrix(layer, name, model.matrix(layer, name).index_copy(part.dim, part.index.to(model.device), value.to(model.device)))
