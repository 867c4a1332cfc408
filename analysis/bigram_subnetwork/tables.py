"""The data behind each figure, whole, as Arrow tables."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyarrow as pa

from analysis.bigram_subnetwork import words
from analysis.bigram_subnetwork.result import BASE, CURVES, LENS, ROLES, RULES
from metrics.subnetworks import ATTENTION


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist([{k: _plain(v) for k, v in row.items()} for row in rows])


def _plain(value):
    if isinstance(value, (np.floating, float)):
        return None if np.isnan(value) else float(value)
    return value.item() if isinstance(value, np.generic) else value


def _mask(r, i: int) -> dict:
    return {"mask": words.name(r, i), "kind": r.kind[i], "penalty": r.penalty[i], "penalty_per_weight": r.penalty[i] / r.n_weights,
            "active": r.active[i], "share": words.share(r, i)}


def sweep(runs) -> pa.Table:
    """r and losses of every mask in every role, and of the full and the empty model."""
    rows = []
    for run in runs:
        r, head = run.result, {"run": run.label, "subject": run.subject}
        for i, role in product(range(len(r.kind)), range(4)):
            if np.isfinite(r.loss[i, role, 0]):
                rows.append({**head, **_mask(r, i), "role": ROLES[role], **_r(r.r[:, i, role]), **_three("loss_bits", r.loss[i, role]), **_three("excess_bits", r.excess[i, role]),
                             **_three("r_with_whole_model", r.to_model[i] if role == 0 else [np.nan] * 3)})
        for b, base in enumerate(BASE):
            rows.append({**head, "mask": base, "kind": base, "penalty": np.nan, "penalty_per_weight": np.nan, "active": r.n_weights if b == 0 else 0, "share": float(b == 0), "role": base,
                         **_r(r.base_r[:, b]), **_three("loss_bits", r.base_loss[b]), **_three("excess_bits", r.base_excess[b]), **_three("r_with_whole_model", [np.nan] * 3)})
    return table(rows)


def _r(values) -> dict:
    return {k: v for rule, name in enumerate(RULES) for k, v in _three(f"r_{name}", values[rule]).items()}


def _three(name: str, values) -> dict:
    return {name: values[0], f"{name}_low": values[1], f"{name}_high": values[2]}


def curves(runs) -> pa.Table:
    """Every step of every training, with the schedule."""
    rows = []
    for run in runs:
        r = run.result
        for i in np.flatnonzero(np.isfinite(r.curves[0]).any(1)) if r.curves.shape[2] else ():
            for t in np.flatnonzero(np.isfinite(r.curves[0, i])):
                rows.append({"run": run.label, **_mask(r, i), "step": t + 1, **{name: r.curves[c, i, t] for c, name in enumerate(CURVES)},
                             "settled": r.settled[i], "stable": r.stable[i], "attempt": r.attempt[i] + 1, "hard_minus_soft_nats": r.gap[i]})
    return table(rows)


def places(runs) -> pa.Table:
    """Active weights of each mask by block and component."""
    return table([
        {"run": run.label, **_mask(r, i), "block": block, "component": component, "active_here": r.layer[i, block, c], "of": r.layer_total[block, c],
         "share_of_subnetwork": r.layer[i, block, c] / max(r.active[i], 1), "kept": r.layer[i, block, c] / max(r.layer_total[block, c], 1)}
        for run in runs for r in [run.result] for i, block, (c, component) in product(range(len(r.kind)), range(r.n_layers), list(enumerate(r.components)))
    ])


def heads(runs) -> pa.Table:
    return table([
        {"run": run.label, **_mask(r, i), "block": block, "component": ATTENTION[c], "head": h, "active_here": r.head[i, block, c, h], "of": r.head_total[block, c, h]}
        for run in runs for r in [run.result] for i, block, c, h in product(range(len(r.kind)), range(r.n_layers), range(4), range(r.n_heads)) if np.isfinite(r.head[i, block, c, h])
    ])


def views(r) -> list[str]:
    return [str(role) if m < 0 else f"{words.name(r, m)}, {role}" for m, role in zip(r.view_mask, r.view_role)]


def rotations(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        for v, name in enumerate(views(r)):
            rows += [{"run": run.label, "model": name, "state": s, "to_input_degrees": r.rotation[v, s, 0], "to_output_degrees": r.rotation[v, s, 1],
                      **{LENS[k]: r.lens[v, s, k] for k in range(len(LENS))}} for s in range(r.rotation.shape[1])]
    return table(rows)


def covariance(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        n = r.covariance.shape[1]
        rows += [{"run": run.label, "model": name, "state": i, "other": j, "similarity": r.covariance[v, i, j]} for v, name in enumerate(views(r)) for i, j in product(range(n), range(n))]
    return table(rows)


def overlaps(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        for (i, j), (shared, a, b, n, expected, spread, by_rows) in zip(r.pair, r.shared):
            rows.append({"run": run.label, "a": words.name(r, i), "b": words.name(r, j), "weights": n, "a_active": a, "b_active": b, "shared": shared, "expected": expected,
                         "spread": spread, "z": (shared - expected) / spread if spread else np.nan, "ratio": shared / expected if expected else np.nan,
                         "expected_rows_shuffled": by_rows, "share_of_a": shared / max(a, 1), "share_of_b": shared / max(b, 1)})
    return table(rows)


def texts(runs) -> pa.Table:
    return table([{"run": run.label, "prompt": r.prompt, "model": "whole" if m < 0 else words.name(r, m), "role": role, "text": text}
                  for run in runs for r in [run.result] for m, role, text in zip(r.text_mask, r.text_role, r.texts)])


def compression(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        for i in r.of_kind("before"):
            rows.append({"run": run.label, "subject": run.subject, **_mask(r, i), "share_removed": r.pruned[i, 0], "share_removed_of_all": r.pruned[i, 1], "z": r.pruned[i, 2],
                         "moved": r.moved[i, 0], "moved_of_all": r.moved[i, 1], **_r(r.r[:, i, 0]), **{f"random_{k}": v for k, v in _r(r.r[:, i, 1]).items()}})
    return table(rows)


def along(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        for c, checkpoint in enumerate(r.along):
            for b, base in enumerate(BASE):
                rows.append({"run": run.label, "checkpoint": checkpoint, "model": base, "penalty": np.nan, "active": r.n_weights if b == 0 else 0, **_r(r.along_base[:, c, b])})
            rows += [{"run": run.label, "checkpoint": checkpoint, "model": "bigram", "penalty": r.penalty[i], "active": r.along_active[c, k], **_r(r.along_r[:, c, k])}
                     for k, i in enumerate(r.of_kind("bigram"))]
    return table(rows)


def controls(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        rows += [{"run": run.label, "model": name, "active": r.control_active[i], **_r(r.control_r[:, i])} for i, name in enumerate(r.controls)]
    return table(rows)
