"""Learn which two of every four weights stay, weights untouched: a small local version of MaskLLM.

Each group of four consecutive inputs has six patterns with two weights and one logit g for each. A mask is drawn as the mean of the patterns under
softmax((κ g + Gumbel noise) / τ), so that gradients reach g; τ falls from 4 to 0.05 and κ rises from 100 to 500, and at the end the
pattern with the largest g stays. What is lowered is each matrix's own output error on the text, ‖(W ⊙ M − W) X‖² / ‖W X‖², minus a
small reward for the size of what stays; MaskLLM trains all masks together on the language model's loss over billions of tokens, so its
numbers are not to be expected here. Logits start from a prior, SparseGPT's mask; where learning does not beat it, the prior stays.

Use it when weights must keep their values: compare wanda and magnitude with the same pattern. Not where they may move, sparsegpt makes
up for what it takes, nor in a hurry: it trains for each matrix. Source: Fang et al., “MaskLLM”, NeurIPS 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.calibration import solve_matrices
from metrics.pattern_learning import error, learn
from metrics.solvers import inverse_factor, prune
from metrics.sparsity import keep_n_of_m, mask_bits, pack, unpack
from metrics.stored_bits import note_bits, split_key, total_bits, value_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape, shape_of
from operators.contract import Storage, foresee_mask, require_whole_groups, sparse_storage

TITLE = "Learned 2:4 masks"


@dataclass(frozen=True)
class Params:
    steps: int = param(60, "Steps", first=True, low=0, high=5_000, help="For each matrix; 0 is the prior")
    prior: Literal["sparsegpt", "magnitude"] = param("sparsegpt", "Prior", first=True)
    rate: float = param(0.005, "Learning rate", low=0.0, high=1.0)
    strength: float = param(3.0, "Strength of the prior", low=0.0, high=20.0, help="In standard deviations of the logits")
    reward: float = param(1e-5, "Reward for size", low=0.0, high=1.0, help="Of the share of squared weight that stays")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")
    propagation: Literal["parallel", "sequential"] = param("parallel", "Propagation", help="Statistics on original activations, or on those of the compressed blocks before")


NEUTRAL = None  # two of four always go
SWEEP = ("steps=60", "steps=0")


@dataclass(frozen=True, eq=False)
class Plan:
    masks: dict[str, torch.Tensor]  # packed bits uint8 [out, ceil(in / 8)]
    n_in: dict[str, int]
    errors: dict[str, torch.Tensor]  # relative output error of the magnitude mask, the prior and the mask taken, float64 [3]
    loss: dict[str, torch.Tensor]  # of every step, with drawn soft masks, float64
    entropy: dict[str, torch.Tensor]  # of the patterns' probabilities at every step, nats, mean over groups, float64
    bits: dict[str, torch.Tensor]


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    require_whole_groups(shape.chosen(params.which), "2:4")


def foresee(params: Params, outline: Outline) -> Outline:
    return foresee_mask(outline, outline.shape.chosen(params.which), 0.5, "2:4")


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    plan = Plan({}, {}, {}, {}, {}, {})
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**31)

    def solve(matrix, weight, inputs):
        w = weight.detach().float()
        magnitude = keep_n_of_m(w.abs(), 2, 4)
        prior = magnitude
        if params.prior == "sparsegpt":
            pruned = prune(w, inverse_factor(inputs.gram, inputs.tokens), 0.5, "2:4").weight
            prior = keep_n_of_m(pruned.abs(), 2, 4)
        learned = learn(w, inputs.gram, prior, params.steps, params.rate, params.strength, params.reward, generator)
        candidates = [prior, learned.mask]
        errors = [error(w, mask, inputs.gram) for mask in (magnitude, *candidates)]
        mask = candidates[errors[2] < errors[1]]
        plan.masks[matrix.key], plan.n_in[matrix.key] = pack(mask), matrix.n_in
        plan.errors[matrix.key] = torch.tensor([*errors[:2], min(errors[1:])], dtype=torch.float64)
        plan.loss[matrix.key], plan.entropy[matrix.key] = learned.loss, learned.entropy
        plan.bits[matrix.key] = torch.tensor(mask_bits(mask, value_bits(model, matrix), "2:4"))
        return torch.where(mask, weight, 0)

    solve_matrices(model, calibration, shape_of(model).chosen(params.which), params.propagation, True, solve, progress)
    return plan


def apply(model: Model, plan: Plan) -> None:
    for key, packed in plan.masks.items():
        weight = model.matrix(*split_key(key))
        model.set_matrix(*split_key(key), torch.where(unpack(packed, plan.n_in[key]).to(weight.device), weight, 0))
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    return sparse_storage(total_bits(plan.bits), sum(model.matrix(*split_key(key)).numel() for key in plan.masks), "2:4")
