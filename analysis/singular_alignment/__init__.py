"""Are two networks the same one with its units renamed, and which directions say so?

**Orders.** The units of B are put in another order, which leaves B the same function: MLP units, attention heads with the units inside
them, channels of the residual stream. Rotary positions hold the units of Q and K in place; a query head stays with its K and V. Before
anything is measured a random legal order is tried on A: its logits may not change.

- *weights*: the order in which B's weights lie nearest to A's, by coordinate descent over linear assignment problems (Git Re-Basin,
  arXiv 2209.04836), heads in two levels. From the fixed side (the vocabulary) outward first, then in random order until nothing is gained.
- *activations*: the order in which units fire alike on the text, one assignment each (correlation, or E[ab]).
- *learned*: from weight matching on, the order that lowers the loss of the merged model: assignment forward, Sinkhorn’s gradient
  backward (after Peña et al., CVPR 2023).
- *random order*: the control.

**Stream.** Permuted like the rest; or rotated, with the scales of all norms folded into the matrices that read them (any rotation under
RMSNorm, under LayerNorm those that keep the all-ones direction; tied embeddings come apart); or left fixed.

**Barrier.** L(λ) is the loss of λ a + (1 − λ) π(b). The barrier is the largest L(λ) − (λ L(a) + (1 − λ) L(b)) over the path, never
below 0; at the midpoint it may be negative. Intervals are 95 %, bootstrapped over sequences. Orders are fitted on the first sequences, losses
are of the others.

**Alignment of singular vectors.** W = U S Vᵀ; reordering units changes U and V, never S. R = Σ_l Σ_ij (uᵃ_i · P uᵇ_j)(vᵃ_i · P′ vᵇ_j) / Σ_l √(r_a r_b)
over all weight matrices, 1 where the polar factors are the same, about 0 by chance; with γ only vectors with s ≥ γ · s_max count (Ito, Yamada &
Kumagai, ICLR 2025, arXiv 2402.04051; its rule for unequal counts was not at hand, the square root is ours). The grey band holds all random orders. An order that
was searched for has another null, dotted: weight matching of A with matrices that have B’s singular values and random singular vectors.

**Which directions.** Weight matching is run again on matrices rebuilt from their large singular values only, and from the small ones only.
The second-order estimate puts gradients and Hessians of both ends in place of the loss between them.

**What the literature found.** The paper’s abstract: weight matching does not reduce the distance much; it mainly aligns vectors of large singular values. In
Theus et al. (NeurIPS 2025) independently trained GPT-2s on Tiny Shakespeare keep a barrier of 0.63 nats with learned permutations and 0.34 after weight
matching with a rotated stream (2.02 without any). So no order may be expected to bring the barrier of two transformers to zero.

**What this does not show.** A unit and its partner need not do the same job: pairwise orders of three models hardly agree with each other. A low barrier is not
alignment: the learned order lowers the loss with R near chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.contract import Shape
from analysis.singular_alignment.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Singular-vector alignment"
QUESTION = "Are two networks the same one with its units renamed?"
MODELS = (2, 8)
CORPUS = "demo/mixed:40x128"


@dataclass(frozen=True)
class Params:
    stream: Literal["permuted", "rotated", "fixed"] = param("permuted", "stream {}", first=True, help="What may be done to B's residual stream; rotation folds all norms first.")
    gamma: float = param(0.3, "γ = {}", first=True, display=True, low=0.0, high=0.95, help="Singular vectors with s ≥ γ · s_max count in R; in steps of 0.05.")
    learn_steps: int = param(40, "{} learning steps", first=True, low=0, high=100_000, help="Of the learned order; 0 leaves it out.")
    fit: int = param(16, "Sequences to fit on", low=1, high=100_000, unit="sequences", help="The first of the corpus: activations, the learned order and the second-order estimate see them, losses do not.")
    statistic: Literal["correlation", "inner product"] = param("correlation", "Activations are compared by")
    points: int = param(25, "Points on the path", low=3, high=201)
    split: float = param(0.3, "Large singular values are at least … of the largest", low=0.01, high=0.99)
    nulls: int = param(20, "Random orders in the band", low=2, high=1000)
    resamples: int = param(1000, "Bootstrap resamples", low=100, high=100_000)
    seed: int = param(0, "Seed", low=0, high=10**9)


def answer(runs) -> str:
    from analysis.singular_alignment import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.singular_alignment import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.singular_alignment import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs of this model's half: the path's losses, learning steps (three forwards' worth each, in float32 with the plain attention), slopes and curvatures,
    and six searches of about ten sweeps: the order by weights, its two cuts, and the null of the search."""
    methods = 4 + (params.learn_steps > 0)
    per_token = shape.forward_flops
    learn = 4 * params.learn_steps * 128 * 3 * per_token
    searches = 6 * 10 * shape.n_layers * 4.0 * shape.d_mlp**2 * shape.d_model
    return 0.5 * (n_tokens * (methods * params.points + 4) * per_token + learn + methods * 2 * 1024 * 9 * per_token + searches)
