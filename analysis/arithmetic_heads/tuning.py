"""Precise tuning compared: the first heads of the ranking, random heads, every matrix; the same steps on the same prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from analysis.arithmetic_heads import reading
from analysis.arithmetic_heads.scan import Scan
from metrics import head_tuning
from metrics.bootstrap import ratio_interval
from metrics.patching.knocked import text_accuracy
from metrics.patching.ranking import label
from metrics.prompts.arithmetic_set import correct, some
from metrics.prompts.wordings import OPERATORS
from models.loaded import Model

RANDOM = 3  # draws of random heads
TESTED = 400  # prompts of each test set, at most
SETS = ("trained problems, new wordings", "problems never trained, new wordings", "control: next token")


@dataclass(frozen=True, eq=False)
class Tuning:
    """Axes: arm is before, the ranked heads, each draw of random heads, every matrix; set as in SETS. accuracy [arm, set, 3] with its
    95 % interval over prompts or sequences; loss [arm − 1, step] nats; arm_heads names, arm_weights how many weights were trained."""

    arms: tuple[str, ...]
    arm_heads: tuple[str, ...]
    arm_weights: np.ndarray
    tuned_accuracy: np.ndarray
    tuned_n: np.ndarray  # [set]
    loss: np.ndarray
    steps: int


NOTHING = Tuning((), (), np.zeros(0), np.zeros((0, len(SETS), 3)), np.zeros(len(SETS)), np.zeros((0, 0)), 0)


def tuned(capture, model: Model, scan: Scan, params, progress) -> Tuning:
    if params.tuning == "off":
        return NOTHING
    wanted = {name: getattr(params, name) for name in ("prompts", "operators", "largest", "null", "top", "tuning_steps", "tuning_rate", "resamples", "seed")}
    return capture.keep_plan("arithmetic tuning", wanted, lambda part: compare(capture, model, scan, params, part), Tuning, progress)


def compare(capture, model: Model, scan: Scan, params, progress) -> Tuning:
    operators = OPERATORS if params.operators == "all" else (params.operators,)
    examples = head_tuning.of_prompts(some(model, operators, 4096, params.largest, params.seed, validation=False, shown=True))
    asked = [some(model, operators, TESTED, params.largest, params.seed, validation=True, shown=shown) for shown in (True, False)]
    rows, losses = [_tested(capture, model, asked, params)], []
    arms = _arms(model, scan, params)
    for i, (name, _, parts, scale) in enumerate(arms):
        seen = _Watched(progress.part(name), i, len(arms))
        values = head_tuning.tune(model, parts, examples, steps=params.tuning_steps, batch=32, rate=params.tuning_rate, scale=scale, seed=params.seed,
                                  progress=seen, name=name)
        after = model.copy(name)
        head_tuning.put(after, parts, values)
        rows.append(_tested(capture, after, asked, params))
        losses.append(seen.losses)
    width = max(map(len, losses), default=0)
    loss = np.array([[np.nan] * (width - len(x)) + x for x in losses], np.float64).reshape(len(arms), width)
    n = np.array([*(len(a) for a in asked), int(capture.keep[:, 1:].sum())])
    return Tuning(("before", *(a[0] for a in arms)), ("", *(a[1] for a in arms)), np.array([0, *(head_tuning.n_tuned(model, a[2]) for a in arms)]),
                  np.array(rows), n, loss, params.tuning_steps)


class _Watched:
    """The progress of one arm among several, which also keeps its losses. A resumed arm starts its curve where it goes on."""

    def __init__(self, progress, arm: int, arms: int):
        self.progress, self.arm, self.arms, self.losses = progress, arm, arms, []

    def step(self, i: int, n: int, message: str = "", live: dict | None = None) -> None:
        self.losses += list((live or {}).values())
        self.progress.step(self.arm * n + i, self.arms * n, message, live)

    def save(self, state: dict, force: bool = False) -> None:
        self.progress.save(state, force)

    def saved(self) -> dict | None:
        return self.progress.saved()


def _arms(model: Model, scan: Scan, params) -> list[tuple]:
    """(name, heads in words, parts, factor of the gradients) of every arm."""
    ranked = [(int(scan.blocks[i]), h) for i, h in reading.ranked(scan, 0)]
    top = tuple(ranked[: params.top])
    others = ranked[params.top :]
    draws = [tuple(others[j] for j in np.random.default_rng([params.seed, d]).permutation(len(others))[: params.top]) for d in range(RANDOM)]
    named = [(f"{len(top)} ranked heads", top), *[(f"{params.top} random heads, draw {d + 1}", heads) for d,
                                                  heads in enumerate(draws) if len(heads) == params.top]]
    arms = [(name, ".".join(label(*h) for h in heads), head_tuning.head_parts(model, heads), len(ranked) / len(heads)) for name, heads in named]
    return [*arms, ("every matrix", "all", head_tuning.whole_parts(model, "all", model.layers), 1.0)]


def _tested(capture, model: Model, asked: list, params) -> np.ndarray:
    """[set, 3] accuracy with its interval."""
    found = [np.stack(ratio_interval(np.array(correct(model, prompts), float), np.ones(len(prompts)), params.resamples, params.seed)) for prompts in asked]
    nothing = torch.zeros(len(model.layers), 1, dtype=torch.bool)
    counts = text_accuracy(model, capture.ids, capture.keep, torch.zeros_like(capture.keep), nothing, nothing).numpy()
    return np.array([*found, np.stack(ratio_interval(counts[:, 0], counts[:, 1], params.resamples, params.seed))])
