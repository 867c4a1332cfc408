"""How much the embeddings do alone: λ = 0 masks on a body that was never trained, with and without the trained embeddings.

All of the body (weights, biases, norms) is drawn as the architecture initialises it; “trained embeddings” puts token and
position embeddings and the unembedding back (Chang & Bergen, table 2).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from analysis.bigram_subnetwork import training
from analysis.bigram_subnetwork.scores import Yardstick, score
from metrics import subnetworks
from metrics.mask_training import Wish
from models.loaded import Model
from models.shape import shape_of

NAMES = ("random body and embeddings", "random body, trained embeddings")


def fresh(model: Model, embeddings: bool, seed: int) -> Model:
    """The architecture as it is before training, drawn with `seed`; `embeddings`: with the trained ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = type(model.module)(model.config).to(model.device, model.module.dtype).eval().requires_grad_(False)
    if embeddings:
        blocks = model.layout.blocks + "."
        trained = {name: p for name, p in model.module.named_parameters() if not name.startswith(blocks) and p.dim() > 1}
        for name, p in module.named_parameters():
            if name in trained:
                p.copy_(trained[name])
    return Model(module, model.tokenizer, model.layout, f"{model.written}, fresh")


def measured(capture, model: Model, text: training.Text, params, schedule, yardstick: Yardstick, stages) -> dict:
    names = NAMES if params.controls else ()
    active, r = np.zeros(len(names)), np.full((2, len(names), 3), np.nan)
    for i, name in enumerate(names):
        body = fresh(model, embeddings=i == 1, seed=params.seed)
        (trained,) = training.masks(capture, body, text, [Wish(0.0)], replace(schedule), stages.train(1), about=f"{name}, seed {params.seed}")
        masks = subnetworks.unpacked(trained.kept, shape_of(body))
        active[i], r[:, i] = subnetworks.n_active(masks), score(subnetworks.subnetwork(body, masks), yardstick).r
    return dict(controls=names, control_active=active, control_r=r)
