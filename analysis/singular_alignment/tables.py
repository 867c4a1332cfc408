"""The data behind each card, whole."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from analysis.singular_alignment.several import ORDERS, Several
from metrics.permutation.singular import GAMMAS


def path(r) -> pa.Table:
    n = r.tokens.sum()
    return pa.Table.from_pylist([
        {"order": m, "share_of_a": float(s), "loss_nats": float(r.nll[i, p].sum() / n), "top1_accuracy": float(r.right[i, p].sum() / n), "tokens": int(n)}
        for i, m in enumerate(r.methods) for p, s in enumerate(r.share)])


def summary(r) -> pa.Table:
    total, null = r.total()
    merged = r.merged()
    rows = []
    for i, m in enumerate(r.methods):
        row = {"order": m}
        for k, word in enumerate(("largest", "midpoint")):
            row |= {f"{word}_barrier_nats": float(r.barrier[i, k, 0]), f"{word}_low": float(r.barrier[i, k, 1]), f"{word}_high": float(r.barrier[i, k, 2])}
        row |= {"second_order_estimate_nats": float(r.taylor[i]), "distance_reduction_percent": float(r.reduction[i])}
        row |= {f"r_gamma_{g:g}": float(total[i, k]) for k, g in enumerate(GAMMAS) if g in (0.0, 0.3)}
        row |= {f"r_merged_with_a_gamma_{g:g}": float(merged[i, k]) for k, g in enumerate(GAMMAS) if g in (0.0, 0.3)}
        rows.append(row)
    return pa.Table.from_pylist(rows)


def alignment(r) -> pa.Table:
    """R of every matrix at every γ by order, with the ranks kept and the random orders' range."""
    weight = np.sqrt(r.ranks_a * r.ranks_b)
    safe = np.maximum(weight, 1e-300)
    null = r.null_sums / safe
    p, g = np.meshgrid(np.arange(len(r.piece)), np.arange(len(GAMMAS)), indexing="ij")
    columns = {"matrix": r.piece[p.ravel()].tolist(), "kind": r.kind[p.ravel()].tolist(), "block": r.layer[p.ravel()], "gamma": GAMMAS[g.ravel()],
               "rank_a": r.ranks_a.ravel(), "rank_b": r.ranks_b.ravel()}
    columns |= {f"r_{m.replace(' ', '_')}": (r.r_sums[i] / safe).ravel() for i, m in enumerate(r.methods)}
    columns |= {"random_lowest": null.min(0).ravel(), "random_highest": null.max(0).ravel(), "search_highest": (r.search_sums / safe).max(0).ravel()}
    return pa.table(columns)


def vectors(r) -> pa.Table:
    p, k = np.nonzero(np.isfinite(r.spectrum_a) | np.isfinite(r.spectrum_b))
    return pa.table({"matrix": r.piece[p].tolist(), "kind": r.kind[p].tolist(), "block": r.layer[p], "vector": k, "singular_value_a": r.spectrum_a[p, k],
                     "singular_value_b": r.spectrum_b[p, k], "input_along_it_a": r.along[p, k], "chance": r.chance[p]})


def intervention(r) -> pa.Table:
    cut = r.cut()
    return pa.Table.from_pylist([
        {"matched_on": f"{word} singular values", "midpoint_barrier_nats": float(r.cut_barrier[i, 0]), "low": float(r.cut_barrier[i, 1]), "high": float(r.cut_barrier[i, 2]),
         "units_as_by_all_weights": float(r.cut_agreement[i]), **{f"r_gamma_{g:g}": float(cut[i, k]) for k, g in enumerate(GAMMAS) if g in (0.0, 0.3)}}
        for i, word in enumerate(("large", "small"))])


def units(r) -> pa.Table:
    return pa.table({"space": r.fit_space.tolist(), "unit_a": r.fit_unit, "unit_b": r.fit_partner, "cosine": r.fit_cosine, "best_other": r.fit_other, "cosine_random": r.fit_null})


def heads(r) -> pa.Table:
    rows = [{"block": layer, "group_a": g, "group_b": int(r.head_partner[layer, g]), "cosine": float(r.head_cosine[layer, g, r.head_partner[layer, g]])}
            for layer in range(len(r.head_partner)) for g in range(r.head_partner.shape[1])]
    return pa.Table.from_pylist(rows)


def pairs(s: Several) -> pa.Table:
    n = len(s.parents)
    return pa.Table.from_pylist([{"orders": o, "model": "ABCDEFGH"[i], "other": "ABCDEFGH"[j], "midpoint_barrier_nats": float(s.pair_barrier[k, i, j])}
                                 for k, o in enumerate(ORDERS) for i in range(n) for j in range(i + 1, n)])


def triangle(s: Several) -> pa.Table:
    return pa.Table.from_pylist([{"orders": o, "share_a": float(w[0]), "share_b": float(w[1]), "share_c": float(w[2]), "loss_nats": float(s.corner_loss[k, p])}
                                 for k, o in enumerate(ORDERS) for p, w in enumerate(s.corner_weights)])


def cycles(s: Several) -> pa.Table:
    return pa.Table.from_pylist([{"models": " → ".join("ABCDEFGH"[m] for m in t), "space": kind, "cycle_error": float(s.cycle[i, k])}
                                 for i, t in enumerate(s.triples) for k, kind in enumerate(s.kinds)])
