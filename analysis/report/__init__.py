"""What did the compression change inside?

Every analysis that the app has is run on A, the original, and on B, its variant, each on its own text and with its own settings; those
that compare two models are run on the pair. Their headline numbers stand in one table, with n, text, interval and null on every row, and
the figures that show the difference below.

**Nothing is averaged.** Analyses answer different questions in different units; a single score would hide which one changed.

**What did not give a number is a row too**: refused, not applicable, failed, or not computed yet, with the reason.

**Difference** is B − A where both are numbers of the same unit. Whether it is more than luck is not said by it: look at the intervals,
and where two intervals overlap at the analysis's own page.

An analysis joins by being in the list of analyses. It may say `corpus_for(variant)`, the text it wants for a model, and
`report_params`, settings for the report where its defaults would take too long; `not_in_report`, a sentence, leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.report.plan import Asked, ask
from analysis.report.rows import Row, Section, read
from models.params import param

TITLE = "Compression report"
QUESTION = "What did the compression change inside?"
MODELS = (2, 2)
CORPUS = None

__all__ = ["Asked", "CORPUS", "MODELS", "Params", "QUESTION", "Row", "Section", "TITLE", "ask", "read"]


@dataclass(frozen=True)
class Params:
    only: str = param("", "Analyses", help="Names joined by dots; empty means all of them.")
