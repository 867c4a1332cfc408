"""What does a merge keep of its parents?

**Methods.** Each is an operator over the models chosen, the first step of a recipe over several: the plain average; the average after B's units have been put
in A's order (by weights, by activations, with a rotated stream); task arithmetic, TIES, Breadcrumbs and PCB, which take the first model for the
base that the others were fine-tuned from; the Fisher average; PLeaS-style partial merging, which keeps the worst-matched units of both and fits by
least squares; and the basis of Reversible Model Merging, from which one parent at a time comes back. Any of their parameters can be
written, `ties:keep=0.3`. A merge is a model like any other: open it in an analysis below, or write it to a folder with `python -m operators export`.

**Loss.** Nats per token of every merge and every parent on the same sequences; 95 % intervals are bootstrapped over sequences. With a second text
both are measured, so that each parent's own data can be looked at. The grey line is the parents' mean: what lies above it is the price of the merge.

**R of the merge with a parent.** Σ_l ⟨U_m V_mᵀ, U_a V_aᵀ⟩ / Σ_l √(r_m r_a) over the weight matrices, of singular vectors with s ≥ γ s_max (Ito, Yamada & Kumagai,
ICLR 2025), scales of norms folded into the matrices, so that rotated and plain merges stand on one footing. The other parents are taken as
they are, and in the merge's own order, found by weight matching; a rotated stream no order undoes. The band holds random orders of the merge. Where a merge has wider matrices
than its parents (PLeaS) there is no R.

**What this does not show.** A merge contains half of A whatever the order, so R with A is never near chance; R with B is what an order changes. Methods that need a base
say nothing about models trained apart: their differences are no directions of a task. A calibration text that a parent was trained on flatters the merge on that text.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.contract import Shape
from analysis.merging.measure import Result, compute
from models.params import param
from models.variant import BETWEEN, Variant, parse
from models.refusal import Refused

__all__ = ["Params", "Result", "compute", "also_of", "answer", "headlines", "figures", "cost"]

TITLE = "Merging"
QUESTION = "What does a merge keep of its parents?"
MODELS = (2, 8)
CORPUS = "demo/mixed:24x128"
METHODS = "average average:align=weights average:align=activations average:align=weights,stream=rotated task_arithmetic ties breadcrumbs pcb fisher pleas reversible"
PAIRS_ONLY = "pleas"


@dataclass(frozen=True)
class Params:
    methods: str = param(METHODS, "Merges, with spaces between", first=True, help="Steps over the models chosen, such as average:align=weights or ties:keep=0.3.")
    gamma: float = param(0.3, "γ = {}", first=True, display=True, low=0.0, high=0.95, help="Singular vectors with s ≥ γ · s_max count in R; in steps of 0.05.")
    second: str = param("", "A second text", help="The written form of a text, for instance what B was trained on; measured beside the first.")
    nulls: int = param(10, "Random orders in the band", low=2, high=1000)
    resamples: int = param(1000, "Bootstrap resamples", low=100, high=100_000)
    seed: int = param(0, "Seed", low=0, high=10**9)


def also_of(variants: tuple[Variant, ...], params: Params) -> tuple[Variant, ...]:
    """The merges of these models, one for each method."""
    names = params.methods.split()
    if not names:
        raise Refused("No merge is asked for; expected steps such as “average ties:keep=0.3”.")
    if len(variants) > 2:  # a method for two models only is left out where more are chosen
        names = [name for name in names if name.partition(":")[0] != PAIRS_ONLY]
    steps = [parse(f"(demo/a{BETWEEN}demo/b)~{name}").steps for name in dict.fromkeys(names)]
    return tuple(Variant("merge", steps=step, parents=tuple(variants)) for step in steps)


def answer(runs) -> str:
    from analysis.merging import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.merging import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.merging import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs of one model's half: losses of all merges, and calibration of those that read text (64 sequences of 128 tokens)."""
    return 0.5 * (n_tokens * (len(params.methods.split()) + 2) + 6 * 8192) * shape.forward_flops
