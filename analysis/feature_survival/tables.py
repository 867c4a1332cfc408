"""The data behind each figure, whole, as Arrow tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from analysis.feature_survival import words
from analysis.feature_survival.measure import FATES

MODELS = ("A", "B", "control")


def _plain(x) -> float | None:
    return float(x) if np.isfinite(x) else None


def features(r) -> pa.Table:
    """Every feature of the dictionary."""
    name = np.array([*FATES, ""])
    columns = {"feature": np.arange(r.d_sae), "fate": name[r.fate[0]]}
    for i, model in enumerate(MODELS[: len(r.fired)]):
        columns |= {f"fires_{model}": r.fired[i], f"rate_{model}": r.fired[i] / r.n_tokens, f"mean_activation_{model}": r.mean[i]}
        if i:
            columns[f"correlation_A_{model}"] = r.correlation[i]
    return pa.table({k: pa.array(v, from_pandas=True) for k, v in columns.items()})


def fates(r) -> pa.Table:
    return pa.Table.from_pylist([
        {"model": model, **{fate: int(n) for fate, n in zip(FATES, words.counts(r, pair))}, "damaged_share": _plain(r.damaged[pair, 0]), "damaged_low": _plain(r.damaged[pair, 1]),
         "damaged_high": _plain(r.damaged[pair, 2])} for pair, model in enumerate(MODELS[1 : len(r.fired)])])


def reconstruction(r) -> pa.Table:
    rows = []
    for i, model in enumerate(MODELS[: len(r.fired)]):
        for name in ("explained", "mse", "l0", "loss", "spliced", "zeroed", "recovered"):
            value, low, high = getattr(r, name)[i]
            rows.append({"model": model, "measure": name, "value": _plain(value), "low": _plain(low), "high": _plain(high)})
    return pa.Table.from_pylist(rows)


def worst(r) -> pa.Table:
    text = words.text_of(r)
    rows = []
    for i, feature in enumerate(r.worst):
        row = {"feature": int(feature), "fate": FATES[r.fate[0, feature]], "fires_A": int(r.fired[0, feature]), "fires_B": int(r.fired[1, feature])}
        for pair, model in enumerate(MODELS[1 : len(r.fired)]):
            row |= {f"correlation_A_{model}{end}": _plain(x) for end, x in zip(("", "_low", "_high"), r.worst_correlation[pair, i])}
        row |= {"promoted": [text[int(t)] for t in r.up[i]], "suppressed": [text[int(t)] for t in r.down[i]]}
        for side, model in enumerate("AB"):
            row[f"contexts_{model}"] = [words.context(r, i, side, e) for e in range(r.window.shape[2]) if r.window[i, side, e].max() >= 0]
        rows.append(row)
    return pa.Table.from_pylist(rows) if rows else pa.table({"feature": pa.array([], pa.int64())})


def contexts(r, i: int | None = None) -> pa.Table:
    """Every token of the windows with its activation on each model; `i`: of one feature."""
    text, rows = words.text_of(r), []
    for k in range(len(r.worst)) if i is None else [i]:
        for side in range(2):
            for e in range(r.window.shape[2]):
                for w, at in enumerate(r.window[k, side, e]):
                    if at >= 0:
                        rows.append({"feature": int(r.worst[k]), "largest_on": "AB"[side], "example": e, "place": w - words.BEFORE, "token": text[int(r.token[at])],
                                     **{f"activation_{m}": float(r.seen[j, k, side, e, w]) for j, m in enumerate(MODELS[: len(r.fired)])}})
    return pa.Table.from_pylist(rows) if rows else pa.table({"feature": pa.array([], pa.int64())})
