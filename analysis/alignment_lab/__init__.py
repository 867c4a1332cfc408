"""Are two perceptrons trained apart the same one with its units renamed?

**Networks.** Multilayer perceptrons with ReLU, trained apart in pairs from different initial weights and orders of samples; Adam, constant rate, no batch norm. Each pair is
one repeat; dots are pairs, lines their mean, and bars span their range.

**Orders.** The units of each of B's hidden layers are put in another order, which leaves B the same function. *weights*: nearest to A, by coordinate descent over linear
assignment problems (Git Re-Basin, ICLR 2023). *activations*: units that correlate most on training images, one assignment a layer. *learned*: from near the
identity, the order that lowers the loss of the merged network on training images (Sinkhorn’s gradient, assignment forward; after Peña et al., CVPR 2023).
*random order*: the control.

**Barrier.** L(λ) is the loss of λ a + (1 − λ) π(b) on test images; the barrier is the largest L(λ) − (λ L(a) + (1 − λ) L(b)), never below 0, or its value at
the midpoint. The second-order estimate puts gradients and Hessians of both ends (on training images) in place of the loss between them.

**Alignment of singular vectors.** R = Σ_l ⟨polar factor of A’s W_l, that of π(b)’s⟩ / Σ_l √(r_a r_b), 1 where they are the same; with γ only singular vectors with
s ≥ γ s_max count (Ito, Yamada & Kumagai, ICLR 2025). The grey band holds random orders of B. At γ > 0 it does not lie at 0: all first layers share the mean direction of images. An order that was
searched for has another null, dotted: weight matching of A with matrices that have B’s singular values and random singular vectors. Two untrained networks reach it too.

**Which directions.** Weight matching is run again on matrices rebuilt from their large singular values only, and from the small ones only; then all weights are merged in that order.

**Three networks.** Mixtures of three; all ordered to the first, or by MergeMany, where each is matched to the mean of the others.

**What this does not show.** That two units are partners does not make them the same: pairwise orders of three networks disagree on most units, with low barriers
all the same. Digits are easy: the distance falls further here (a quarter to two fifths) than the 6–20 % that reviews of the paper report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.alignment_lab.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Alignment lab"
QUESTION = "Are two perceptrons trained apart the same one with its units renamed?"
MODELS = (0, 0)
CORPUS = None
INPUTS = "images"


@dataclass(frozen=True)
class Params:
    images: str = param("digits", "Images", first=True, help="“digits” (1,797 of 8 × 8 pixels, always there), or the name of a file that was added below.")
    gamma: float = param(0.3, "γ = {}", first=True, display=True, low=0.0, high=0.95, help="Singular vectors with s ≥ γ · s_max count in R; in steps of 0.05.")
    repeats: int = param(3, "{} pairs", first=True, low=2, high=20)
    width: int = param(64, "Width", low=4, high=1024)
    widths: tuple[int, ...] = param((8, 16, 32, 128), "Further widths, with dots between", low=4, high=1024)
    hidden: int = param(2, "Hidden layers", low=1, high=6)
    epochs: int = param(60, "Epochs", low=1, high=400)
    learn_steps: int = param(120, "Learning steps", low=0, high=10_000, help="Of the learned order; 0 leaves it out.")
    train_images: int = param(1297, "Training images", low=20, high=60_000)
    test_images: int = param(500, "Test images", low=20, high=10_000)
    decay: int = param(0, "L2 as a power of ten, 0 for none", low=-9, high=0)
    optimizer: Literal["adam", "adamw", "sgd"] = param("adam", "Optimiser")
    lr: float = param(1e-3, "Learning rate", low=1e-6, high=10.0)
    batch: int = param(64, "Images in an update", low=2, high=60_000)
    points: int = param(25, "Points on the path", low=3, high=201)
    split: float = param(0.3, "Large singular values are at least … of the largest", low=0.01, high=0.99)
    nulls: int = param(20, "Random orders in the band", low=2, high=1000)
    seed: int = param(0, "Seed", low=0, high=10**6)


def answer(runs) -> str:
    from analysis.alignment_lab import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.alignment_lab import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.alignment_lab import drawing

    return drawing.figures(runs)


def cost(shape, n_tokens: int, params: Params) -> float:
    """FLOPs: three products per weight, image and epoch of every network, with small layers far below a machine's best."""
    weights = sum(64 * w + (params.hidden - 1) * w * w + 10 * w for w in {*params.widths, params.width})
    return 2 * params.repeats * params.epochs * params.train_images * (6.0 * weights + 40_000 * len({*params.widths, params.width}))
