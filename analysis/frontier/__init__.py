"""How small can the model get before it changes?

Each point is a variant of A: across, the bytes that it takes to keep; up, how far its predictions are from A's on this text.

**Size.** Bits as the recipe stores them, scales, indices and bitmaps included; untouched parameters at the dtype the model is
computed in; removed ones not at all.

**Distance.** Mean of KL(A ‖ variant) over tokens, in nats; other views show its 99 % quantile, the share of tokens whose likeliest
next token changes, and the change of perplexity. All come from the same computation as the page “What did the compression cost?”,
which a click on a point opens.

**Front.** The stepped line joins the variants that no other one here is both as small as and as near as. It is the best of what was
tried, not of what is possible.

**Seeds.** A recipe that reads calibration text was made once for each calibration seed: the point is the mean, the bar the range
over seeds (with one seed, or without calibration, the 95 % bootstrap interval over sequences).

**Null.** A grey square is A with Gaussian noise on every changed matrix, as large as that variant's change, ‖N‖ = ‖W′ − W‖, drawn at
the variant's size: what a change of this size costs when nothing was chosen. A recipe near its square was not worth its method.

**Healing.** An open mark is a recipe that was trained a little afterwards; a thin line joins it to the same recipe before.

**Orders.** Papers report GPTQ closer than rounding, SparseGPT than Wanda than magnitude, SVD-LLM than ASVD than plain SVD. Where two
such recipes store as much (within 1 %) their KL is compared on the same tokens, every seed of one with every seed of the other;
intervals are 95 % over sequences. Small models without outlier channels often do not show an order: then the card says so.

**What this does not show.** A distance on one text says nothing of a skill that the text does not use, and a smaller file is faster
only where the table says so.
"""

from __future__ import annotations

from analysis.frontier.points import Point, healings, on_front, points_of
from analysis.frontier.words import answer

TITLE = "Frontier"
QUESTION = "How small can the model get before it changes?"

__all__ = ["Point", "QUESTION", "TITLE", "answer", "figures", "healings", "on_front", "points_of"]


def figures(points, families: tuple[str, ...], chosen: str | None = None) -> list:
    """`families` is the fixed order of operators, which gives each its mark; `chosen` the written form of B."""
    from analysis.frontier import drawing

    return drawing.figures(points, families, chosen)
