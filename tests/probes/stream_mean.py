"""What is the mean of the residual stream after each block?

Read by hooks on the running model, so that a model shared between two computations would show.
"""

from dataclasses import dataclass

import numpy as np

from kernels.moments import Moments
from models.layout import Site
from models.stream import Request

TITLE, QUESTION, MODELS, CORPUS = "Stream mean", "What is the mean of the residual stream after each block?", (1, 1), "demo/stories:4x32"


@dataclass(frozen=True)
class Params:
    turn: int = 0  # makes every call a computation of its own


@dataclass(frozen=True, eq=False)
class Result:
    mean: np.ndarray  # [block, channel]


def compute(captures, params, progress):
    (capture,) = captures
    with capture.model() as model:
        blocks = range(model.n_layers)
    return Result(np.stack([m.mean.numpy() for m in capture.measure([Request(Moments, (Site(i, "resid_post"),)) for i in blocks])]))


def answer(runs):
    return ""


def headlines(runs):
    return ()


def figures(runs):
    return []


def cost(shape, n_tokens, params):
    return shape.forward_flops * n_tokens
