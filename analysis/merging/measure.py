"""The numbers: losses of parents and merges on one text or two, and how the singular vectors of a merge lie to each parent's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.losses import NLL, TOKENS, sequence_losses
from metrics.permutation.matching import weight_matching
from metrics.permutation.singular import GAMMAS, all_singular, alignment
from metrics.permutation.spec import identity, random_maps
from metrics.permutation.transformer import checked, folded, require_one_shape, symmetry_of
from models.loaded import Model
from models.refusal import NotApplicable


@dataclass(frozen=True, eq=False)
class Result:
    """Axes: row is the parents, then the merges, named in `parents` and `merges`; γ as in metrics.permutation.singular.GAMMAS.

    nll, tokens   of each text its [row, sequence] sums in nats, and [sequence] counts
    r             [merge, parent, (as it is, in the merge's own order), γ]: R of the merge with that parent, NaN where shapes differ
    null          [draw, γ]: R of the first merge in random orders with the first parent
    distance      [merge, parent]: ‖merge − parent‖ / ‖parent − mean of the parents‖ over equal parameters, NaN where shapes differ
    parameters    [row] numbers stored as weights
    """

    parents: tuple
    merges: tuple
    texts: tuple
    nll: list
    tokens: list
    r: np.ndarray
    null: np.ndarray
    distance: np.ndarray
    parameters: np.ndarray


def compute(captures, params, progress) -> Result:
    parents, merges = _split(captures)
    if any(not torch.equal(c.ids, parents[0].ids) for c in parents[1:]):
        raise NotApplicable("These models cut this text into different tokens, so they cannot be merged; choose models of one tokenizer.")
    with parents[0].model() as first:
        texts = [(parents[0].ids, parents[0].keep)]
        names = [parents[0].corpus.written]
        if params.second:
            second = parents[0].beside(params.second)
            texts.append((second.ids, second.keep))
            names.append(params.second)
        losses, counts, bodies = [[] for _ in texts], [], []
        for i, capture in enumerate(parents):
            progress.step(i, len(captures), f"losses of parent {i + 1}")
            with capture.model() as model:
                require_one_shape(first, model)
                bodies.append(_comparable(model))
                counts.append(_parameters(model))
                _read(model, texts, losses)
        symmetry = checked(bodies[0], symmetry_of(bodies[0]))
        pieces = [symmetry.pieces(m) for m in bodies]
        vectors = [all_singular(symmetry.spec, p) for p in pieces]
        r, distance, null = [], [], None
        for i, capture in enumerate(merges):
            progress.step(len(parents) + i, len(captures), f"{capture.variant.steps[0].written}")
            with capture.model() as model:
                counts.append(_parameters(model))
                _read(model, texts, losses)
                row, apart, null = _against(symmetry, model, bodies, vectors, pieces, null, params)
            r.append(row)
            distance.append(apart)
    return Result(tuple(c.variant.written for c in parents), tuple(c.variant.written for c in merges), tuple(names), [np.stack([x[NLL] for x in rows]) for rows in losses],
                  [rows[0][TOKENS] for rows in losses], np.array(r), null if null is not None else np.zeros((0, len(GAMMAS))), np.array(distance), np.array(counts, np.int64))


def _split(captures) -> tuple[tuple, tuple]:
    """(captures of the parents, of the merges): a merge names the parents that are the subject."""
    n = len(captures[-1].variant.parents)
    return captures[:n], captures[n:]


def _comparable(model: Model) -> Model:
    """With the scales of norms in the matrices that read them, where the architecture allows it."""
    try:
        return folded(model)
    except NotApplicable:
        return model


def _parameters(model: Model) -> int:
    return sum(p.numel() for p in model.module.parameters())


def _read(model: Model, texts: list, losses: list) -> None:
    for rows, (ids, keep) in zip(losses, texts):
        rows.append(sequence_losses(model, ids, keep))


def _against(symmetry, model: Model, bodies: list[Model], vectors: list, pieces: list[dict], null, params) -> tuple:
    """(R [parent, order, γ], distance [parent], null [draw, γ]) of one merge."""
    own = _comparable(model)
    sizes = [{name: tuple(p.shape) for name, p in m.module.named_parameters()} for m in (own, bodies[0])]
    if sizes[0] != sizes[1]:
        return np.full((len(bodies), 2, len(GAMMAS)), np.nan), np.full(len(bodies), np.nan), null
    mine = symmetry.pieces(own)
    found = all_singular(symmetry.spec, mine)
    own_order = [identity(symmetry.spec), *(weight_matching(symmetry.spec, mine, p, seed=params.seed).maps for p in pieces[1:])]
    r = np.array([[alignment(symmetry.spec, found, v, m).total() for m in (None, order)] for v, order in zip(vectors, own_order)])
    if null is None:
        draws = [random_maps(symmetry.spec, torch.Generator().manual_seed(params.seed + 1000 + i)) for i in range(params.nulls)]
        null = np.array([alignment(symmetry.spec, vectors[0], found, m).total() for m in draws])
    mean = {name: sum(p[name] for p in pieces) / len(pieces) for name in mine}
    size = lambda x, y: float(sum((x[name].double() - y[name].double()).square().sum() for name in x)) ** 0.5
    distance = np.array([size(mine, p) / max(size(mean, p), 1e-300) for p in pieces])
    return r, distance, null
