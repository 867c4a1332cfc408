"""Does a sum of coin flips centre where it should?

An analysis that looks at no language model and reads no text: it makes its own inputs and says how many.
"""

from dataclasses import dataclass

import numpy as np

from analysis.contract import Headline
from models.params import param

TITLE, QUESTION, MODELS, CORPUS = "Coin flips", "Does a sum of coin flips centre where it should?", (0, 0), None


@dataclass(frozen=True)
class Params:
    flips: int = param(1000, "flips", low=1, high=10**6, first=True)
    seed: int = param(0, "Seed")


@dataclass(frozen=True, eq=False)
class Result:
    share: float
    n_sequences: int


def compute(captures, params, progress):
    assert captures == ()
    for i in range(5):
        progress.step(i, 5, "flipping", {"loss": 1 / (i + 1)})
    return Result(float(np.random.default_rng(params.seed).integers(0, 2, params.flips).mean()), params.flips)


def answer(runs):
    return f"**{runs[0].result.share:.3f}** of {runs[0].result.n_sequences:,} flips are heads; a fair coin gives 0.5."


def headlines(runs):
    return (Headline("Share of heads", runs[0].result.share, "", null="0.5"),)


def figures(runs):
    return []


def cost(shape, n_tokens, params):
    assert shape is None and n_tokens == 0
    return float(params.flips)
