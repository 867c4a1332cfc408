"""Which few weights are enough to turn a token into its usual successor?

A **bigram subnetwork** is a subset of the weights such that, with all other attention and MLP weights zero, the model gives
P(next | previous) (Chang & Bergen 2025, “Bigram subnetworks: mapping to next tokens in transformer language models”, arXiv
2504.15471). Embeddings, unembedding, norms and biases always stay, so the **empty** subnetwork already predicts something: it
stands beside every number, and so do random subnetworks with the same count in every matrix.

**Target.** P = count / total on text that shares nothing with the measured one, by the model's own tokenizer, no smoothing; a
token never seen as previous gets the unigram. The demo world's arithmetic and canaries are enumerated exactly.

**Training.** One logit m per weight, weight used as w·σ(T·m), weights frozen; cross-entropy to P plus λ/n · Σσ(T·m) over n
weights; T grows every step; the mask is m > 0. λ does not carry over between sizes: λ/n is the price of one weight. The
preset “paper” is the paper's (15,000 steps of 32 sequences, rate 5·10⁻⁵, growth 1.001), “small” is tuned for models of a few
million weights. The **optimal** subnetwork is trained the same way on the model's own predictions.

**r** is Pearson's correlation between the surprisals −log₂ p of the true next tokens under the model and under the table. Pairs
the table has never seen have infinite surprisal: they are dropped (and counted), or set to the largest finite one. Intervals
are 95 %, bootstrapped over sequences; of random draws the mean and the range. The subnetwork looked at in detail is the
sparsest whose r is within 0.04 of the one with the smallest λ (the paper's rule).

**Where.** Share of the subnetwork in each block and component, and how many of a component's weights are kept. Fused Q, K, V
are taken apart as the architecture stores them; in GPT-NeoX they alternate head by head, which the paper's code does not
follow, so its Q, K / V, O split for Pythia may differ from this one.

**Overlap.** Expected count when each mask lies at random within each matrix (hypergeometric, exact mean and spread); beside it
the paper's code's null, which shuffles whole rows.

**Rotation.** Ridge maps from each state to the raw token embedding and to the last state before the final norm; the median
over eigenvalues of |arg|, in degrees. **Covariance similarity**: Frobenius cosine of covariances without their first direction.

**What this does not show.** That the model makes bigram predictions on its way. Sufficient (alone it predicts bigrams) and
necessary (without it the model breaks, more than without random weights) do not make it the only such subset. r does not say
where bigrams are stored: much is in the embeddings (see the controls). The first token of a cut piece of text is not scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.bigram_subnetwork.measure import Result, compute
from analysis.bigram_subnetwork.wanted import PRESETS, also, numbers, schedule_of
from analysis.contract import Shape
from models.params import param

__all__ = ["Params", "Result", "also", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Bigram subnetwork"
QUESTION = "Which few weights are enough to turn a token into its usual successor?"
MODELS = (1, 1)
CORPUS = "demo/stories:32x128"
report_params = {"penalties": "0 100", "optimal": "", "draws": 1, "new_tokens": 0}


@dataclass(frozen=True)
class Params:
    penalties: str = param("0 10 100 300", "λ of the sweep", first=True,
                           help="Prices of a weight, separated by spaces; the loss has λ/n · Σ mask. Empty: train none (with an imported mask).")
    optimal: str = param("10 100", "λ of the optimal subnetworks", help="Trained on the model's own predictions; empty: none.")
    preset: Literal["small", "paper"] = param("small", "{} preset", help="Steps, batch, rate and growth that fit together; numbers under More override it.")
    steps: int = param(0, "Steps at most (0: the preset's)", low=0, high=100_000)
    rows: int = param(0, "Sequences in a batch (0: the preset's)", low=0, high=1024)
    rate: float = param(0.0, "Learning rate of the mask logits (0: the preset's)", low=0.0, high=10.0)
    growth: float = param(0.0, "Growth of T per step (0: the preset's)", low=0.0, high=2.0)
    decay: float = param(0.01, "Weight decay of the mask logits", low=0.0, high=1.0)
    start: float = param(0.0, "Mask logit at the start", low=-10.0, high=10.0, help="0: every mask begins at one half, as in the paper.")
    settled: float = param(0.01, "Stop when undecided masks are fewer than this share of the open ones", low=0.0, high=1.0)
    train_sequences: int = param(2_000, "Sequences to train on at most", low=2, high=50_000)
    count_tokens: int = param(500_000, "Tokens to count at most", low=1_000, high=100_000_000)
    target: str = param("", "Text to count and to train on", help="A written corpus; empty: the same source, apart from what is measured.")
    table: Literal["exact where possible", "counted"] = param("exact where possible", "Bigram table", help="Arithmetic and canaries of the demo world can be enumerated.")
    draws: int = param(3, "Random-matched draws", low=1, high=100)
    geometry_sequences: int = param(16, "Sequences for rotations and lens", low=2, high=10_000)
    controls: bool = param(False, "Embedding controls", help="Also train λ = 0 masks on a random body, with and without the trained embeddings.")
    along: str = param("", "Checkpoints along the run", help="“run”: the shipped checkpoints of this model; or written models or hub revisions such as @step1000, separated by spaces.")
    masks: str = param("", "Imported mask", help="Name of a mask file added below, such as masks/pythia-160m-1a2b3c.")
    prompt: str = param("", "Prompt", help="Empty: the first words of the measured text.")
    new_tokens: int = param(32, "Tokens to generate", low=0, high=512)
    heat: float = param(0.3, "Temperature of the generation", low=0.0, high=10.0)
    seed: int = param(0, "Seed", low=0, high=10**6)
    resamples: int = param(2_000, "Bootstrap resamples", low=100, high=100_000)
    slack: float = param(0.04, "within {} of the best r", first=True, display=True, low=0.0, high=1.0, help="The sparsest subnetwork this close to the smallest λ's r is looked at in detail.")
    unseen: Literal["dropped", "clipped"] = param("dropped", "Pairs that the table has never seen", display=True)


def answer(runs) -> str:
    from analysis.bigram_subnetwork import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.bigram_subnetwork import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.bigram_subnetwork import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs: three forwards a step and mask (the stop rule ends most trainings at seven tenths), and every scored forward."""
    s = schedule_of(params)
    bigram, optimal = len(numbers(params.penalties)), len(numbers(params.optimal))
    models = 1 + len(params.along.split()) * (3 if params.along == "run" else 1)
    masks = models * bigram + optimal * 4 / 3 + 2 * params.controls
    training = masks * 0.7 * s.steps * s.rows * 128 * 3 * shape.forward_flops
    passes = 2 + (bigram + optimal) * (2 + 2 * params.draws) + 2 * (1 + 2 * bigram) * min(1.0, params.geometry_sequences * 128 / max(n_tokens, 1))
    return training + passes * n_tokens * shape.forward_flops
