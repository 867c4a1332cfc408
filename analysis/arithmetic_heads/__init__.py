"""Which few heads fetch the operands, and which MLPs turn them into the answer?

Asks the model arithmetic in its own tokens and finds which heads and MLPs, at the prompt's last token (END), carry the answer.

**Prompts.** {} wordings in three styles (equation, statement, question) for +, −, ×, ÷, operands from 1. Only problems whose answer
is one token of this vocabulary are asked, only prompts answered rightly (likeliest token = answer) are kept, and both counts are
shown. An operator is left out where fewer than 30 are kept in either half, or fewer than one in five asked: that is guessing. Heads
are sought on the *discovery* wordings; whatever tests them uses the *validation* wordings. Operators weigh the same in every mean.

**Counterfactuals.** *No operator*: a word that means nothing stands in the operator's place, so that operands stay and nothing is to
be computed. *Other numbers*: same wording and operator, other operands and another answer. The first finds heads that react to the
operator, the second heads that carry the numbers.

**Path patching**, noising: one head's output at END is taken from the counterfactual run, all other heads are held at their values
in the prompt's own run, and the answer is read. With MLPs *recomputed* they belong to the path (head → MLPs → logits); with MLPs
*frozen* only the direct path head → logits is left. The two differ widely, and which one the paper used could not be checked at the
source. An MLP is patched the same way. As only END changes and attention is held, no attention is run again: the scan is exact, and
in every run a few senders are also patched with hooks on the whole model.

**Measures.** Relative logit, (logit\\* − logit) / logit of the answer, mean over prompts of the ratio: the paper's measure,
second-hand, as is the rule that −5 % makes a *key head*. It changes when all logits shift, and is left out where the logit is not
above 0. Beside it the change of ln p(answer), and of the answer's logit over the mean logit of the other answers, in nats. Intervals
are 95 %, bootstrapped over prompts.

**Faster views.** Activation patching: the same replacement, everything after it recomputed, later heads too. Attribution: the
gradient of the path effect times the difference, from one backward pass; *integrated*: averaged along the straight way between the
runs.

**Knock-out.** Heads give their mean output at END and wherever a later token of the answer is predicted: the mean over the prompts
without operator, over the prompts themselves, or zero. Ranked heads (relative logit, MLPs recomputed) against at least 20 random
draws among the heads in neither ranking. In the control text the heads stand at their mean at every position.

**Precise tuning** trains only the Q, K, V and O slices of the ranked heads; every other weight keeps its bits.

**Grouped queries.** A head is a query head. Where several share one key and value, each is patched by itself, since its output is its
own, but tuning one of them tunes the K and V of the whole group.

**What this does not show.** One head at a time: a head with a backup looks harmless. Held heads cannot react; activation patching
lets them. In bfloat16 an effect of a few percent is rounding. A mean that no prompt ever shows can do damage of its own, so look at the random draws. A claim on the share of heads needs
a model of many. Word problems are answered at once, without written steps.

Source: Zhang et al., “Interpreting and Improving Large Language Models in Arithmetic Calculation”, ICML 2024 (arXiv 2409.01659). Only
its abstract was read at the source; everything else attributed to it here is second-hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.arithmetic_heads.measure import Result, compute
from analysis.contract import Shape
from metrics.prompts.wordings import WORDINGS
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

__doc__ = __doc__.replace("{} wordings", f"{len(WORDINGS)} wordings")
TITLE = "Arithmetic heads"
QUESTION = "Which few heads fetch the operands, and which MLPs turn them into the answer?"
MODELS = (1, 1)
CORPUS = "demo/stories:16x128"
CORPUS_IS = "control text"
INPUTS = "arithmetic prompts"


@dataclass(frozen=True)
class Params:
    change: Literal["no operator", "other numbers"] = param(
        "no operator", "{}", first=True, display=True, help="Where patched outputs come from: a meaningless word for the operator, or other numbers.")
    mlps: Literal["recomputed", "frozen"] = param(
        "recomputed", "MLPs {}", first=True, display=True, help="Whether MLPs belong to the path from a head to the logits.")
    measure: Literal["relative logit", "log-probability", "logit difference"] = param(
        "relative logit", "{}", first=True, display=True, help="Relative logit is the paper's measure, second-hand; the others are differences in nats.")
    threshold: float = param(5.0, "A key head takes at least this share of the logit", low=0.0, high=100.0, unit="%", display=True)
    head: str = param("", "Head to look at, such as L0H4", display=True, help="Stands first where heads are looked at closely; click a dot of the strongest heads.")
    prompts: int = param(96, "Prompts per operator and half", low=30, high=10_000, help="Correctly answered ones wanted; at most six times as many are asked.")
    operators: Literal["all", "plus", "minus", "times", "over"] = param("all", "Operators")
    largest: int = param(9, "Largest operand", low=2, high=99)
    null: Literal["@, nothing", "<, none"] = param("@, nothing", "In the operator's place", help="A sign in equations, a word in sentences.")
    top: int = param(4, "Heads knocked out, compared and tuned", low=1, high=1000)
    baseline: Literal["mean without operator", "mean of the prompts", "zero"] = param("mean without operator", "A knocked-out head gives")
    draws: int = param(20, "Random draws", low=20, high=1000)
    faster: Literal["all", "gradients", "none"] = param("all", "Faster views",
                                                        help="Activation patching runs the model once for every head and prompt, on one token.")
    integrated_steps: int = param(8, "Steps of integrated attribution", low=2, high=256)
    prompt: str = param("", "Prompt to look at", help="Empty: the first kept one.")
    word_problems: str = param("", "File of word problems, as text/…",
                               help="GSM8K or SVAMP as JSON: open the file under “Open a checkpoint or a text”, then write its name here.")
    tuning: Literal["off", "compare"] = param("off", "Precise tuning",
                                              help="Trains the ranked heads, three draws of random heads, and every matrix, on the same prompts.")
    tuning_steps: int = param(100, "Steps of tuning", low=1, high=100_000)
    tuning_rate: float = param(1e-3, "Learning rate of tuning", low=0.0, high=1.0)
    resamples: int = param(1000, "Bootstrap resamples", low=100, high=100_000)
    seed: int = param(0, "Seed of prompts, draws and resampling", low=0, high=10**9)


def answer(runs) -> str:
    from analysis.arithmetic_heads import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.arithmetic_heads import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.arithmetic_heads import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs: prompts asked and run, every sender's way to the logits, one token for each patched activation and knock-out, the
    transfer and control sets once for each run, and tuning where asked for."""
    operators = 4 if params.operators == "all" else 1
    prompts = 2 * operators * params.prompts
    length, heads = 12, shape.n_layers * shape.n_heads
    asked = 3 * prompts * length * shape.forward_flops
    scan = 4 * prompts * heads * (shape.block_flops * shape.n_layers / 4 + shape.head_flops)
    tokens = (prompts * heads if params.faster == "all" else 0) + 12 * (params.draws + 2) * prompts / 2
    other = (params.draws + 3) * (4 * 48 * 20 + n_tokens) * shape.forward_flops
    tuning = 0 if params.tuning == "off" else 5 * params.tuning_steps * 3 * 32 * length * shape.forward_flops
    return asked + scan + tokens * shape.forward_flops + other + tuning
