"""Does compression forget? What the uncompressed model gives back and this one does not, and what a soft prompt brings back of it."""

from __future__ import annotations

import numpy as np
import torch

from analysis.memorization_subspace.finding import tested
from metrics.extraction import Passages, extract
from metrics.soft_prompt import recovery
from models.progress import Stage

MOST = 24  # lost passages, and never-trained strings, that go through the test


def lost(capture, model, p: Passages, fresh: Passages, exact: torch.Tensor, params, progress) -> dict:
    """Nothing where the subject is a checkpoint as it was opened."""
    none = dict(original="", original_exact=np.zeros(0, bool), lost_steps=np.zeros(0, int), lost_recovered=np.zeros((2, 0)), n_lost_tested=0)
    if not capture.variant.steps:
        return none
    with capture.original() as whole:
        before = extract(whole, p).exact
        none |= dict(original=whole.written, original_exact=before.numpy())
    gone, steps = p[before & ~exact][:MOST], tested(params.recovery)
    if not len(gone) or not steps:
        return none
    n, rows = min(len(gone), len(fresh)), []
    for k, (q, title) in enumerate(((gone[:n], "lost by compression"), (fresh[:MOST], "never trained"))):
        found = recovery(model, q, steps, params.seed, progress=Stage(progress, 0.9 + 0.05 * k, 0.95 + 0.05 * k), title=title)
        rows.append(found.double().mean(1).numpy())
    return none | dict(lost_steps=np.array(steps), lost_recovered=np.array(rows), n_lost_tested=n)
