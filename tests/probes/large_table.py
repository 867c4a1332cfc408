"""How often does each token follow each other one?

Counts of (token, next token) over the corpus, one row per pair seen: a table of many rows beside a few scalars.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.params import param

TITLE, QUESTION, MODELS, CORPUS = "Token pairs", "How often does each token follow each other one?", (1, 1), "demo/stories:32x64"


@dataclass(frozen=True)
class Params:
    least: int = param(1, "least count", low=1, first=True)
    top: int = param(10, "rows shown", low=1, display=True)


@dataclass(frozen=True, eq=False)
class Result:
    total: int
    counts: np.ndarray  # [pair]
    pairs: pa.Table


def compute(captures, params, progress):
    ids = captures[0].tokens.ids
    pairs, counts = np.unique(np.stack([ids[:, :-1].ravel(), ids[:, 1:].ravel()], 1), axis=0, return_counts=True)
    keep = counts >= params.least
    table = pa.table({"token": pairs[keep, 0], "next": pairs[keep, 1], "count": counts[keep]})
    return Result(int(counts.sum()), counts[keep], table)


def answer(runs):
    return f"{runs[0].result.pairs.num_rows:,} different pairs in {runs[0].result.total:,}."


def headlines(runs):
    return ()


def figures(runs):
    return []


def cost(shape, n_tokens, params):
    return float(n_tokens)
