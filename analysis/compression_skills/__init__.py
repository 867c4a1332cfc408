"""Which skills did the compression take?

The same questions to A and to B, with and without a passage that holds the answer. An answer counts when each of its tokens is the
likeliest next one, which is what greedy decoding would write.

**Closed book**: the question alone. **Open book**: first a passage that answers it. **Wrong book** (grey, the null): a passage of the
same kind that does not. LLM-KICK (Jaiswal et al., ICLR 2024) asks this of large models: what is known by heart may go while what can
be read off a page stays. Here the questions are built from the demo world:

- *arithmetic*: problems of the training text in wordings that training never showed; the book states the same fact in another wording;
- *passages known by heart*: canaries that training repeated 64 times and more, asked by their beginning, to be written word for word
  (extraction);
- *passages never seen*: controls of the same form; closed book must stay at zero, open book is copying;
- *stories*: a sentence that comes back to something told before, colour, pet, job; the book is the story up to it.

**Confidence** is ln p of the answer, mean over its tokens: it moves before answers flip. **Intervals** are 95 %, bootstrapped over
questions, paired where B − A; McNemar's exact test says whether more answers went one way than a coin would send.

**Operations** are counted on the module that would really run: 2 for each weight a token is multiplied with, and the attention scores.
**Time** is measured here, A and B in turn on the same tokens, only where B can really run smaller: blocks left out, sublayers skipped, a
narrower stream, two thin products. Masks and integer grids are multiplied as dense matrices here, so for those nothing is timed.

**What this does not show.** A model that was not trained on the demo world can only do what the open book allows. Time is this
machine's, under its load.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.compression_skills.measure import Result, compute
from analysis.contract import Shape
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Skills after compression"
QUESTION = "Which skills did the compression take?"
MODELS = (2, 2)
CORPUS = None
INPUTS = "questions"


@dataclass(frozen=True)
class Params:
    questions: int = param(64, "{} questions a skill", first=True, low=8, high=2_000)
    repeats: int = param(20, "Timed repeats", low=0, high=500, help="Of A and B in turn; 0 times nothing.")
    length: int = param(128, "Tokens of a timed sequence", low=8, high=8_192)
    resamples: int = param(1000, "Bootstrap resamples", low=100, high=100_000)
    seed: int = param(0, "Seed of the questions", low=0, high=10**9)


def answer(runs) -> str:
    from analysis.compression_skills import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.compression_skills import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.compression_skills import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs of this model's share: four skills in three conditions of about 60 tokens, and the timed sequences."""
    return (4 * 3 * params.questions * 60 + params.repeats * params.length) * shape.forward_flops
