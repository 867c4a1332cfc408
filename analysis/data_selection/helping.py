"""The tuning runs on what each method takes, against random selections: does it help? Kept in the store by themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from analysis.data_selection.gradients import MOST, examples_of
from metrics.head_tuning import Examples, n_tuned, whole_parts
from metrics.selection_tuning import Tuned, tuned
from models.corpus import Corpus
from models.refusal import Refused

BATCH, HELD = 8, 64


@dataclass(frozen=True, eq=False)
class Helped:
    """Tuned, and in words what was held out."""

    tuned: Tuned
    held: str


def helped(capture, own, order: np.ndarray, rows: np.ndarray, params, progress) -> Helped:
    """order [method, sample] of the first draw, whose target examples are `rows` of the pool, or of `own`."""
    candidates = order[0][order[0] >= 0]
    size = max(1, round(params.tune_share / 100 * len(candidates)))

    def make(part) -> Tuned:
        with capture.model() as model:
            parts = whole_parts(model, "all", model.layers)
            if not 0 < n_tuned(model, parts) <= MOST:
                raise Refused(f"{model.written} has {n_tuned(model, parts):,} weights to tune, many times over; expected 1–{MOST:,}. Leave the tuning out, or take a smaller model.")
            held, _ = _held(capture, own, rows, params)
            return tuned(model, parts, examples_of(capture.tokens), [o[:size] for o in order], np.sort(candidates), held, steps=params.tune_steps, batch=BATCH, rate=params.tune_rate,
                         seeds=params.tune_seeds, random=params.tune_random, seed=params.seed, progress=part)

    about = dict(selections=[o[:size].tolist() for o in order], rows=rows.tolist(), task=params.task, label=params.label, target=params.target_text,
                 steps=params.tune_steps, rate=params.tune_rate, seeds=params.tune_seeds, random=params.tune_random, seed=params.seed)
    return Helped(capture.keep_plan("tuned on selections", about, make, Tuned, progress), _held(capture, own, rows, params)[1])


def _held(capture, own, rows: np.ndarray, params) -> tuple[Examples, str]:
    """What no selection holds: the demo pool's other split where the target is a label, else the target examples."""
    if own is not None:
        return examples_of(own), f"the {len(rows)} target examples"
    other = _other_split(capture.corpus)
    if other is not None:
        t = capture.beside(other.written).tokens
        mine = np.flatnonzero(np.array([str(x) for x in t.labels[params.label]]) == params.task)[:HELD]
        if len(mine):
            found = examples_of(t)
            return Examples(found.ids[mine], found.targets[mine]), f"{len(mine)} samples of the {params.label} from {other.written}"
    pool = examples_of(capture.tokens)
    return Examples(pool.ids[rows], pool.targets[rows]), f"the {len(rows)} target examples"


def _other_split(corpus: Corpus) -> Corpus | None:
    if not corpus.source.startswith("demo/"):
        return None
    return replace(corpus, split="test" if corpus.split == "train" else "train", n_sequences=1024)
