"""The data behind each figure, whole, as Arrow tables: both counterfactuals, both conventions and all measures, whatever is shown."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyarrow as pa

from analysis.arithmetic_heads import reading
from analysis.arithmetic_heads.knockout import RANKED
from analysis.arithmetic_heads.scan import FASTER
from analysis.arithmetic_heads.tuning import SETS
from metrics.patching.end import MEASURES
from metrics.patching.end_attention import PLACES
from metrics.patching.path import CONVENTIONS
from metrics.patching.roles import CURVES
from metrics.prompts.wordings import CHANGES, OPERATORS

HALVES = ("discovery", "validation")


def _table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist([{k: _plain(v) for k, v in row.items()} for row in rows])


def _plain(value):
    if isinstance(value, (np.floating, float)):
        return None if np.isnan(value) else float(value)
    return value.item() if isinstance(value, np.generic) else value


def _kv(r, head: int) -> int:
    """The key/value group of a query head."""
    return head * r.n_kv // r.n_heads


def heads(runs) -> pa.Table:
    """Mean effect of every head with its interval, discovery and validation; relative logits as shares, the rest in nats."""
    rows = []
    for run, c, v, m, half in product(runs, range(2), range(2), range(3), range(2)):
        r, means = run.result, reading.heads(run.result, c, v, m, bool(half))
        rows += [{"run": run.label, "counterfactual": CHANGES[c], "mlps": CONVENTIONS[v], "measure": MEASURES[m], "prompts": HALVES[half],
                  "block": r.blocks[i], "head": h,
                  "kv_group": _kv(r, h), "effect": means[i, h, 0], "low": means[i, h, 1], "high": means[i, h, 2]} for i,
                 h in product(range(len(r.blocks)), range(r.n_heads))]
    return _table(rows)


def maps(runs) -> pa.Table:
    """Mean effect of every head and MLP on the discovery prompts, for each operator and over all."""
    rows = []
    for run, c, v, m in product(runs, range(2), range(2), range(3)):
        r = run.result
        for o in (None, *reading.operators(r)):
            head, mlp = reading.heads(r, c, v, m, operator=o), reading.mlps(r, c, v, m, o)
            base = {"run": run.label, "counterfactual": CHANGES[c], "mlps": CONVENTIONS[v], "measure": MEASURES[m],
                    "operator": "all" if o is None else OPERATORS[o]}
            for i, block in enumerate(r.blocks):
                rows.append({**base, "block": block, "sender": "MLP", "head": None, "effect": mlp[i, 0], "low": mlp[i, 1], "high": mlp[i, 2]})
                rows += [{**base, "block": block, "sender": "head", "head": h, "effect": head[i, h, 0], "low": head[i, h, 1],
                          "high": head[i, h, 2]} for h in range(r.n_heads)]
    return _table(rows)


def pairs(a, b) -> pa.Table:
    """Every head in A and in B and the paired difference, in both halves of the wordings; relative logits as shares, the rest in nats."""
    rows = []
    for c, v, m, half in product(range(2), range(2), range(3), range(2)):
        found = reading.both(a.result, b.result, c, v, m, bool(half))
        rows += [{"wordings": HALVES[half], "counterfactual": CHANGES[c], "mlps": CONVENTIONS[v], "measure": MEASURES[m], "block": a.result.blocks[i], "head": h,
                  "same_prompts": found.common, "prompts": found.n,
                  **{f"{name}{end}": values[i, h, k] for name, values in (("a", found.a), ("b", found.b), ("b_minus_a", found.difference)) for k,
                     end in enumerate(("", "_low", "_high"))}}
                 for i, h in product(range(len(a.result.blocks)), range(a.result.n_heads))]
    return _table(rows)


def knockout(runs) -> pa.Table:
    """Accuracy in the validation wordings after every knock-out, for each operator and over all."""
    rows = []
    for run in runs:
        r = run.result
        operator = r.operator[r.validation]
        for o in (None, *sorted(set(operator.tolist()))):
            here = np.ones(len(operator), bool) if o is None else operator == o
            rows += [{"run": run.label, "operator": "all" if o is None else OPERATORS[o], "heads": k,
                      "chosen": f"ranked, {CHANGES[x]}" if x < RANKED else "random", "draw": None if x < RANKED else x - RANKED,
                      "accuracy": accuracy(r, here)[j, x], "prompts": int(here.sum())} for j, k in enumerate(r.counts) for x in range(r.right.shape[1])]
    return _table(rows)


def accuracy(r, here: np.ndarray) -> np.ndarray:
    """[count, run] share right over the validation prompts of `here`, operators weighing the same."""
    among = np.zeros(len(r.key), bool)
    among[np.flatnonzero(r.validation)[here]] = True
    w = reading.weights(r, among)[r.validation]
    return (r.right * w).sum(-1) / w.sum()


def transfer(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        names = ["whole model", *(f"ranked, {c}" for c in CHANGES), *["random"] * (r.accuracy.shape[1] - 1 - RANKED)]
        rows += [{"run": run.label, "set": r.sets[s], "n": r.n[s], "unit": r.unit[s], "knocked_out": name, "heads": 0 if x == 0 else r.heads,
                  "accuracy": r.accuracy[s, x],
                  "low": r.span[s, x, 1] if x <= RANKED else None, "high": r.span[s, x, 2] if x <= RANKED else None, "log_p_answer_nats": r.score[s, x]}
                 for s in range(len(r.sets)) for x, name in enumerate(names)]
    return _table(rows)


def agreement(runs) -> pa.Table:
    """Exact path effects, MLPs recomputed, beside every other view of the same head; all heads, means over the discovery prompts."""
    rows = []
    for run, c, m in product(runs, range(2), range(3)):
        r, exact, frozen = run.result, reading.heads(run.result, c, 0, m)[..., 0], reading.heads(run.result, c, 1, m)[..., 0]
        rows += [{"run": run.label, "counterfactual": CHANGES[c], "measure": MEASURES[m], "block": r.blocks[i], "head": h,
                  "path, MLPs recomputed": exact[i, h], "path, MLPs frozen": frozen[i, h],
                  **{name: r.faster_effect[c, f, m, i, h] for f, name in enumerate(FASTER)}} for i, h in product(range(len(r.blocks)), range(r.n_heads))]
    return _table(rows)


def overlap(runs) -> pa.Table:
    rows = []
    for run, c in product(runs, range(2)):
        r, top = run.result, tops(run.result, c, run.params.top)
        rows += [{"run": run.label, "counterfactual": CHANGES[c], "operator": OPERATORS[x], "other": OPERATORS[y], "heads": run.params.top,
                  "shared": len(top[x] & top[y]),
                  "jaccard": len(top[x] & top[y]) / len(top[x] | top[y]), "shared_by_chance": run.params.top**2 / reading.n_heads(r)} for x,
                 y in product(top, top)]
    return _table(rows)


def tops(r, change: int, k: int) -> dict[int, set]:
    """The first k heads of each operator, by relative logit with MLPs recomputed."""
    return {o: set(reading.ranked(r, change, operator=o)[:k]) for o in reading.operators(r)}


def attention(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        rows += [{"run": run.label, "block": r.blocks[i], "head": h, "kv_group": _kv(r, h), "place": PLACES[p], "share": r.attention[i, h, p, 0],
                  "low": r.attention[i, h, p, 1], "high": r.attention[i, h, p, 2]}
                 for i, h, p in product(range(len(r.blocks)), range(r.n_heads), range(len(PLACES)))]
    return _table(rows)


def cosines(runs) -> pa.Table:
    return _table([{"run": run.label, "curve": CURVES[c], "block": run.result.blocks[i], "cosine": v[0], "low": v[1], "high": v[2]}
                   for run in runs for c, i in product(range(len(CURVES)), range(len(run.result.blocks))) for v in [run.result.cosine[c, i]]])


def pattern(runs) -> pa.Table:
    return _table([{"run": run.label, "prompt": run.result.prompt, "block": run.result.blocks[i], "head": h, "position": t,
                    "token": str(run.result.token[t]), "attention": run.result.pattern[i, h, t]}
                   for run in runs for i, h, t in product(*map(range, run.result.pattern.shape))])


def lens(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        states = ["embedding", *(f"after block {b}" for b in r.blocks)]
        rows += [{"run": run.label, "prompt": r.prompt, "state": s, "token": str(token), "probability": p, "kind": f"rank {k + 1}"} for i,
                 s in enumerate(states) for k, (token, p) in enumerate(zip(r.guess[i], r.guess_p[i]))]
        rows += [{"run": run.label, "prompt": r.prompt, "state": s, "token": str(token), "probability": p, "kind": "tracked"} for i,
                 s in enumerate(states) for token, p in zip(r.tracked, r.tracked_p[i])]
    return _table(rows)


def asked(runs) -> pa.Table:
    return _table([{"run": run.label, **row} for run in runs for row in run.result.asked.to_pylist()])


def tuning(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        rows += [{"run": run.label, "arm": r.arms[a], "heads": r.arm_heads[a], "weights_trained": r.arm_weights[a], "steps": 0 if a == 0 else r.steps,
                  "set": SETS[s], "n": r.tuned_n[s],
                  "accuracy": r.tuned_accuracy[a, s, 0], "low": r.tuned_accuracy[a, s, 1], "high": r.tuned_accuracy[a, s, 2],
                  "last_loss_nats": None if a == 0 else r.loss[a - 1, -1]}
                 for a, s in product(range(len(r.arms)), range(len(SETS)))]
    return _table(rows)
