"""The selection as a table to train on: the samples that a method takes, best first, each with its score and where it comes from."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from analysis.data_selection import words


def selection(run, method: int = 0) -> pa.Table:
    """rank, sample (its place in the pool), text, label, tokens, likeness (the chosen method's score), and on every row the provenance: method,
    share, target, model, pool, sae, seed, result (the key under which it is stored), commit. The Parquet file says it once more, whole."""
    r, p, rows = run.result, run.params, words.taken(run, method)
    target = f"{p.label} = {p.task}" if r.target[0, 0] >= 0 else p.target_text
    source = {"method": words.method(run, method), "share": p.budget / 100, "target": target, "model": run.subject, "pool": run.record.get("corpus") or "", "sae": r.sae,
              "seed": p.seed, "result": run.record.get("key") or "", "commit": run.record.get("commit") or ""}
    table = pa.table({
        "rank": np.arange(1, len(rows) + 1), "sample": rows.astype(np.int64), "text": [str(r.text[i]) for i in rows], "label": [str(r.label[i]) for i in rows],
        "tokens": r.length[rows].astype(np.int64), "likeness": pa.array(r.score[0][rows].astype(np.float64), from_pandas=True), **{k: [v] * len(rows) for k, v in source.items()}})
    return table.replace_schema_metadata({"microtome": json.dumps({**source, "params": {k: v for k, v in vars(p).items()}, "versions": run.record.get("versions", {})}, default=str)})


def take_away(runs) -> dict[str, pa.Table]:
    """What the chosen method takes, by run."""
    return {"selection" if len(runs) == 1 else f"selection-{run.label.lower()}": selection(run) for run in runs}
