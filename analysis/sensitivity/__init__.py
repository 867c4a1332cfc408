"""Where did the compression hurt?

Takes B, a compressed A, apart: each changed matrix, and each block, of B alone is put into A, and what that costs is measured.

**Isolated.** KL(A ‖ A with only this part of B), mean over tokens, in nats: 0 where the part is unchanged. For operators that decide
each matrix on A's own activations (parallel propagation) this is the operator applied to one matrix at a time.

**Accumulated.** KL(A ‖ A with all blocks of B up to this one). The last point and what lies outside the blocks give the whole
KL(A ‖ B). Isolated costs need not add up: errors cancel or feed each other, so their running sum is drawn beside.

**Null.** Grey: A with Gaussian noise on the same part, as large as its change, ‖N‖ = ‖W′ − W‖ (Frobenius). A part that costs as much
as its noise was not helped by the method; one that costs less was.

**Output error** of a matrix: ‖f′(x) − f(x)‖ / ‖f(x)‖ over the tokens, f with its bias. Isolated: x is what A feeds it. Accumulated: f′
gets what B feeds it. **Weight error**: ‖W′ − W‖ / ‖W‖. A good method may change weights more and outputs less.

**Stream.** 1 − cos between the residual streams of A and B after each block, mean over tokens; grey is the range over draws of noise as
large as all changes together.

**Spectra** are singular values of each matrix of A and B; **masks** the share of exact zeros in B, over the matrix in squares.

**Intervals** are 95 %, bootstrapped over whole sequences.

**What this does not show.** A part that costs nothing alone may matter with others, and a cost on this text is not a lost skill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.contract import Shape
from analysis.sensitivity.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Sensitivity"
QUESTION = "Where did the compression hurt?"
MODELS = (2, 2)
CORPUS = "demo/mixed:32x128:padded"


@dataclass(frozen=True)
class Params:
    control: Literal["noise", "none"] = param("noise", "control: {}", first=True, help="Gaussian noise as large as each part's change, on A: doubles the time.")
    draws: int = param(3, "Draws of noise on the whole", low=1, high=20)
    spectra: bool = param(True, "Singular values", help="Of every matrix of A and B; slow where matrices are wider than a few thousand.")
    resamples: int = param(1000, "Bootstrap resamples", low=100, high=100_000)
    seed: int = param(0, "Seed of noise and resampling", low=0, high=10**9)


def answer(runs) -> str:
    from analysis.sensitivity import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.sensitivity import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.sensitivity import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs of this model's share: each of about seven parts of a block, swapped in alone, runs half of the blocks and the head."""
    swaps = (7.5 if params.control == "noise" else 4.5) * shape.n_layers
    return n_tokens * (swaps * (shape.n_layers * shape.block_flops / 2 + shape.head_flops) / 2 + (2 + params.draws) * shape.forward_flops)
