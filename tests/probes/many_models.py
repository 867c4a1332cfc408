"""How many weights do these models have, each?

Takes two models or more, to prove that a third one reaches compute.
"""

from dataclasses import dataclass

import numpy as np

TITLE, QUESTION, MODELS, CORPUS = "Sizes", "How many weights do these models have, each?", (2, 4), "demo/stories:4x32"


@dataclass(frozen=True)
class Params:
    pass


@dataclass(frozen=True, eq=False)
class Result:
    weights: np.ndarray  # [model]


def compute(captures, params, progress):
    sizes = []
    for capture in captures:
        with capture.model() as model:
            sizes.append(sum(p.numel() for p in model.module.parameters()))
    return Result(np.array(sizes))


def answer(runs):
    return ", ".join(f"{n:,}" for n in runs[0].result.weights) + " weights."


def headlines(runs):
    return ()


def figures(runs):
    return []


def cost(shape, n_tokens, params):
    return 1e6
