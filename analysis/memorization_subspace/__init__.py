"""Is what the model has by heart kept in one small subspace?

**Extracted.** A passage counts as memorized where greedy decoding from its prefix gives its suffix token by token. Beside it stand
strings of the same shape that were never trained: the demo world's controls, or a text's own passages with their tokens shuffled.
A list of one's own is text (a paragraph each) or JSONL with `text`, or with `prefix` and `suffix`; `repeats` and `kind` are read.

**Located.** Per block, W is the feed-forward output projection [d_model, d_mlp] and ‖X_j‖ the root mean square of its input j over
the positions that predict a memorized suffix. Located is a weight with |W_ij| · ‖X_j‖ among the top `share` of its output row *and*
‖X_j‖ larger than on the base text, which is named on the page: natural text, same-format strings never trained on, or the empty
prompt. Whole neurons are ranked by ‖w_j‖ · (‖X_j‖ memorized − base), or by the scores of metrics/attribution.py, which read no base
and at most eight passages of a half. The share is an upper bound; the real density is reported.

**Shared?** The memorized passages are split at random into two halves, three times. Half 1 locates; half 2 is held out. If both fall
when half 1's weights are zeroed, the subspace is common. IoU of the two halves' masks, per block, stands beside the chance level of
two random masks of those densities, beside no-contrast masks (their overlap is mostly |W| itself), and beside the format-matched
base: what disappears there was the format, not the memory.

**Cut.** The located weights are set to zero, nothing is retrained. Controls: random masks of the same density, and the same score
without contrast. Perplexity is over held-out natural text, exp of mean nats, before and after. Characters right are 1 − edit distance
/ length of the greedy completion. Brackets and bars are the range over the splits, no confidence intervals. How small a cut suffices
depends on how a model was trained: 2 % nearly empties the byte models that the tests keep, and hardly touches the demo models.

**Suppressed or deleted?** Four free vectors before each passage are trained by Adam on the suffix's loss, model frozen. Passages that
come back while never-trained strings stay (nearly) at zero were suppressed; later the vectors begin to carry the answer themselves, so
the verdict is read at the last step at which at most a tenth of the never-trained strings is given back.

**Does compression forget?** Of a compressed model: the passages that the model it was made from gives back and it does not go through
the same soft prompt, with the same control.

**Locators compared** (where asked for). At equal density per block, all reading the same passages; INJ: never-trained strings written
into known neurons, and their recall; DEL: single passages deleted. After Chang et al. 2024, prices and step sizes are this program's.

**What this does not show.** No privacy: paraphrased prompts and relearning are not tried. Attention and embeddings hold memory too.
Source: Chavhan et al., arXiv 2406.18566 (image diffusion); recovery after arXiv 2507.16880; extraction after Carlini et al. 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.contract import Shape
from analysis.memorization_subspace.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Memorization subspace"
QUESTION = "Is what the model has by heart kept in one small subspace?"
MODELS = (1, 1)
CORPUS = "demo/canaries:train:96x64:padded"


@dataclass(frozen=True)
class Params:
    locator: Literal["weights", "neurons", "activation", "zero_out", "gradients", "slimming", "hard_concrete"] = param(
        "weights", "located by {}", first=True, help="Single weights or whole neurons by contrast with the base, or whole neurons by a known score: activation, zero-out, integrated gradients, slimming, hard-concrete gates")
    base: Literal["natural", "format", "empty"] = param("natural", "base: {}", first=True, help="What memorized text is contrasted with: stories, same-format strings never trained on, or the empty prompt")
    recovery: Literal[0, 30, 100, 300] = param(30, "{} recovery steps", first=True, help="Steps of the soft prompt that tries to bring the passages back; 0 leaves the question open")
    share: float = param(0.1, "Share located", low=0.001, high=0.2, help="The cut that is shown in detail and goes through the recovery test")
    compare: Literal["none", "quick", "all"] = param("none", "locators compared: {}", first=True, help="At equal density, on passages written into known neurons (INJ), on single passages deleted (DEL): one to three minutes more; all adds zero-out, which takes many")
    prefix: int = param(0, "Prefix", low=0, high=1024, unit="tokens", help="0: what the text marks as prefix, else half of each passage")
    normalised: bool = param(False, "Scale every token to length 1", help="As the paper's code does")
    seed: int = param(0, "Seed of halves, controls and soft prompts", low=0, high=10**9)


def answer(runs) -> str:
    from analysis.memorization_subspace import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.memorization_subspace import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.memorization_subspace import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs: cuts on three splits seen on the passages and the natural text, soft prompts, and the locators where they are compared."""
    cuts = 60 * (2 * n_tokens + 4096) * shape.forward_flops
    prompts = 3 * params.recovery * 12 * 48 * 3 * shape.forward_flops
    read = 700 * 8 * 32 + 3 * 1200 * 32 if params.compare != "none" else 0
    neurons = shape.n_layers * shape.d_mlp * 11 * 32 // 2 if params.compare == "all" else 0
    return cuts + prompts + (3 * read + 27 * 4096 * (params.compare != "none") + neurons) * shape.forward_flops
