"""Train only a few attention heads, on arithmetic or on any text, and leave every other weight as it is, bit for bit.

Tuned are the slices of W_Q, W_K, W_V and W_O that belong to the chosen heads, and whole MLPs where asked for; biases, norms and
embeddings stay. With grouped queries a head's K and V belong to its group, and are tuned for all of it. The heads are named
(L3H5.L4H1), or the first k of a path-patching scan on the model's own arithmetic (see Arithmetic heads), or k random ones: the
control. “Every matrix” trains all attention and MLP matrices of all blocks: full tuning, to compare with. Problems are written
in the wordings on which heads are sought, four fifths of them; one in five is never shown.

Use it to improve a skill with little change elsewhere. It stores and computes as much as before: this is no compression.
Gradients are multiplied by H/h, all heads over chosen ones, as second-hand accounts of the paper say; under Adam that changes next to
nothing. Source: Zhang et al., “Interpreting and Improving LLMs in Arithmetic Calculation”, ICML 2024 (precise tuning); optimiser
and data are this program's own choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from metrics import head_tuning
from metrics.head_tuning import Part
from metrics.patching.ranking import key_heads, label, read_heads
from metrics.prompts.arithmetic_set import ask, some
from metrics.prompts.wordings import OPERATORS
from metrics.stored_bits import dtype_bits, split_key
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import NotApplicable
from models.shape import Shape, shape_of
from operators.contract import Storage

TITLE = "Tune heads"
PROBLEMS = 4096  # different prompts to train on, at most


@dataclass(frozen=True)
class Params:
    heads: str = param("", "Heads, such as L3H5.L4H1", first=True, help="Empty: chosen as the next field says.")
    choose: Literal["scan", "random", "every matrix"] = param(
        "scan", "Where none are named", first=True, help="The first k of a path-patching scan, k random heads, or all attention and MLP matrices")
    k: int = param(4, "Heads where none are named", first=True, low=0, high=100_000)
    mlps: tuple[int, ...] = param((), "Blocks whose MLPs are tuned too")
    on_what: Literal["problems", "text"] = param(
        "problems", "Trained on", help="Arithmetic in the model's own tokens, or the calibration text (its marked answers, where it marks any)")
    largest: int = param(9, "Largest operand", low=2, high=99)
    steps: int = param(100, "Steps", low=0, high=100_000)
    batch: int = param(32, "Examples in a step", low=1, high=4096)
    rate: float = param(1e-3, "Learning rate", low=0.0, high=10.0)
    optimiser: Literal["adam", "sgd"] = param("adam", "Optimiser")
    rescale: bool = param(True, "Multiply gradients by H/h")


NEUTRAL = (Params(steps=0, choose="random", on_what="text"), 0.0)


@dataclass(frozen=True, eq=False)
class Plan:
    keys: tuple[str, ...]
    dims: tuple[int, ...]  # 0 rows, 1 columns of the matrix seen as [out, in]
    index: dict[str, torch.Tensor]
    values: dict[str, torch.Tensor]
    heads: tuple[str, ...]


def calibrated(params: Params) -> bool:
    return params.on_what == "text"


def check(params: Params, shape: Shape) -> None:
    heads = read_heads(params.heads, shape.layers, shape.heads.n_heads)
    missing = sorted(set(params.mlps) - {m.layer for m in shape.matrices if m.kind == "mlp"})
    if missing:
        raise NotApplicable(f"There is no MLP left in block {missing[0]}; blocks {shape.layers[0]}–{shape.layers[-1]} are there.")
    gone = [label(*h) for h in heads if not any(m.layer == h[0] and m.kind == "attn" for m in shape.matrices)]
    if gone:
        raise NotApplicable(f"The attention of {gone[0]} has been removed, so there is nothing to tune.")


def foresee(params: Params, outline: Outline) -> Outline:
    """As large as before."""
    return outline


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    seed = torch.initial_seed() % 2**31
    heads, parts = chosen(model, params, seed, progress)
    if calibration is None:
        examples = head_tuning.of_prompts(some(model, OPERATORS, PROBLEMS, params.largest, seed, validation=False, shown=True))
    else:
        marked = [torch.from_numpy(x) for x in calibration.tokens.spans.values()] if hasattr(calibration, "tokens") else []
        examples = head_tuning.of_text(calibration.ids, calibration.keep, torch.stack(marked).any(0) if marked else None)
    n_heads = shape_of(model).heads.n_heads * len(model.layers)
    scale = n_heads / len(heads) if params.rescale and heads else 1.0
    values = head_tuning.tune(model, parts, examples, steps=params.steps, batch=params.batch, rate=params.rate, optimiser=params.optimiser,
                              scale=scale, seed=seed, progress=progress)
    keys = tuple(p.key for p in parts)
    return Plan(keys, tuple(p.dim for p in parts), {p.key: p.index for p in parts}, {k: v.cpu() for k, v in zip(keys, values)}, tuple(label(*h) for h in heads))


def chosen(model: Model, params: Params, seed: int, progress) -> tuple[tuple[tuple[int, int], ...], list[Part]]:
    """(heads, slices to train)."""
    mlps = head_tuning.whole_parts(model, "mlp", params.mlps)
    if params.choose == "every matrix" and not params.heads:
        return (), head_tuning.whole_parts(model, "all", model.layers)
    shape = shape_of(model)
    heads = read_heads(params.heads, shape.layers, shape.heads.n_heads)
    if not heads:
        every = [(layer, h) for layer in model.layers if (layer, "attn") not in model.removed for h in range(shape.heads.n_heads)]
        if params.choose == "random":
            heads = tuple(every[i] for i in np.random.default_rng(seed).permutation(len(every))[: params.k])
        elif params.k:
            found = ask(model, OPERATORS, 96, params.largest, "@, nothing", seed, progress)
            heads = tuple(key_heads(model, list(found.only(found.known()).discovery), 0, progress)[: params.k])
    return heads, head_tuning.head_parts(model, heads) + mlps


def parts_of(plan: Plan) -> list[Part]:
    return [Part(key, dim, plan.index[key]) for key, dim in zip(plan.keys, plan.dims)]


def apply(model: Model, plan: Plan) -> None:
    head_tuning.put(model, parts_of(plan), [plan.values[key] for key in plan.keys])


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(model.matrix(*split_key(key)).numel() for key in plan.keys)
    return Storage(float(weights * dtype_bits(model)), weights, False, "tuned weights in the dtype of the others; as large and as fast as before")
