"""Which blocks does the model not need?

**Similarity.** Block Influence of block i is the mean over tokens of 1 − cos(xᵢ, xᵢ₊₁), where xᵢ is the residual stream into
the block and xᵢ₊₁ the stream after it: 0 when the block leaves every direction as it is, 2 at most (ShortGPT, arXiv
2403.03853). Attention and MLP get the same score with and without what they add, and are ranked together (What Matters in
Transformers, arXiv 2406.15786); in parallel blocks both read the same stream. The angular distance of a span is
arccos(cos)/π between the streams before and after it at each sequence's last token, 0 to 1 (The Unreasonable
Ineffectiveness of the Deeper Layers, arXiv 2403.17887).

**Measured damage.** Each block, attention and MLP is removed alone and the model run on: mean KL(model ‖ model without it) in
nats per token, perplexity, top-1 agreement. Intervals are 95 %, bootstrapped over sequences. ρ is Spearman's rank
correlation between a score and the measured KL, with Bonett and Wright's 95 % interval; its null pairs the same numbers at
random 10,000 times.

**CKA.** Linear CKA between states, HSIC₁ from minibatches of tokens summed before the square roots (arXiv 2010.15327), so
that independent states give 0; beside it the usual biased form on a fixed sample of tokens.

**Spectra.** Matrix entropy H (arXiv 2401.17139), effective rank exp H with p ∝ σ², and Matrix Nuclear-Norm (arXiv 2410.10672).
Each sequence is centred by itself and its rows set to unit length, then the sequences are averaged; the values compare only
at equal sequence length and width.

**What this does not show.** One block at a time: damages of several blocks do not add up. A B is measured against itself with
nothing more removed, not against A. Similarity is not damage: where the two disagree, believe the damage, on this text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.contract import Shape
from analysis.layer_redundancy.measure import MEASURED, Result, compute
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Layer redundancy"
QUESTION = "Which blocks does the model not need?"
MODELS = (1, 1)
CORPUS = "demo/stories:128x128"


@dataclass(frozen=True)
class Params:
    removal_sequences: int = param(32, "{} with removal", first=True, low=2, high=100_000,
                                   help="Sequences on which removals are measured: the first of the corpus; the similarities always use all of it.")
    remove: Literal["everything", "blocks", "nothing"] = param(
        "everything", "removing {}", first=True, help="One at a time: blocks, attention and MLP; every removal is a run of the model from there on.")
    tokens: Literal["all", "after-first"] = param(
        "all", "{} tokens", first=True, display=True, help="First tokens carry huge activations in many models.")
    spectra_sequences: int = param(16, "Sequences with spectra", low=2, high=100_000, unit="sequences")
    cka_batch: int = param(256, "Tokens in a CKA minibatch", low=8, high=4096, unit="tokens")
    resamples: int = param(2000, "Bootstrap resamples", low=100, high=100_000)
    seed: int = param(0, "Seed of the resampling", low=0, high=10**9)


def answer(runs) -> str:
    from analysis.layer_redundancy import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.layer_redundancy import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.layer_redundancy import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs: one pass for the similarities, and n(n−1)/2 blocks and n heads per removed kind on the measured sequences."""
    n, kinds = shape.n_layers, len(MEASURED[params.remove])
    measured = n_tokens * min(1.0, params.removal_sequences / max(n_tokens / 128, 1))
    similarity = shape.block_flops * n + 2 * params.cka_batch * shape.d_model * (n + 1)
    removals = kinds * (shape.block_flops * n * (n - 1) / 2 + shape.head_flops * n)
    return n_tokens * similarity + measured * removals
