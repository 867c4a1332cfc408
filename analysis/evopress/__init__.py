"""Which matrices can do with less, at the same number of bits?

An operator is applied at several levels; the search gives every matrix or block one of them, so that the model is as near to the original
as it can be while it takes exactly the bits of one level everywhere.

**Levels.** Each level is an ordinary variant of the model (its Plan is kept and used again); a matrix at a level is the one of that variant.

**Search.** After EvoPress: offspring raise some units and lower others by exactly as many bits; they are compared by KL(original ‖ mixture)
on growing shares of the sequences that are searched, the parent joins the last comparison. The paper's numbers of generations and offspring
are for larger models; these are smaller and yours to set.

**Held out.** Every second sequence is searched on, the others are for the comparison in the answer.

**Controls**, all at the same bits: the level everywhere, random assignments, and the additive choice: the assignment whose *sum* of
single-unit KLs is smallest, each measured alone. If damages added up, that would be the best there is.

**Predicted against measured.** The sum of single-unit KLs beside the KL that was measured; the diagonal is additivity.

**What this does not show.** The best assignment on one text is not the best on another; an evolution of this size finds a good one. Bits are
as the operator stores them; nothing here is a speed. The found assignment opens as a variant (mixed_levels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.contract import Shape
from analysis.evopress.measure import Result, compute
from models.params import param
from models.refusal import Refused
from models.variant import Step, Variant

__all__ = ["Params", "Result", "also", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Levels by search"
QUESTION = "Which matrices can do with less, at the same number of bits?"
MODELS = (1, 1)
not_in_report = "It searches for a compression and measures none that was made."
CORPUS = "demo/mixed:24x64"


@dataclass(frozen=True)
class Params:
    operator: str = param("round_to_nearest", "{}", first=True, help="Any operator that changes matrices one by one, such as gptq, hqq, wanda, low_rank")
    levels: str = param("8/4/3/2", "levels {}", first=True, help="Values of its dial, such as 8/4/3/2 or 0.3/0.5/0.7; keep leaves a matrix as it is")
    target: str = param("3", "budget of {}", first=True, help="The level whose bits, were it everywhere, are the budget")
    unit: Literal["matrix", "block"] = param("matrix", "one level a {}", first=True)
    generations: int = param(20, "{} generations", first=True, low=0, high=100_000)
    offspring: int = param(12, "Offspring in a generation", low=1, high=4096)
    dial: str = param("bits", "The operator's dial", help="The parameter that the levels are values of, such as bits, sparsity or keep")
    more: str = param("", "Its other parameters", help="Such as group:16;symmetric:true")
    on: str = param("", "Calibration text", help="Empty: the usual one, where the operator reads text at all")
    controls: int = param(20, "Random assignments", low=1, high=10_000)
    resamples: int = param(1000, "Bootstrap resamples", low=100, high=100_000)
    seed: int = param(0, "Seed of search, controls and resampling", low=0, high=10**9)


KEEP = "keep"


def also(variant: Variant, params: Params) -> tuple[Variant, ...]:
    """The model at each level; at keep it is the model itself."""
    from analysis import run  # which lists this module too

    run.operators.mixed_levels.inner(run.operators.mixed_levels.Params(of=params.operator))  # refused where levels cannot be mixed
    levels = params.levels.split("/")
    if len(levels) < 2 or len(set(levels)) < len(levels):
        raise Refused(f"levels={params.levels[:60]} should be two or more different values, such as 8/4/3/2.")
    if params.target not in levels:
        raise Refused(f"The budget {params.target[:20]} is none of the levels {params.levels[:60]}; choose one of them.")
    pairs = [tuple(p.split(":", 1)) for p in filter(None, params.more.split(";"))]
    if any(len(p) != 2 for p in pairs):
        raise Refused(f"“{params.more[:60]}” is not written like group:16;symmetric:true.")
    return tuple(variant if level == KEEP else variant.then(Step(params.operator, ((params.dial, level), *pairs), params.on or None)) for level in levels)


def answer(runs) -> str:
    from analysis.evopress import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.evopress import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.evopress import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs: every unit at every level alone, the generations on growing shares, the controls on the other half."""
    units = shape.n_layers * (4 if params.unit == "matrix" else 1)
    singles = units * len(params.levels.split("/"))
    return n_tokens / 2 * shape.forward_flops * (singles + params.generations * (params.offspring / 4 + 4) + params.controls)
