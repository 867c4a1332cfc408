"""Matching the two demo models, one assignment of 4,096 units against SciPy alone, and the cost matrices of a model in one pass.

    python -m benchmarks.alignment
"""

from __future__ import annotations

import time

import torch
from scipy.optimize import linear_sum_assignment

from metrics.permutation.matching import assign, gains, weight_matching
from metrics.permutation.spec import identity
from metrics.permutation.transformer import symmetry_of
from models import checkpoints
from models.home import home
from models.layout import layout_for
from models.loaded import Model

UNITS, REPEATS = 4096, 3


def model(name: str) -> Model:
    module, tokenizer = checkpoints.load(checkpoints.resolve(f"demo/{name}", home()), "float32", "cpu")
    return Model(module, tokenizer, layout_for(module.config), name)


def timed(work) -> tuple[float, float]:
    """(seconds, CPU seconds) of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    a, b = model("storyteller-a"), model("storyteller-b")
    symmetry = symmetry_of(a)
    one, other = symmetry.pieces(a), symmetry.pieces(b)
    wall, cpu = timed(lambda: weight_matching(symmetry.spec, one, other))
    print(f"matching the demo models: {wall:.1f} s, {cpu:.1f} CPU s (at most 20 s on 2 cores)")
    every, cpu = timed(lambda: [gains(symmetry.spec, one, other, identity(symmetry.spec), block) for block in symmetry.spec.blocks])
    print(f"cost matrices of all {len(symmetry.spec.blocks)} blocks, each piece read once for each of its axes: {1000 * every:.0f} ms, {1000 * cpu:.0f} CPU ms")
    x = torch.randn(UNITS, UNITS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = zip(*((timed(lambda: assign(x))[1], timed(lambda: linear_sum_assignment(x.numpy(), maximize=True))[1]) for _ in range(REPEATS)))
    ratios = sorted(o / t for o, t in zip(ours, theirs))
    print(f"one assignment of {UNITS} units: {min(ours):.2f} CPU s, SciPy alone {min(theirs):.2f}; ratio {ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) (at most 1.1)")


if __name__ == "__main__":
    main()
