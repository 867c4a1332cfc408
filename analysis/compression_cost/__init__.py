"""What did the compression cost?

Compares what A, the original, and B, its variant, predict at the same tokens.

**Divergence.** At every token, KL(A ‖ B) = Σᵥ pA(v) · (ln pA(v) − ln pB(v)) in nats, over the next token v: 0 exactly where the
predictions are the same, and never below. Mean, median, 95 % and 99 % quantiles over tokens; a quantile is the smallest value
that at least this share of the tokens does not exceed. A damaged model can keep its median and lose its tail, so look at both.

**Perplexity** is exp of the mean −ln p of the token that really comes next, in nats. B over A is exp of the mean *paired*
difference, per strand where the text says which strand it is. A sequence has one strand: in packed text that of the document
that fills most of it, in padded text (the default here) its only document's.

**Flips.** A token flips when the likeliest next token changes from right to wrong, or from wrong to right. Top-1 agreement
counts every change, right or not. McNemar's exact test asks whether more flips go one way than a fair coin would give; it
takes tokens as independent, which tokens of one text are not, so an interval over sequences stands beside it.

**Intervals** are 95 %, bootstrapped over whole sequences.

**Controls.** A against itself gives exactly 0. The grey control is A with Gaussian noise on every changed matrix, as large as the
change, ‖N‖ = ‖W′ − W‖ (Frobenius): a recipe worth its name costs less than noise of its size.

**Healing.** Where B's recipe ends in a healing step, the same recipe without it is measured on the same tokens and stands beside.

**Weights.** ‖W′ − W‖ / ‖W‖ per matrix, Frobenius. A step that rotates (SliceGPT) changes weights more than the function.

**Size.** Bits as the recipe stores them, scales, indices and bitmaps included; untouched parameters at the dtype the model is
computed in; removed ones not at all. Bits per weight are over the parameters of A.

**What this does not show.** KL and perplexity say how much changed on this text, not what: a lost skill can hide in a small mean.
Nothing here is a measured speed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from analysis.compression_cost.measure import Result, compute
from analysis.contract import Shape
from models.params import param
from models.variant import Variant

__all__ = ["Params", "Result", "also", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Cost of compression"
QUESTION = "What did the compression cost?"
MODELS = (2, 2)
CORPUS = "demo/mixed:128x128:padded"


@dataclass(frozen=True)
class Params:
    control: Literal["noise", "none"] = param("noise", "control: {}", first=True, help="Gaussian noise as large as each matrix's change, on A: one more run of the model.")
    resamples: int = param(1000, "Bootstrap resamples", low=100, high=100_000)
    seed: int = param(0, "Seed of noise and resampling", low=0, high=10**9)


def also(variant: Variant, params: Params) -> tuple[Variant, ...]:
    """B before it was healed, where its recipe ends so."""
    steps = list(variant.steps)
    while steps and steps[-1].operator == "heal":
        steps.pop()
    return (replace(variant, steps=tuple(steps)),) if len(steps) < len(variant.steps) else ()


def answer(runs) -> str:
    from analysis.compression_cost import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.compression_cost import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.compression_cost import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs of this model's share: one forward pass each, and half of the control's."""
    return n_tokens * shape.forward_flops * (1.5 if params.control == "noise" else 1.0)
