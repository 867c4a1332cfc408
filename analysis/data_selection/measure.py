"""The numbers: the order in which every method would take the pool, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from analysis.data_selection import gradients, helping, passing
from analysis.data_selection.embed import vocabulary
from analysis.data_selection.passing import Codes, Passed, Survey, Target
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
    samples: text, label, tokens (those that count) of every sample; length, label, text [sample] are its columns
    relevant [sample] bool, wears the target's label (all False where the target is text); target [draw, example] indices, −1 for own text
    target_length [draw] mean counted tokens of a target example
    shown [rank] the first samples of draw 0; feature, share [rank, feature′] what they have in common with the prototype most, extra, missing
    [rank] the mass that only the sample and only the prototype has; share of features sums with what is left out to the score
    prototype_feature, prototype_value, pool_value [feature″] the prototype's largest features and their mean in the pool; prototype_words the
    tokens that each promotes most (the direct path to the logits)
    covered [method, budget] features among the first samples of draw 0, of `alive` that occur in the pool; covered_random [selection, budget] the
    same for selections drawn at random
    tuned [selection, seed] nats per token of the held-out target after tuning on what each method takes, then on random selections (no row
    where it was not asked for); untuned the same before; tuned_tokens and tuned_held how much and what was held out
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
    samples: pa.Table
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
    tuned: np.ndarray
    untuned: float
    tuned_tokens: int
    tuned_held: str

    @cached_property
    def text(self) -> np.ndarray:
        return np.array(self.samples["text"].to_pylist(), object)

    @cached_property
    def label(self) -> np.ndarray:
        return np.array(self.samples["label"].to_pylist(), object)

    @cached_property
    def length(self) -> np.ndarray:
        return self.samples["tokens"].to_numpy()


def compute(captures, params, progress) -> Result:
    (capture,) = captures
    sae = load_sae(choose(params.sae, capture.variant, home()), home())
    if capture.corpus.packing != "padded":
        raise Refused(f"{capture.corpus.written} is packed: one sequence joins several samples. Choose it padded, one sample a sequence ({capture.corpus.written}:padded).")
    tuning = 0.4 if params.tune else 1.0  # of the progress bar: where tuning begins, and where reading ends
    end = 0.1 * tuning if params.less else 0.9 * tuning
    own = capture.beside(replace(parse(params.target_text), packing="padded").written).tokens if params.target_text else None
    with capture.model() as model, torch.no_grad():
        require_fit(sae, model)
        pool = passing.survey(capture, vocabulary(model), params, Stage(progress, 0.0, 0.02))
        relevant = _relevant(pool, params)
        draws = [np.arange(len(own.ids))] if own is not None else _draws(relevant, params)
        rows = np.unique(np.concatenate(draws))
        aim = passing.read(model, sae, [own] if own is not None else passing.rows_of(capture, rows), params)
        targets = [passing.target(aim, np.searchsorted(rows, d), d if own is None else d[:0], pool.words) for d in draws]
        passed = passing.over(capture, model, sae, targets, len(pool), params, Stage(progress, 0.02, end), home())
        p = targets[0].prototype
        top = np.argsort(-p, kind="stable")[:20]
        meant = [" ".join(model.tokenizer.decode([int(t)]).strip() for t in row) for row in promoted(model, sae, top, 3)[0]]
        own_texts = [] if own is None else _texts(model.tokenizer, own)
    by_gradient = gradients.scores(capture, own, draws, params, Stage(progress, end, 0.95 * tuning)) if params.less else None
    methods = METHODS if by_gradient is None else (*METHODS, LESS)
    scores, orders = [], []
    for i, aimed in enumerate(targets):
        score, order = _orders(passed, pool, aimed, i, None if by_gradient is None else by_gradient[i])
        scores.append(score), orders.append(order)
        progress.step(int(tuning * (950 + 50 * (i + 1) / len(draws))), 1000, f"ranking by {len(methods)} methods, target {i + 1} of {len(draws)}")
    first = orders[0]
    helped = helping.helped(capture, own, first, draws[0], params, Stage(progress, tuning, 1.0)) if params.tune else None
    counts = [budget(b, first[0]) for b in BUDGETS]
    return Result(
        sae=sae.name, site=sae.site.written, d_sae=sae.d_sae, k=params.k or sae.k or 0, n_tokens=int(pool.samples["tokens"].to_numpy().sum()), n_sequences=len(pool),
        n_relevant=int(relevant.sum()), has_labels=bool(relevant.any()), methods=methods, score=np.array(scores, np.float32), order=np.array(orders, np.int32), relevant=relevant,
        target=np.array(draws) if own is None else -np.ones((1, len(draws[0])), int), samples=pool.samples,
        target_text=np.array(own_texts or pool.samples["text"].take(draws[0]).to_pylist()), target_length=np.array([aim.length[np.searchsorted(rows, d)].mean() for d in draws]),
        **_explained(passed.codes, p, first[0]), prototype_feature=top, prototype_value=p[top], pool_value=passed.mean[top], prototype_words=np.array(meant),
        covered=np.array([selection.covered(passed.codes, order, counts) for order in first]),
        covered_random=_by_chance(passed.codes, first[0], counts, params.seed), alive=int(passed.fires.sum()),
        **(dict(tuned=np.zeros((0, 0)), untuned=0.0, tuned_tokens=0, tuned_held="") if helped is None else
           dict(tuned=helped.tuned.loss, untuned=helped.tuned.before, tuned_tokens=helped.tuned.tokens, tuned_held=helped.held)))


def budget(share: float, order: np.ndarray) -> int:
    """How many samples a share of the candidates is, at least one."""
    return max(1, round(share * int((order >= 0).sum())))


def _relevant(pool: Survey, params) -> np.ndarray:
    """bool [sample]; without labels, or with the user's own target, none is relevant."""
    if params.label not in pool.labels:
        if params.target_text:
            return np.zeros(len(pool), bool)
        raise Refused(f"The pool has no label “{shown(params.label, 40)}”; it has {', '.join(pool.labels) or 'none'}. Name one of them, or give the target as a text (text/…).")
    labels = pool.samples["label"]
    relevant = pc.equal(labels, params.task).to_numpy()
    if not relevant.any() and not params.target_text:
        raise Refused(f"No sample's {params.label} is “{shown(params.task, 40)}”; there are {', '.join(sorted(labels.unique().to_pylist())[:20])}. Name one of them.")
    return relevant


def _draws(relevant: np.ndarray, params) -> list[np.ndarray]:
    """Sets of target examples, each drawn among the samples of the task."""
    have = np.flatnonzero(relevant)
    if len(have) < 2 * params.examples:
        raise Refused(f"Found {len(have)} samples of the task; expected at least {2 * params.examples}, so that as many are left to find. Take fewer examples or a larger pool.")
    return [np.sort(np.random.default_rng([params.seed, i]).choice(have, params.examples, replace=False)) for i in range(params.draws)]


def _orders(passed: Passed, pool: Survey, aimed: Target, i: int, by_gradient: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(score [sample] of the chosen method, order [method, sample]) for draw i; by_gradient [sample] is LESS's score."""
    candidates = np.setdiff1d(np.arange(len(pool)), aimed.rows)
    score = passed.score[i, candidates]
    found = [selection.best(score), selection.length_matched(score, pool.samples["tokens"].to_numpy()[candidates]), selection.best(passed.cosine[i, candidates]),
             selection.in_turn(passed.rds[i][candidates]), selection.best(passed.bm25[i, candidates])]
    if by_gradient is not None:
        found.append(selection.best(by_gradient[candidates]))
    orders = [candidates[o] for o in found]
    orders.insert(METHODS.index("coverage"), selection.by_coverage(passed.codes, candidates))
    order = np.full((len(orders), len(pool)), -1)
    order[:, : len(candidates)] = orders
    whole = np.full(len(pool), np.nan)
    whole[candidates] = score
    return whole, order


def _explained(codes: Codes, p: np.ndarray, order: np.ndarray) -> dict:
    """Exact Jaccard shares of the first samples, the largest features of each and the rest as one."""
    rows = order[order >= 0][:EXPLAINED]
    feature, share = np.full((len(rows), FEATURES), -1), np.zeros((len(rows), FEATURES + 1))
    extra, missing = np.zeros(len(rows)), np.zeros(len(rows))
    for i, row in enumerate(rows):
        features, part, extra[i], missing[i] = selection.shares(codes, row, p)
        top = np.argsort(-part, kind="stable")[:FEATURES]
        feature[i, : len(top)], share[i, : len(top)] = features[top], part[top]
        share[i, -1] = part.sum() - part[top].sum()
    return dict(shown=rows, feature=feature, share=share, extra=extra, missing=missing)


def _by_chance(codes: Codes, order: np.ndarray, counts: list[int], seed: int, n: int = 20) -> np.ndarray:
    """Features among samples taken at random from the candidates, [selection, budget]."""
    rng, candidates = np.random.default_rng([seed, 1]), order[order >= 0]
    return np.array([selection.covered(codes, drawn, counts) for drawn in (rng.permutation(candidates) for _ in range(n))])


def _texts(tokenizer, tokens) -> list[str]:
    return [tokenizer.decode([int(i) for i in row[keep]], skip_special_tokens=True).strip() for row, keep in zip(tokens.ids, tokens.keep)]
