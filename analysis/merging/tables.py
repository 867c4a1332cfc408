"""The data behind each card, whole."""

from __future__ import annotations

import pyarrow as pa

from analysis.merging import words
from metrics.permutation.singular import GAMMAS


def losses(run) -> pa.Table:
    r, rows = run.result, []
    for t, text in enumerate(r.texts):
        value, price = words.losses(run, t), words.cost(run, t)
        for i, (name, written) in enumerate(zip(words.names(r), (*r.parents, *r.merges))):
            k = i - len(r.parents)
            rows.append({"text": text, "name": name, "model": written, "loss_nats": value[i, 0], "low": value[i, 1], "high": value[i, 2], "over_parents_mean": price[k, 0] if k >= 0 else None,
                         "over_low": price[k, 1] if k >= 0 else None, "over_high": price[k, 2] if k >= 0 else None, "tokens": int(r.tokens[t].sum()), "parameters": int(r.parameters[i])})
    return pa.Table.from_pylist(rows)


def alignment(run) -> pa.Table:
    r = run.result
    return pa.Table.from_pylist([
        {"merge": words.step_of(m), "parent": words.LETTERS[k], "parent_is": ("as it is", "in the merge's order")[o], "gamma": float(g), "r": float(r.r[i, k, o, j]),
         "null_low": float(r.null[:, j].min()) if len(r.null) else None, "null_high": float(r.null[:, j].max()) if len(r.null) else None, "distance": float(r.distance[i, k])}
        for i, m in enumerate(r.merges) for k in range(len(r.parents)) for o in range(2) for j, g in enumerate(GAMMAS)])
