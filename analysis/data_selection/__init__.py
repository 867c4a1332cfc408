"""Which training samples does this model itself find most like my task, and why?

A pool of samples is ranked by how alike the model's features of each are to those of a few target examples.

**Preset: MONA** (arXiv 2503.15573). The stream at the SAE's site is written as a few SAE features per token; a sample is the *mean* over
its tokens; the task is the mean over target examples; likeness is the generalised Jaccard Σ min(z, p) / Σ max(z, p); the most alike
samples are taken. Pooling, metric and the number of features are choices here.

**Left open by the paper**, and chosen on screen: prompt, answer or all of it; whether the first token counts (left out by default: it is an
attention sink whose size rules a mean); prototype = mean of the examples. Texts are read without a chat template.

**Beside it, always:** the same score within tenths of equal length; raw residual at the same site, pooled alike, by cosine; RDS+ (arXiv
2503.01807, from its code: position-weighted mean of the last state, each target example takes its best in turn); BM25 on tokens
(k₁ = 1.5, b = 0.75); greedy coverage of SAE features, which knows no target; random. On request LESS (arXiv 2402.04333, from its code): the
inner product of a sample's Adam direction with the target's mean gradient, over the checkpoints of a short warm-up on 5 % of the pool; here by
the attention matrices whole instead of adapters beside them, sketched in 1,024 sums, at a constant rate of 2·10⁻⁵. It takes one backward pass a
sample and epoch, which is why it is off by default and kept in the store apart.

**Why.** A sample's score is the sum of min(zₖ, pₖ) / Σ max over features k, exactly. *Extra* is mass that only the sample has, *missing* what
only the prototype has; with the score they sum to 1. Shares are told for mean, sum and max pooling as they stand.

**Precision** at a budget is the share of taken samples that wear the target's label. Target examples are drawn anew several times, are
never candidates, and the spread over the draws is shown (lowest to highest). Random is the share in the pool.

**Does it help?** On request the model is tuned for a few steps on what each method takes (first draw), and on as many samples at random, many
times. Held out is the target: samples of the label from the demo pool's other split, else the target examples, which no selection holds. p is the
rank of a method's mean loss among the random selections', (1 + as good ones) / (1 + all); every method is asked, so one of seven at p = 0.1 is what luck
gives. The demo models were trained on the demo pool's training split, so there tuning repeats what they have read.

**What this does not show.** Likeness is no promise of use, a few steps of tuning are no training, and the paper’s gains are about one point in
single runs. Mean pooling favours long samples (they lie closer to any mean): look at score against
length. On planted data raw cosine is as good or better, so read the methods side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.contract import Shape
from analysis.data_selection.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "reads", "compute", "answer", "headlines", "figures", "take_away", "cost"]

TITLE = "Data selection"
QUESTION = "Which training samples does this model find most like my task, and why?"
MODELS = (1, 1)
CORPUS = "demo/instructions:train:1024x64:padded"
CORPUS_IS = "pool"


@dataclass(frozen=True)
class Params:
    task: str = param("count", "Target: samples whose label is", first=True, help="A value of the pool's label, such as count, sort or opposite of the demo pool.")
    budget: float = param(5.0, "take {} %", low=0.1, high=50.0, unit="%", first=True, display=True, help="Share of the pool that is taken.")
    sae: str = param("", "SAE", help="A name such as demo/saes/storyteller-a.resid_post.4; empty: the first one at hand for the model.")
    pooling: Literal["mean", "sum", "max", "binary", "last token"] = param("mean", "A sample is the {} of its tokens", help="MONA: mean. binary: a feature fires or not.")
    metric: Literal["Jaccard", "cosine", "Euclid"] = param("Jaccard", "{}", help="Likeness of a sample to the target; MONA: generalised Jaccard.")
    k: int = param(0, "Features of a token that count", low=0, high=100_000, help="0: as the SAE says.")
    part: Literal["all of it", "prompt", "answer"] = param("all of it", "What of a sample is read", help="Prompt and answer where the pool marks its answers.")
    first_token: bool = param(False, "The first token counts", help="It is an attention sink; the paper does not say.")
    label: str = param("task", "The pool's label", help="Which field of the pool says what a sample is.")
    target_text: str = param("", "Target as a text instead", help="text/<name> of an opened file (text, JSONL, CSV, Parquet), or hub/<owner>/<name>; one example a paragraph or row.")
    examples: int = param(10, "Target examples", low=1, high=1000)
    draws: int = param(5, "Draws of target examples", low=1, high=50)
    seed: int = param(0, "Seed of the draws", low=0, high=10**9)
    less: bool = param(False, "LESS as well (slow)", help="Ranks by gradients: one backward pass for every sample and epoch, minutes on a small model; kept once it is made.")
    tune: bool = param(False, "Does it help? Tunes on each selection (slow)", help="Every method's selection and many random ones, each tuned on with several seeds; kept once it is made.")
    tune_share: float = param(5.0, "Tune on {} %", low=0.1, high=50.0, unit="%", help="Share of the pool that each selection holds.")
    tune_steps: int = param(20, "Steps of each run", low=1, high=10_000, help="Adam on batches of 8, every block matrix.")
    tune_rate: float = param(1e-3, "Rate of each run", low=1e-7, high=0.1, help="Small models bear 0.001; billions of weights want 0.00001. Too low a rate learns samples by heart before the task.")
    tune_random: int = param(19, "Random selections to compare with", low=8, high=999, help="The least p there can be is 1 / (1 + this).")
    tune_seeds: int = param(3, "Runs of each selection", low=3, high=20)
    less_epochs: int = param(4, "Epochs of its warm-up", low=1, high=16, help="Each is a checkpoint at which every gradient is taken; LESS: 4.")


def reads(variants, params: Params) -> list[str]:
    """Content of the SAE and of the target text that the parameters name: part of the key."""
    from models.corpus import parse
    from models.home import home
    from models.saes.shelf import choose, fingerprint

    found = [fingerprint(choose(params.sae, variants[0], home()), home())]
    return found + ([parse(params.target_text).content_fingerprint(home())] if params.target_text else [])


def answer(runs) -> str:
    from analysis.data_selection import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.data_selection import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.data_selection import drawing

    return drawing.figures(runs)


def take_away(runs) -> dict:
    from analysis.data_selection import leaving

    return leaving.take_away(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs: one pass without the head, and an SAE of eight times the stream's width; with LESS a pass and its
    backward, twice as much, for each epoch; with tuning as much for every example of every step."""
    less = 3 * shape.forward_flops * params.less_epochs if params.less else 0.0
    runs = params.tune_seeds * (7 + params.tune_random) if params.tune else 0
    less += 3 * shape.forward_flops * runs * params.tune_steps * 8 / 1024  # batches of 8 of about a thousand samples
    return n_tokens * (shape.forward_flops - shape.head_flops + 2.0 * shape.d_model * 8 * shape.d_model + less)
