"""The data behind each figure, whole, as Arrow tables; both scopes of tokens, whatever is shown."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyarrow as pa

from analysis.layer_redundancy import words
from metrics.redundancy import best_spans

KIND = ("block", "attention", "MLP")
SCOPE = ("all", "after-first")


def states(r) -> list[str]:
    """Names of the states: into the first block, then after each block."""
    return ["emb", *map(str, r.blocks.tolist())]


def _table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist([{k: _plain(v) for k, v in row.items()} for row in rows])


def _plain(value):
    if isinstance(value, (np.floating, float)):
        return None if np.isnan(value) else float(value)
    return value.item() if isinstance(value, np.generic) else value


def units(runs) -> pa.Table:
    """Every block, attention and MLP: score, measured KL, perplexity, agreement, with intervals."""
    return _table([
        {"run": run.label, "subject": run.subject, "removed": KIND[k], "block": r.blocks[i], "tokens": SCOPE[s],
         "one_minus_cos": r.score[k, i, s], "one_minus_cos_low": r.score_low[k, i, s], "one_minus_cos_high": r.score_high[k, i, s],
         "kl_nats_per_token": r.kl[k, i, s], "kl_low": r.kl_low[k, i, s], "kl_high": r.kl_high[k, i, s],
         "perplexity": r.perplexity[k, i, s], "perplexity_with_it": r.base_perplexity[s], "top1_agreement": r.agreement[k, i, s]}
        for run in runs for r in [run.result] for k, i, s in product(range(3), range(r.n_blocks), range(2))
    ])


def worth(runs, views: dict) -> pa.Table:
    """Score, KL and ranks of each unit with the rank correlation of its group, for the tokens shown."""
    rows = []
    for run, (name, kind) in product(runs, views.items()):
        r, s, found = run.result, words.scope(run), words.correlation(run, kind)
        for k in (kind,) if kind is not None else (words.ATTENTION, words.MLP):
            rows += [{"run": run.label, "group": name, "removed": KIND[k], "block": r.blocks[i], "tokens": SCOPE[s], "one_minus_cos": r.score[k, i, s],
                      "kl_nats_per_token": r.kl[k, i, s], "rho": found.rho, "rho_low": found.low, "rho_high": found.high,
                      "null_low": found.null_low, "null_high": found.null_high, "p": found.p, "n": found.n} for i in range(r.n_blocks)]
    return _table(rows)


def spans(runs) -> pa.Table:
    """Every span of blocks with its angular distance; `best` marks the smallest of each length."""
    rows = []
    for run in runs:
        r = run.result
        best = set(best_spans(r.angular))
        rows += [{"run": run.label, "first_block": r.blocks[i], "last_block": r.blocks[j - 1], "n_blocks": j - i, "angular_distance": r.angular[i, j],
                  "best": (j - i, i) in best} for i in range(r.n_blocks) for j in range(i + 1, r.n_blocks + 1)]
    return _table(rows)


def cka(runs) -> pa.Table:
    rows = []
    for run in runs:
        r, names = run.result, states(run.result)
        rows += [{"run": run.label, "state": names[i], "other": names[j], "tokens": SCOPE[s], "cka_unbiased": r.cka[s, i, j], "cka_biased": r.cka_linear[s, i, j]}
                 for s, i, j in product(range(2), range(len(names)), range(len(names)))]
    return _table(rows)


def ranking(runs) -> pa.Table:
    """Attention and MLP ranked together, 1 = most redundant, by score and by measured KL, for the tokens shown."""
    rows = []
    for run in runs:
        r, s = run.result, words.scope(run)
        by_score, by_kl = joint_ranks(r.score[1:, :, s]), joint_ranks(r.kl[1:, :, s])
        rows += [{"run": run.label, "sublayer": KIND[1 + k], "block": r.blocks[i], "tokens": SCOPE[s], "one_minus_cos": r.score[1 + k, i, s], "rank": by_score[k, i],
                  "kl_nats_per_token": r.kl[1 + k, i, s], "rank_by_kl": by_kl[k, i]} for k, i in product(range(2), range(r.n_blocks))]
    return _table(rows)


def joint_ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest; NaN stays NaN. Ties in the order attention first, then by block."""
    flat = values.ravel()
    out = np.full(flat.shape, np.nan)
    here = np.flatnonzero(np.isfinite(flat))
    out[here[np.argsort(flat[here], kind="stable")]] = np.arange(1, len(here) + 1)
    return out.reshape(values.shape)


def spectra(runs, measures: tuple[str, ...]) -> pa.Table:
    rows = []
    for run in runs:
        r, names = run.result, states(run.result)
        rows += [{"run": run.label, "state": names[i], "measure": measures[m], "tokens": SCOPE[s], "value": r.spectra[m, s, i], "low": r.spectra_low[m, s, i],
                  "high": r.spectra_high[m, s, i]} for m, s, i in product(range(len(measures)), range(2), range(len(names)))]
    return _table(rows)
