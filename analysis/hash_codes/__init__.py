"""Which units does each token switch on, and how much does that pattern alone know?

**Sign code.** For each unit of each MLP one bit: pre-activation > threshold (0), at `mlp_pre`; in a gated MLP the gate's bit and, as
a second plane, the bit of the other half (`mlp_up`). One code per token, per last token, or per sequence (bits that are on for more than half of its
tokens). Site, threshold and number format are part of a code: another format flips bits, and the page says what share of
pre-activations lies within 0.001 of the threshold. Position 0 is never coded.

**What a sign code is not.** He et al. (Neural networks behave as hash encoders, arXiv 2101.05490) code the activation regions of ReLU
networks, on each of which the network is one affine map. With GELU or SiLU a unit that is off still writes a little, and attention
and normalisation are not affine either, even with ReLU; so these are *sign codes*, a routing pattern, and no linear regions.

**R** = (n − number of different codes) / n. A causal model gives equal prefixes equal codes by construction, so R is also taken
without tokens whose whole prefix has been read before. With hundreds of bits R is 0 or nearly so; it is told for few bits of each
layer, drawn at random, too. Effective bits: those of a random hash with this R at this n.

**What codes know.** k-NN (k = 9, Hamming) and least squares on one-hot labels (ridge), fitted on half of the sequences of each class, scored on
the other half; 95 % intervals over sequences. Beside them: the pre-activations themselves, random hyperplanes on the
MLP's input with as many bits, an untrained network of the same shape, the most frequent class, and the same codes with shuffled labels.

**Contextual sparsity.** Magnitude: share of |mlp_post| at most τ times its root mean square. A linear predictor, optionally of low rank, reads the
stream one block earlier (the first block: its own) and guesses each unit's bit; fitted on the first half of the text. *Precision*: of those
said to be off, how many are; *recall*: of those off, how many were said to be. Control: a guess from each unit's on-fraction alone. Then units predicted
off are set to zero while the model runs, the predictor reading the masked model: KL(model ‖ masked) in nats per token, beside
as many units at random, as many of the smallest, and all that are truly off.

**Attention.** Of the k keys with the largest q · k, the share found among the k nearest in Hamming distance. Only random projections have P(bit
differs) = angle/π; signs of the raw coordinates are no such hash. Subtracting the mean key leaves the order of q · k as it is and is shown as a third way.

**B.** Codes of both models at the same tokens: share of bits that flip per block, and how many of each unit's nine neighbours stay.

**What this does not show.** That a label can be read off codes does not say that the model uses it. Prediction of signs saves nothing by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.contract import Shape
from analysis.hash_codes.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Activation-hash codes"
QUESTION = "Which units does each token switch on, and what does the pattern alone know?"
MODELS = (1, 1)
CORPUS = "demo/mixed:256x64:padded"


@dataclass(frozen=True)
class Params:
    unit: Literal["token", "last token", "sequence"] = param("token", "one code per {}", first=True, help="What is coded; a sequence's bit is on where it is for more than half of its tokens.")
    passage: str = param("", "Passage to find neighbours of", first=True, help="Empty: the row of the text chosen under More.")
    layer: int = param(-1, "Block whose codes find neighbours", low=-1, high=999, help="−1: all blocks side by side.")
    row: int = param(0, "Row of the text, where no passage is given", low=0, high=99_999)
    position: int = param(-1, "Its token", low=-1, high=8_191, help="−1: the last.")
    up: bool = param(True, "With the other half of gated MLPs", help="Codes of gate and up side by side; without, the gate alone.")
    threshold: float = param(0.0, "On above a pre-activation of", low=-100.0, high=100.0)
    label: str = param("", "Label that probes read", labels=True, help="One of the text’s labels: of a JSONL file every field beside its text. By itself: the strand of demo texts, else the first with 2 to 20 classes.")
    units: int = param(2048, "Units probed and searched", low=16, high=20_000, help="Tokens or sequences drawn from the text.")
    rank: int = param(0, "Rank of the sign predictor", low=0, high=4096, help="0: full.")
    sparsity_sequences: int = param(16, "Sequences with masked units", low=1, high=10_000, unit="sequences")
    attention_sequences: int = param(8, "Sequences with attention", low=1, high=10_000, unit="sequences")
    keys: int = param(8, "Keys found by attention codes", low=1, high=512)
    bits: Literal[8, 16, 32, 64, 128, 256] = param(64, "Bits of attention codes", display=True, slider=True, help="Changes the view of attention only; nothing is computed again.")
    seed: int = param(0, "Seed", low=0, high=10**6)


def answer(runs) -> str:
    from analysis.hash_codes import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.hash_codes import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.hash_codes import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs: two coding passes with hyperplanes, the predictor's sums and scores, and sixteen masked runs of the sequences asked for."""
    few = min(1.0, params.sparsity_sequences * 64 / max(n_tokens, 1))
    return n_tokens * (4 * shape.block_flops * shape.n_layers + few * 17 * 2 * shape.forward_flops)
