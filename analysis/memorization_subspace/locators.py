"""Which locator is best? At equal density; on passages written into known neurons (INJ); on single passages deleted (DEL)."""

from __future__ import annotations

import numpy as np
import torch

from analysis.memorization_subspace.finding import READ
from metrics import attribution, injection, memorized
from metrics.extraction import extract
from models.progress import Stage

QUICK = ("contrast", "size", "activation", "gradients", "slimming", "hard_concrete")
WEIGHTS, RANDOM = "weights", "random"
TRIALS = 3  # injected passages, and deleted ones
INJECTED = 0.01  # of all neurons: Chang et al.'s larger setting
PASSES = {"gradients": 80, "slimming": 100, "hard_concrete": 100, "zero_out": 1500}  # about, of one passage through a demo model; the others few
DELETED = 0.005  # of the neurons of every block but the first: their larger setting


def nothing() -> dict:
    none = np.zeros(0)
    return dict(compared=np.zeros(0, str), compared_density=none, compared_extracted=np.zeros((0, 2)), compared_ratio=none, n_read=0,
                injected_recall=np.zeros((0, 0)), injected_nats=np.zeros((0, 2)), injected_share=INJECTED, deleted=np.zeros((0, 0, 3)), deleted_share=DELETED)


def compared(found, params, progress) -> dict:
    """All locators read the same passages of half 1 and cut as many weights of every block as the Wanda contrast located there."""
    if params.compare == "none":
        return nothing()
    names = attribution.LOCATORS if params.compare == "all" else QUICK
    return _equal(found, params, names, Stage(progress, 0.0, 0.3)) | _injected(found, params, names, Stage(progress, 0.3, 0.75)) | _deleted(found, params, names, Stage(progress, 0.75, 1.0))


def _turns(progress, names):
    """(name, its stretch of the progress), each as long as the passes through the model that it takes."""
    passes = np.cumsum([0, *(PASSES.get(name, 4) for name in names)])
    for name, lo, hi in zip(names, passes / passes[-1], passes[1:] / passes[-1]):
        yield name, Stage(progress, lo, hi)


def _equal(found, params, names, progress) -> dict:
    model, read = found.model, found.halves[0][0][:READ]
    wanda = memorized.masks(model, memorized.of_passages(model, read, params.normalised), found.base, params.share)
    counts = {i: max(1, round(float(m.double().mean()) * m.shape[1])) for i, m in wanda.items()}
    named = {WEIGHTS: wanda}
    for name, stage in _turns(progress, names):
        scores = found.kept(f"equal, {name}", lambda: attribution.locate(name, model, read, found.base, params.seed, stage))
        stage.step(1, 1, f"{name}, at equal density")
        named[name] = {i: memorized.columns(memorized.output_matrix(model, i), s, counts[i] / len(s), signed=False) for i, s in scores.items()}
    named[RANDOM] = memorized.random_like(named[names[0]], "neurons", params.seed)
    variants = [memorized.cut(model, masks) for masks in named.values()]
    held = found.halves[0][1]
    return dict(compared=np.array(list(named)), compared_density=np.array([memorized.density(m) for m in named.values()]),
                compared_extracted=np.array([[float(extract(v, q).exact.double().mean()) for q in (read, held)] for v in variants]),
                compared_ratio=np.array([found.ratio(v) for v in variants]), n_read=len(read))


def _injected(found, params, names, progress) -> dict:
    """Never-trained strings, each written into a random share of the neurons of a copy; recall of those neurons by every locator that
    scores neurons. Row 0 is the Wanda contrast: its weights summed over each neuron's column."""
    fresh, n = found.fresh, min(TRIALS, len(found.fresh))
    recall, nats = np.zeros((1 + len(names), n)), np.zeros((n, 2))
    for t in range(n):
        one = fresh[t : t + 1]
        planted = injection.inject(found.model, one, INJECTED, params.seed + t, progress=Stage(progress, t / n, (t + 0.3) / n))
        nats[t] = planted.before, planted.after
        base = memorized.sizes(planted.model, found.ids, found.counted)
        for k, (name, stage) in enumerate(_turns(Stage(progress, (t + 0.3) / n, (t + 1) / n), (WEIGHTS, *names))):
            recall[k, t] = found.kept(f"injected {t}, {name}", lambda: injection.recall(_neuron_scores(name, planted.model, one, base, params.seed, stage), planted.gold, INJECTED))
            stage.step(1, 1, f"{name}, passage {t + 1} of {n} written into known neurons")
    return dict(injected_recall=recall, injected_nats=nats, injected_share=INJECTED)


def _deleted(found, params, names, progress) -> dict:
    """Single passages located one at a time and their neurons zeroed: what that does to them, to the others, and to natural text."""
    model, read, held = found.model, found.halves[0][0], found.halves[0][1]
    n, rows = min(TRIALS, len(read)), (WEIGHTS, *names, RANDOM)
    whole, change = float(extract(model, held).right.mean()), np.zeros((len(rows), n, 3))
    for t in range(n):
        one = read[t : t + 1]
        before = float(extract(model, one).right[0])
        for k, (name, stage) in enumerate(_turns(Stage(progress, t / n, (t + 1) / n), rows)):
            if name == RANDOM:
                generator = torch.Generator().manual_seed(params.seed + t)
                scores = {i: torch.rand(len(x), generator=generator) for i, x in found.base.rms.items()}
            else:
                scores = found.kept(f"deleted {t}, {name}", lambda: _neuron_scores(name, model, one, found.base, params.seed, stage))
            variant = memorized.cut(model, injection.without_first(memorized.neuron_masks(model, scores, DELETED, signed=False)))
            change[k, t] = float(extract(variant, one).right[0]) - before, float(extract(variant, held).right.mean()) - whole, found.ratio(variant)
            stage.step(1, 1, f"{name}, passage {t + 1} of {n} deleted")
    return dict(deleted=change, deleted_share=DELETED)


def _neuron_scores(name: str, model, p, base, seed: int, progress) -> attribution.Scores:
    if name != WEIGHTS:
        return attribution.locate(name, model, p, base, seed, progress)
    mem = memorized.of_passages(model, p)
    masks = memorized.masks(model, mem, base, INJECTED)
    return {i: (masks[i] * memorized.output_matrix(model, i).abs()).double().sum(0).cpu() * mem.rms[i] for i in masks}
