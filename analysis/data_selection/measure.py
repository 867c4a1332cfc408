"""The numbers: a pool and a target read once, and the order in which every method would take the pool."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from analysis.data_selection import gradients
from analysis.data_selection.embed import Embedded, counted, embed
from metrics import selection
from metrics.feature_contexts import promoted
from models.corpus import parse
from models.home import home
from models.progress import Stage
from models.refusal import Refused, shown
from models.saes import load_sae
from models.saes.inside import require_fit
from models.saes.shelf import choose

METHODS = ("chosen", "length-matched", "raw cosine", "RDS+", "BM25", "coverage")
LESS = "LESS"  # the seventh, where it is asked for
BUDGETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
EXPLAINED, FEATURES = 24, 8  # samples explained, and features told of each


@dataclass(frozen=True, eq=False)
class Result:
    """Samples of the pool in its order; `draw` are sets of target examples drawn anew (one where the target is the user's own text).

    methods: METHODS, with LESS behind them where it was asked for
    score [draw, sample] of the chosen method, NaN for samples that are that draw's target; order [draw, method, sample] indices best first,
    −1 behind the last one (a draw's target is no candidate)
    relevant [sample] bool, wears the target's label (all False where the target is text); target [draw, example] indices, −1 for own text
    length, label, text [sample]; target_length [draw] mean counted tokens of a target example
    shown [rank] the first samples of draw 0; feature, share [rank, feature′] what they have in common with the prototype most, extra, missing
    [rank] the mass that only the sample and only the prototype has; share of features sums with what is left out to the score
    prototype_feature, prototype_value, pool_value [feature″] the prototype's largest features and their mean in the pool; prototype_words the
    tokens that each promotes most (the direct path to the logits)
    covered [method, budget] features among the first samples of draw 0, of `alive` that occur in the pool; covered_random [selection, budget] the
    same for selections drawn at random
    """

    sae: str
    site: str
    d_sae: int
    k: int
    n_tokens: int
    n_sequences: int
    n_relevant: int
    has_labels: bool
    methods: tuple[str, ...]
    score: np.ndarray
    order: np.ndarray
    relevant: np.ndarray
    target: np.ndarray
    target_text: np.ndarray
    length: np.ndarray
    label: np.ndarray
    text: np.ndarray
    target_length: np.ndarray
    shown: np.ndarray
    feature: np.ndarray
    share: np.ndarray
    extra: np.ndarray
    missing: np.ndarray
    prototype_feature: np.ndarray
    prototype_value: np.ndarray
    pool_value: np.ndarray
    prototype_words: np.ndarray
    covered: np.ndarray
    covered_random: np.ndarray
    alive: int


def compute(captures, params, progress) -> Result:
    (capture,) = captures
    sae = load_sae(choose(params.sae, capture.variant, home()), home())
    tokens = capture.tokens
    if capture.corpus.packing != "padded":
        raise Refused(f"{capture.corpus.written} is packed: one sequence joins several samples. Choose it padded, one sample a sequence ({capture.corpus.written}:padded).")
    relevant, labels = _relevant(tokens, params)
    with capture.model() as model, torch.no_grad():
        require_fit(sae, model)
        read = lambda t, p: embed(model, sae, torch.from_numpy(t.ids), counted(torch.from_numpy(t.ids), torch.from_numpy(t.keep), t.spans, params.part, params.first_token),
                                  params.pooling, params.k, p)
        end = 0.08 if params.less else 0.9
        pool = read(tokens, Stage(progress, 0.0, end))
        own = capture.beside(replace(parse(params.target_text), packing="padded").written).tokens if params.target_text else None
        aim = read(own, Stage(progress, end, end + 0.02)) if own is not None else pool
        texts = _texts(model.tokenizer, tokens)
        target_texts = _texts(model.tokenizer, own) if own is not None else texts
        draws = [np.arange(len(own.ids))] if own is not None else _draws(relevant, params)
        p = selection.prototype(aim.codes, draws[0])
        top = np.argsort(-p, kind="stable")[:20]
        meant = [" ".join(model.tokenizer.decode([int(t)]).strip() for t in row) for row in promoted(model, sae, top, 3)[0]]
    by_gradient = gradients.scores(capture, own, draws, params, Stage(progress, 0.1, 0.95)) if params.less else None
    methods = METHODS if by_gradient is None else (*METHODS, LESS)
    scores, orders = [], []
    for i, rows in enumerate(draws):
        candidates = np.arange(len(texts)) if own is not None else np.setdiff1d(np.arange(len(texts)), rows)
        score, order = _orders(pool, aim, rows, candidates, params, None if by_gradient is None else by_gradient[i])
        scores.append(score), orders.append(order)
        progress.step(int(950 + 50 * (i + 1) / len(draws)), 1000, f"ranking by {len(methods)} methods, target {i + 1} of {len(draws)}")
    rows, first = draws[0], orders[0]
    return Result(
        sae=sae.name, site=sae.site.written, d_sae=sae.d_sae, k=params.k or sae.k or 0, n_tokens=int(pool.length.sum()), n_sequences=len(texts),
        n_relevant=int(relevant.sum()), has_labels=bool(relevant.any()), methods=methods, score=np.array(scores, np.float32), order=np.array(orders, np.int32), relevant=relevant,
        target=np.array(draws) if own is None else -np.ones((1, len(rows)), int), target_text=np.array([target_texts[i] for i in rows]), length=pool.length,
        label=labels, text=np.array(texts), target_length=np.array([aim.length[d].mean() for d in draws]),
        **_explained(pool, p, first[0]), prototype_feature=top, prototype_value=p[top], pool_value=np.asarray(pool.codes.mean(0)).ravel()[top],
        prototype_words=np.array(meant),
        covered=np.array([[selection.covered(pool.codes, order[: budget(b, order)]) for b in BUDGETS] for order in first]),
        covered_random=_by_chance(pool, first[0], params.seed), alive=int((np.asarray((pool.codes > 0).sum(0)).ravel() > 0).sum()))


def budget(share: float, order: np.ndarray) -> int:
    """How many samples a share of the candidates is, at least one."""
    return max(1, round(share * int((order >= 0).sum())))


def _relevant(tokens, params) -> tuple[np.ndarray, np.ndarray]:
    """(bool [sample], the label as text [sample]); without labels, or with the user's own target, none is relevant."""
    nothing = np.zeros(len(tokens.ids), bool)
    if params.label not in tokens.labels:
        if params.target_text:
            return nothing, np.full(len(tokens.ids), "")
        raise Refused(f"The pool has no label “{shown(params.label, 40)}”; it has {', '.join(sorted(tokens.labels)) or 'none'}. Name one of them, or give the target as a text (text/…).")
    labels = np.array([str(x) for x in tokens.labels[params.label]])
    relevant = labels == params.task
    if not relevant.any() and not params.target_text:
        raise Refused(f"No sample's {params.label} is “{shown(params.task, 40)}”; there are {', '.join(sorted(set(labels))[:20])}. Name one of them.")
    return relevant, labels


def _draws(relevant: np.ndarray, params) -> list[np.ndarray]:
    """Sets of target examples, each drawn among the samples of the task."""
    have = np.flatnonzero(relevant)
    if len(have) < 2 * params.examples:
        raise Refused(f"Found {len(have)} samples of the task; expected at least {2 * params.examples}, so that as many are left to find. Take fewer examples or a larger pool.")
    return [np.sort(np.random.default_rng([params.seed, i]).choice(have, params.examples, replace=False)) for i in range(params.draws)]


def _orders(pool: Embedded, aim: Embedded, rows: np.ndarray, candidates: np.ndarray, params, by_gradient: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(score [sample] of the chosen method, order [method, sample]); by_gradient [sample] is LESS's score."""
    own = aim is pool
    codes, raw = pool.codes[candidates], pool.raw[candidates]
    p = selection.prototype(aim.codes, rows)
    score = selection.METRICS[params.metric](codes, p)
    mean = aim.raw[rows].mean(0)
    plain = raw @ mean / (np.linalg.norm(raw, axis=1) * np.linalg.norm(mean)).clip(min=1e-12)
    queries = (pool if own else aim).tokens[rows].toarray()
    found = [selection.best(score), selection.length_matched(score, pool.length[candidates]), selection.best(plain),
             selection.in_turn(pool.rds[candidates] @ aim.rds[rows].T), selection.best(selection.bm25(pool.tokens[candidates], queries)),
             selection.by_coverage(codes)]
    if by_gradient is not None:
        found.append(selection.best(by_gradient[candidates]))
    order = np.full((len(found), len(pool.length)), -1)
    order[:, : len(candidates)] = [candidates[o] for o in found]
    whole = np.full(len(pool.length), np.nan)
    whole[candidates] = score
    return whole, order


def _explained(pool: Embedded, p: np.ndarray, order: np.ndarray) -> dict:
    """Exact Jaccard shares of the first samples, the largest features of each and the rest as one."""
    rows = order[order >= 0][:EXPLAINED]
    feature, share = np.full((len(rows), FEATURES), -1), np.zeros((len(rows), FEATURES + 1))
    extra, missing = np.zeros(len(rows)), np.zeros(len(rows))
    for i, row in enumerate(rows):
        features, part, extra[i], missing[i] = selection.shares(pool.codes, row, p)
        top = np.argsort(-part, kind="stable")[:FEATURES]
        feature[i, : len(top)], share[i, : len(top)] = features[top], part[top]
        share[i, -1] = part.sum() - part[top].sum()
    return dict(shown=rows, feature=feature, share=share, extra=extra, missing=missing)


def _by_chance(pool: Embedded, order: np.ndarray, seed: int, n: int = 20) -> np.ndarray:
    """Features among samples taken at random from the candidates, [selection, budget]."""
    rng, candidates = np.random.default_rng([seed, 1]), order[order >= 0]
    return np.array([[selection.covered(pool.codes, drawn[: budget(b, order)]) for b in BUDGETS] for drawn in (rng.permutation(candidates) for _ in range(n))])


def _texts(tokenizer, tokens) -> list[str]:
    return [tokenizer.decode([int(i) for i in row[keep]], skip_special_tokens=True).strip() for row, keep in zip(tokens.ids, tokens.keep)]
