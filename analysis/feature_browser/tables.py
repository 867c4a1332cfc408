"""The data behind each figure, whole, as Arrow tables; a column says of which run where there are two."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from analysis.feature_browser import words
from analysis.feature_browser.measure import WRITERS


def of_runs(runs, rows) -> pa.Table:
    """rows(run) of every run, the run's label first."""
    found = [{"run": run.label, **row} for run in runs for row in rows(run)]
    return pa.Table.from_pylist(found) if found else pa.table({"run": pa.array([], pa.string())})


def prompt(run) -> list[dict]:
    r = run.result
    text = words.text_of(r)
    return [{"place": i, "token": text[int(t)], "active_features": int(r.prompt_active[i]), "rank": k + 1, "feature": int(r.prompt_features[i, k]), "activation": float(r.prompt_values[i, k])}
            for i, t in enumerate(r.prompt) for k in range(r.prompt_features.shape[1]) if r.prompt_features[i, k] >= 0]


def features(run) -> list[dict]:
    r = run.result
    return [{"feature": i, "fires": int(n), "density": float(n / r.n_tokens), "largest": float(x)} for i, (n, x) in enumerate(zip(r.fired, r.largest))]


def values(run) -> list[dict]:
    return [{"activation": float(x)} for x in run.result.values]


def examples(run) -> list[dict]:
    r = run.result
    return [{"band": "top" if b == 0 else f"{100 - 25 * (b - 1)}–{75 - 25 * (b - 1)} %", "activation": float(r.seen[i, words.BEFORE]), "context": words.context(r, i)} for i, b in enumerate(r.band)]


def tokens(run) -> list[dict]:
    r, text = run.result, words.text_of(run.result)
    return [{"effect": effect, "token": text[int(t)], "logit": float(x)} for effect, ids, logits in (("promoted", r.up, r.up_logit), ("suppressed", r.down, r.down_logit)) for t, x in zip(ids, logits)]


def neighbours(run) -> list[dict]:
    r = run.result
    return [{"feature": int(f), "cosine": float(c), "label": words.label(r, int(f)), "density": float(r.fired[f] / r.n_tokens)} for f, c in zip(r.neighbour, r.cosine)]


def search(run) -> list[dict]:
    r = run.result
    return [{"how": "fires", "feature": int(f), "mean_on_token": float(a), "mean_elsewhere": float(b), "logit": None} for f, a, b in zip(r.fires, r.fires_on, r.fires_off)] + [
        {"how": "promotes", "feature": int(f), "mean_on_token": None, "mean_elsewhere": None, "logit": float(x)} for f, x in zip(r.promotes, r.promotes_logit)]


def steering(run) -> list[dict]:
    r, text = run.result, words.text_of(run.result)
    return [{"writer": w, "strength": float(run.params.strength), "added_norm": float(r.added) if i else 0.0, "kl_nats": float(r.kl[i]), "continuation": str(r.continuation[i]),
             **{f"p {text[int(t)]}": float(p) for t, p in zip(r.changed, r.changed_p[i])}} for i, w in enumerate(WRITERS)]


def lacking(runs, name: str) -> bool:
    return all(not np.size(getattr(run.result, name)) for run in runs)
