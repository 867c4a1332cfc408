"""LESS beside the other methods; its scores are kept in the store by themselves, so that another pooling or metric does not make them again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.gradient_features import asking, less
from metrics.head_tuning import Examples, n_tuned, of_text, whole_parts
from models.corpus import parse
from models.refusal import Refused

MOST = 200_000_000  # weights by which a gradient is taken


@dataclass(frozen=True, eq=False)
class Scores:
    """score [draw, sample]."""

    score: np.ndarray


def scores(capture, own, draws: list[np.ndarray], params, progress) -> np.ndarray:
    """LESS's score [draw, sample of the pool] for the target examples of each draw: rows of the pool, or of `own` where the target is a text."""

    def make(part) -> Scores:
        with capture.model() as model:
            parts = whole_parts(model, "attn", model.layers)
            if not 0 < n_tuned(model, parts) <= MOST:
                raise Refused(f"LESS takes a gradient by the attention matrices for every sample; {model.written} has {n_tuned(model, parts):,} weights in them, expected 1–{MOST:,}. Leave LESS out, or take a smaller model.")
            pool = examples_of(capture.tokens)
            aim = pool if own is None else examples_of(own)
            if any(len(asking(_rows(aim, rows))) == 0 for rows in draws):
                raise Refused("LESS learns from next tokens, and a draw's target examples hold none to be predicted; give longer examples.")
            return Scores(less(model, parts, pool, [_rows(aim, rows) for rows in draws], epochs=params.less_epochs, seed=params.seed, progress=part))

    about = dict(epochs=params.less_epochs, seed=params.seed, draws=[rows.tolist() for rows in draws],
                 target=params.target_text and parse(params.target_text).content_fingerprint(capture.lab.home), written=params.target_text)
    return capture.keep_plan("less", about, make, Scores, progress).score


def examples_of(tokens) -> Examples:
    """The next token everywhere; only in answers, where the text marks them."""
    answer = tokens.spans.get("answer")
    return of_text(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.keep), None if answer is None else torch.from_numpy(answer))


def _rows(examples: Examples, rows: np.ndarray) -> Examples:
    return Examples(examples.ids[rows], examples.targets[rows])
