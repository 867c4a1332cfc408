"""Two checkpoints side by side without running either: configs field by field, weights tensor by tensor, tokenizers by facts.

Differences are B − A. Reads both files in pieces, so memory stays flat.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa

from models import configs, headers, inspect, vocabulary, weights


def of_configs(a: Path, b: Path) -> pa.Table:
    """Fields that differ or that one lacks (written as JSON; empty where absent)."""
    left, right = configs.read(a).fields, configs.read(b).fields
    names = sorted(name for name in {*left, *right} if left.get(name, math.nan) != right.get(name, math.nan))
    written = lambda fields, name: json.dumps(fields[name]) if name in fields else ""
    return pa.table({"field": names, "A": [written(left, n) for n in names], "B": [written(right, n) for n in names]}, schema=pa.schema([(c, pa.string()) for c in ("field", "A", "B")]))


def of_weights(a: Path, b: Path, progress=None) -> pa.Table:
    """One row per tensor name of either: status (equal, changed, other shape, only in A, only in B, not read), norms, cosine.

    relative = ‖B − A‖ / ‖A‖; changed = share of elements that differ; largest = max |B − A|. Null where there is no pair.
    """
    left, right = weights.read(a).tensors, weights.read(b).tensors
    names = list(dict.fromkeys((*left, *right)))
    rows = []
    for i, name in enumerate(names):
        if progress is not None:
            progress.step(i, len(names), name)
        rows.append({"name": name, "block": inspect.block_of(name), "part": inspect.part_of(name)} | _pair(a, left.get(name), b, right.get(name)))
    numbers = ("norm A", "norm B", "norm of difference", "relative", "cosine", "largest", "changed")
    schema = pa.schema([("name", pa.string()), ("block", pa.int32()), ("part", pa.string()), ("status", pa.string()), *((n, pa.float64()) for n in numbers)])
    return pa.Table.from_pylist(rows, schema=schema)


def _pair(a: Path, one, b: Path, other) -> dict:
    if one is None or other is None:
        return {"status": "only in B" if one is None else "only in A"}
    if one.shape != other.shape:
        return {"status": "other shape"}
    if not (inspect.readable(one) and inspect.readable(other)):
        return {"status": "not read"}
    squares_a = squares_b = product = squares = largest = 0.0
    changed = 0
    for x, y in zip(inspect.pieces(a, one), inspect.pieces(b, other), strict=True):
        x, y = x.astype(np.float64), y.astype(np.float64)
        difference = y - x
        squares_a, squares_b, product = squares_a + float(x @ x), squares_b + float(y @ y), product + float(x @ y)
        squares, changed = squares + float(difference @ difference), changed + int(np.count_nonzero(~((x == y) | (np.isnan(x) & np.isnan(y)))))
        largest = max(largest, float(np.abs(difference).max(initial=0.0)))
    norm_a, norm_b = math.sqrt(squares_a), math.sqrt(squares_b)
    return {
        "status": "changed" if changed else "equal", "norm A": norm_a, "norm B": norm_b, "norm of difference": math.sqrt(squares),
        "relative": math.sqrt(squares) / norm_a if norm_a > 0 else None, "cosine": product / (norm_a * norm_b) if norm_a > 0 and norm_b > 0 else None,
        "largest": largest, "changed": changed / one.n_elements if one.n_elements else 0.0,
    }


def tokenizer_facts(folder: Path) -> dict[str, object] | None:
    """Kind, sizes, special tokens and longest token from tokenizer.json, without building a tokenizer; None where there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    table = headers.strict_json(path.read_bytes(), "tokenizer.json", vocabulary.MAX_TOKENIZER)
    model = table.get("model") if isinstance(table, dict) and isinstance(table.get("model"), dict) else {}
    vocab = model.get("vocab") or {}
    tokens = list(vocab) if isinstance(vocab, dict) else [entry[0] for entry in vocab if isinstance(entry, list) and entry]
    added = [entry for entry in table.get("added_tokens") or [] if isinstance(entry, dict)] if isinstance(table, dict) else []
    kind = lambda name: (table.get(name) or {}).get("type") if isinstance(table.get(name), dict) else None
    return {
        "kind": model.get("type"), "tokens": len({*map(str, tokens), *(str(e.get("content")) for e in added)}), "merges": len(model.get("merges") or []),
        "added tokens": [str(e.get("content"))[:60] for e in added][:100], "longest token": max(map(str, tokens), key=len, default="")[:120],
        "byte fallback": bool(model.get("byte_fallback")), "normalizer": kind("normalizer"), "pre-tokenizer": kind("pre_tokenizer"),
        "special": vocabulary.special_tokens(folder),
    }
