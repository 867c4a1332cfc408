"""Do two networks learn the same units?

A and B read the **same tokens**; the units are those of the MLPs, after the activation, compared block by block. After Li, Yosinski, Clune, Lipson &
Hopcroft, “Convergent Learning” (ICLR 2016, arXiv 1511.07543), which looked at convolutional networks.

**One partner each.** Pearson’s r between every unit of A and every unit of B over tokens, signed. *One to one*: the assignment with the largest Σ r, no
unit of B twice. *Best each*: the unit of B with the highest r, repeats allowed. Where the two agree, units are shared; where the best is much higher, several units of A
want the same one of B.

**A few units instead of one.** A unit of B is predicted from units of A: the lasso path (LARS) says which enter first, least squares on the first 1, 2, 3, … of them predicts.
Explained variance is 1 − Σ(y − ŷ)² / Σ(y − ȳ)². Where a few units do much better than one, both networks span the same directions with other basis vectors.

**Groups.** Spectral clustering of the bipartite graph of A’s and B’s units with weights |r|: groups of units of both that go together.

**Decided and measured apart.** Partners, predictors and groups are chosen on the first half of the sequences; r, explained variance and the groups’ |r| are measured on the second. Intervals
are 95 %, bootstrapped over those sequences.

**Controls.** *Shuffled*: B’s tokens in random order within each batch, everything else the same: what luck alone gives. *Untrained*: a network of B’s shape with fresh weights: what reading the same tokens gives
without learning. *Random groups*: the same sizes, members at random.

**What the paper found** (its abstract): some features are learned reliably in multiple networks, others are not; units span low-dimensional subspaces that are common to networks, while
the basis vectors are not.

**What this does not show.** Correlated units need not do the same job, and a unit with a partner may still be written into the stream elsewhere. Nonlinear relations are not seen. Wide
MLPs are sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.contract import Shape
from analysis.convergent_learning.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Convergent learning"
QUESTION = "Do two networks learn the same units?"
MODELS = (2, 2)
CORPUS = "demo/mixed:64x128"


@dataclass(frozen=True)
class Params:
    groups: int = param(16, "{} groups", first=True, low=2, high=200, help="Of units of both networks, in every block.")
    untrained: bool = param(True, "untrained control", first=True, help="A network of B's shape with fresh weights: one more run.")
    units: int = param(1024, "Units of a block at most", low=8, high=8192, help="A random sample where the MLP is wider; memory grows with its square.")
    predicted: int = param(96, "Units of B predicted from A, per block", low=4, high=8192)
    resamples: int = param(1000, "Bootstrap resamples", low=100, high=100_000)
    seed: int = param(0, "Seed of samples, controls, groups and resampling", low=0, high=10**9)


def answer(runs) -> str:
    from analysis.convergent_learning import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.convergent_learning import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.convergent_learning import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs of this model's share: two reads of the text (A's, and B's with its control), the joint moments, and the paths, whose steps in Python weigh more than their arithmetic."""
    d = min(shape.d_mlp, params.units)
    moments = n_tokens * shape.n_layers * 2.0 * (2 * d) ** 2
    return n_tokens * shape.forward_flops * (2.0 if params.untrained else 1.5) + moments + shape.n_layers * params.predicted * 850.0 * d * d
