"""Training on text apart from the measured one, then the numbers on the measured one, and the SAE on the shelf."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from metrics.bootstrap import ratio_interval
from metrics.sae_quality import Quality, quality
from models.home import home
from models.layout import Site
from models.progress import Quiet, Stage
from models.refusal import Refused
from models.saes.shelf import keep
from models.saes.training import Recipe, train


@dataclass(frozen=True, eq=False)
class Result:
    """Curves at `step` [point]: loss, l0, explained (of the batch), dead (share that has not fired for a while). `measured` and `untrained` [4]
    L0, explained variance, cross-entropy recovered, share of dead features on the measured text; explained_interval [2]. fired [feature]."""

    sae: str
    site: str
    steps: int
    n_train_tokens: int
    n_tokens: int
    n_sequences: int
    step: np.ndarray
    loss: np.ndarray
    l0: np.ndarray
    explained: np.ndarray
    dead: np.ndarray
    measured: np.ndarray
    untrained: np.ndarray
    explained_interval: np.ndarray
    fired: np.ndarray


def compute(captures, params, progress) -> Result:
    capture = captures[0]
    apart = replace(capture.corpus, split="train", n_sequences=params.train_sequences)
    if capture.corpus.split == "train":
        raise Refused("The measured text is of the training split, which the SAE is trained on; choose the test split.")
    text = capture.beside(apart.written)
    if params.architecture in ("topk", "batchtopk") and params.k > params.width:
        raise Refused(f"k = {params.k} is more than the {params.width} features there are.")
    recipe = Recipe(params.architecture, params.width, params.k, params.penalty, params.tokens, params.batch, params.rate, params.seed)
    with capture.model() as model:
        site = Site(model.n_layers // 2 if params.layer < 0 else params.layer, params.site)
        trained = train(model, site, text.ids, text.keep, recipe, Stage(progress, 0.0, 0.9))
        bare = train(model, site, text.ids, text.keep, replace(recipe, tokens=params.batch, rate=0.0), Quiet())
        good, bad = (quality(model, t.sae, capture.ids, capture.keep, progress=Stage(progress, lo, lo + 0.05)) for t, lo in ((trained, 0.9), (bare, 0.95)))
    name = keep(replace(trained.sae, model=capture.variant.origin), home(), notes={"recipe": vars(recipe), "text": apart.written, "variant": capture.variant.written})
    interval = [1 - float(x) for x in ratio_interval(good.error, good.spread)[:0:-1]]
    return Result(name, site.written, recipe.steps, int(text.keep[:, 1:].sum()), int(good.tokens.sum()), len(capture.ids), trained.step, trained.loss, trained.l0, trained.explained, trained.dead,
                  _four(good), _four(bad), np.array(interval), good.fired)


def _four(q: Quality) -> np.ndarray:
    return np.array([q.l0, q.explained, q.recovered, q.dead], np.float64)
