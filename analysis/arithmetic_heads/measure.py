"""A result is its parts side by side: the scan, the knock-outs, a look at one prompt, and tuning where it is asked for. Each costly part
is kept under its own key, so that another prompt or another file never scans again."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from analysis.arithmetic_heads.glance import Glance, look
from analysis.arithmetic_heads.knockout import Knockout, knocked
from analysis.arithmetic_heads.scan import Scan, scanned
from analysis.arithmetic_heads.tuning import NOTHING, Tuning, tuned
from metrics.prompts.transfer import from_documents
from models.corpus import parse as parse_corpus
from models.corpus import read_documents
from models.layout import heads as heads_of
from models.refusal import NotApplicable


@dataclass(frozen=True, eq=False)
class Result(Scan, Knockout, Glance, Tuning):
    """All fields of the four parts. Where the model answers too few prompts, only what was asked is there, and `key` is empty."""

    @property
    def n_inputs(self) -> int:
        """Prompts kept."""
        return len(self.key)

    @property
    def n_discovery(self) -> int:
        return int((~self.validation).sum())


NOT_KNOCKED = Knockout(np.zeros(0, int), np.zeros((0, 0, 0), bool), (), (), np.zeros(0, int), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0, 3)), 0)


def compute(captures, params, progress) -> Result:
    (capture,) = captures
    if params.word_problems:  # a file that cannot be read is refused before anything is computed
        from_documents(read_documents(parse_corpus(params.word_problems), capture.lab.home), 1)
    with capture.model() as model:
        left = sum((layer, "attn") not in model.removed for layer in model.layers) * heads_of(model.config).n_heads
        if left < 4:
            raise NotApplicable(f"{model.written} has {left} attention heads; ranking them against random ones needs at least 4.")
        scan = scanned(capture, model, params, progress)
        if not len(scan.key):
            return _joined(scan, NOT_KNOCKED, look(model, params.prompt or "3 + 4 ="), NOTHING)
        return _joined(scan, knocked(capture, model, scan, params, progress), look(model, params.prompt or str(scan.text[0])),
                       tuned(capture, model, scan, params, progress))


def _joined(*parts) -> Result:
    return Result(**{f.name: getattr(part, f.name) for part in parts for f in fields(part)})
