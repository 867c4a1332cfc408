"""Which dictionary of features does a site of this model hold?

A sparse autoencoder (SAE) is trained on one site of the model with sae-lens's training classes: topk and batchtopk keep k features, jumprelu
(an L0 penalty), standard and gated (L1) pay for those that fire. Activations are scaled to mean norm √d while it trains and the scale
is folded into the weights at the end; the learning rate warms up, then falls to a tenth over the last fifth. Text to train on is the
training split of the chosen corpus's source, its tokens shuffled in blocks of 64 sequences; the first token of a sequence is left out.

**The numbers** are measured on the chosen corpus: features active per token (L0); explained variance 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²;
cross-entropy recovered (zeroed − spliced) / (zeroed − clean); dead features, which never fire there. Grey is the same SAE untrained
(one step at no learning rate). Intervals are 95 %, bootstrapped over sequences.

**The result** goes on the shelf of SAEs as a sae-lens folder under a name that holds its content's hash, and stands in the lists of the
feature browser and of feature survival from then on. A run can be cancelled and resumed; it ends where an uninterrupted one ends.

**What this does not show.** That the features are the model's own units: another seed finds partly others. Good reconstruction is not meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.contract import Shape
from analysis.sae_training.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "SAE training"
QUESTION = "Which dictionary of features does a site of this model hold?"
MODELS = (1, 1)
CORPUS = "demo/mixed:64x128"
not_in_report = "It trains a dictionary for a model and measures no compression; feature_survival reads one."


@dataclass(frozen=True)
class Params:
    site: Literal["resid_post", "resid_pre", "resid_mid", "mlp_out", "attn_out", "z", "mlp_post"] = param("resid_post", "site {}", first=True)
    layer: int = param(-1, "block {}", first=True, low=-1, high=1023, help="−1: the middle one.")
    width: int = param(768, "{} features", first=True, low=2, high=1 << 20)
    architecture: Literal["topk", "batchtopk", "jumprelu", "standard", "gated"] = param("topk", "Architecture")
    k: int = param(16, "Active features (topk, batchtopk)", low=1, high=4096)
    penalty: float = param(1.0, "Price of sparsity (the others)", low=0.0, high=1e6)
    tokens: int = param(200_000, "Tokens to train on", low=100, high=10**10)
    batch: int = param(1024, "Tokens in a batch", low=2, high=1 << 16)
    rate: float = param(1e-3, "Learning rate", low=0.0, high=1.0)
    train_sequences: int = param(1024, "Sequences to train on at most", low=2, high=100_000)
    seed: int = param(0, "Seed", low=0, high=10**6)


def answer(runs) -> str:
    from analysis.sae_training import drawing

    return drawing.answer(runs)


def headlines(runs) -> tuple:
    from analysis.sae_training import drawing

    return drawing.headlines(runs)


def figures(runs) -> list:
    from analysis.sae_training import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs: the model over half its blocks and three passes through both of the SAE's matrices for each token; eight forwards of the text."""
    return params.tokens * (0.5 * shape.forward_flops + 12.0 * shape.d_model * params.width) + 8 * n_tokens * shape.forward_flops
