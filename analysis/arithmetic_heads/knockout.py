"""Knock-outs: heads set to their mean where an answer is predicted, the ranked ones against random ones; on other wordings, on other
questions of arithmetic, and on text that has nothing to do with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from analysis.arithmetic_heads import reading
from analysis.arithmetic_heads.scan import Scan
from metrics.bootstrap import ratio_interval
from metrics.patching.knocked import score, text_accuracy
from metrics.patching.one_token import knocked_out
from metrics.prompts import transfer
from metrics.prompts.arithmetic_set import from_key
from metrics.prompts.wordings import CHANGES
from models.corpus import parse as parse_corpus
from models.corpus import read_documents
from models.loaded import Model

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
RANKED = len(CHANGES)  # the first runs of each count: the top heads of either ranking; the random ones follow
ASKED = 48  # questions of a transfer set, at most


@dataclass(frozen=True, eq=False)
class Knockout:
    """Axes: run is the top heads by either counterfactual (as in wordings.CHANGES), then random draws among the heads in neither.

    right [count, run, prompt] over the validation prompts, which the whole model answers rightly. For each of `sets`: accuracy and
    score [set, whole model and then run] with `span` [set, whole and ranked, 3] the mean of accuracy with its 95 % interval; score is
    ln p of the whole answer in nats (NaN for text); `n` what was asked, `unit` what one of them is; `heads` how many were knocked out.
    """

    counts: np.ndarray
    right: np.ndarray
    sets: tuple[str, ...]
    unit: tuple[str, ...]
    n: np.ndarray
    accuracy: np.ndarray
    score: np.ndarray
    span: np.ndarray
    heads: int


def knocked(capture, model: Model, scan: Scan, params, progress) -> Knockout:
    wanted = {name: getattr(params, name) for name in ("prompts", "operators", "largest", "null", "top", "baseline", "draws", "word_problems",
                                                       "resamples", "seed")}
    return capture.keep_plan("arithmetic knock-outs", wanted, lambda part: knock_out(capture, model, scan, params, part), Knockout, progress)


def masks(scan: Scan, count: int, draws: int, seed: int) -> torch.Tensor | None:
    """[run, block, head] bool; None where too few heads are left to draw random ones from."""
    top = [reading.ranked(scan, c)[:count] for c in range(RANKED)]
    used = set().union(*top)
    others = [(i, h) for i in np.flatnonzero(~scan.no_attention).tolist() for h in range(scan.n_heads) if (i, h) not in used]
    if len(others) < count:
        return None
    rng = np.random.default_rng([seed, count])
    sets = top + [[others[j] for j in rng.permutation(len(others))[:count]] for _ in range(draws)]
    out = torch.zeros(len(sets), len(scan.blocks), scan.n_heads, dtype=torch.bool)
    for run, chosen in enumerate(sets):
        for i, h in chosen:
            out[run, i, h] = True
    return out


def means(scan: Scan, baseline: str) -> torch.Tensor:
    """[block, head, d_head] what a knocked-out head gives."""
    known = {"mean without operator": scan.mean_null, "mean of the prompts": scan.mean_reference}
    return torch.from_numpy(np.array(known.get(baseline, np.zeros_like(scan.mean_null))))


def knock_out(capture, model: Model, scan: Scan, params, progress) -> Knockout:
    runs = {k: masks(scan, k, params.draws, params.seed) for k in sorted({*COUNTS, params.top})}
    runs = {k: m for k, m in runs.items() if m is not None}
    value = means(scan, params.baseline).to(model.device)
    prompts = [from_key(model.tokenizer, str(k)) for k in scan.key[scan.validation]]
    own = torch.tensor([p.answer for p in prompts])
    right = []
    for j, (k, mask) in enumerate(runs.items()):
        place = f"knocking out {k} heads"
        right.append(knocked_out(model, [p.ids for p in prompts], own, mask, value[:, None], lambda i, n: progress.step(j, len(runs), place)).numpy())
    top = min(params.top, max(runs))
    chosen = runs[max(k for k in runs if k <= top)]
    found = _transfer(capture, model, chosen, value, params, progress) + _control(capture, model, chosen, value, params, progress)
    known = right[list(runs).index(int(chosen[0].sum()))]
    w = reading.weights(scan, scan.validation)[scan.validation]
    rows = [("new wordings", "prompts", len(prompts), np.concatenate([np.ones((1, len(prompts))), known]), None, w), *found]
    spans = [np.stack(ratio_interval(values[: 1 + RANKED] * w, w, params.resamples, params.seed), -1) for *_, values, _, w in rows]
    return Knockout(
        np.array(list(runs)), np.array(right), tuple(r[0] for r in rows), tuple(r[1] for r in rows), np.array([r[2] for r in rows]),
        np.array([(values * w).sum(1) / w.sum() for *_, values, _, w in rows]),
        np.array([np.full(len(chosen) + 1, np.nan) if log_p is None else log_p.mean(1) for *_, log_p, _ in rows]), np.array(spans), int(chosen[0].sum()),
    )


def _transfer(capture, model: Model, runs: torch.Tensor, value: torch.Tensor, params, progress) -> list[tuple]:
    """(name, unit, n, accuracy [whole and runs, question], ln p the same, weight [question]) of each set."""
    asked = {name: transfer.questions(name, ASKED, params.seed) for name in transfer.SETS}
    if params.word_problems:
        documents = read_documents(parse_corpus(params.word_problems), capture.lab.home)
        asked[params.word_problems.removeprefix("text/")] = transfer.from_documents(documents, ASKED)
    context = getattr(model.config, "max_position_embeddings", None)
    rows = []
    for name, questions in asked.items():
        ids = transfer.tokenised(model.tokenizer, questions, context)
        if len(ids) < 2:
            continue
        found = []
        for r, mask in enumerate(torch.cat([torch.zeros_like(runs[:1]), runs])):
            progress.step(r, len(runs) + 1, f"{name}, {len(ids)} questions")
            found.append(score(model, ids, mask, value).numpy())
        both = np.stack(found)
        rows.append((name, "questions", len(ids), both[..., 0], both[..., 1], np.ones(len(ids))))
    return rows


def _control(capture, model: Model, runs: torch.Tensor, value: torch.Tensor, params, progress) -> list[tuple]:
    """The same of the control text: all next tokens, and the marked ones where it marks any; sequences are the unit of the interval."""
    ids, keep = capture.ids, capture.keep
    spans = [torch.from_numpy(x) for x in capture.tokens.spans.values()] if hasattr(capture, "tokens") else []
    marked = torch.stack(spans).any(0) if spans else torch.zeros_like(keep)
    found = []
    for r, mask in enumerate(torch.cat([torch.zeros_like(runs[:1]), runs])):
        progress.step(r, len(runs) + 1, "control text")
        found.append(text_accuracy(model, ids, keep, marked, mask, value).numpy())
    counts = np.stack(found)  # [whole and runs, sequence, 4]
    rows = []
    for name, right, of in (("control: next token", 0, 1), ("control: marked tokens", 2, 3)):
        w = counts[0, :, of]
        if w.sum() > 0:
            with np.errstate(invalid="ignore"):
                rows.append((name, "tokens", int(w.sum()), np.nan_to_num(counts[..., right] / counts[..., of]), None, w))
    return rows
