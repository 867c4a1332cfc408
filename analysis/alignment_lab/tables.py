"""The data behind each card, whole."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from analysis.alignment_lab.pairs import FEW
from analysis.alignment_lab.triple import ORDERS
from metrics.permutation.singular import GAMMAS


def path(r) -> pa.Table:
    return pa.Table.from_pylist([
        {"pair": k, "order": m, "share_of_a": float(s), **{f"{name}_{what}": float(r.path[k, i, p, t, j]) for t, name in enumerate(("train", "test")) for j, what in enumerate(("loss_nats", "accuracy"))}}
        for k in range(len(r.path)) for i, m in enumerate(r.methods) for p, s in enumerate(r.share)])


def summary(r) -> pa.Table:
    return pa.Table.from_pylist([
        {"pair": k, "order": m, **{f"{name}_{word}_barrier_nats": float(r.barrier[k, i, j, t]) for t, name in enumerate(("train", "test")) for j, word in enumerate(("largest", "midpoint"))},
         "second_order_estimate_nats": float(r.taylor[k, i]), "distance_reduction_percent": float(r.reduction[k, i])}
        for k in range(len(r.path)) for i, m in enumerate(r.methods)])


def alignment(r) -> pa.Table:
    rows = []
    for k in range(len(r.r)):
        for i, m in enumerate(r.methods):
            for g, gamma in enumerate(GAMMAS):
                row = {"pair": k, "order": m, "gamma": float(gamma), "r": float(r.r[k, i, g]), "r_merged_with_a": float(r.merged[k, i, g]), "null_low": float(r.null[k, :, g].min()), "null_high": float(r.null[k, :, g].max()), "search_low": float(r.search_null[k, :, g].min()), "search_high": float(r.search_null[k, :, g].max())}
                for p in range(r.r_piece.shape[2]):
                    row |= {f"r_layer_{p}": float(r.r_piece[k, i, p, g]), f"kept_a_layer_{p}": int(r.ranks[k, 0, p, g]), f"kept_b_layer_{p}": int(r.ranks[k, 1, p, g])}
                rows.append(row)
    return pa.Table.from_pylist(rows)


def intervention(r) -> pa.Table:
    return pa.Table.from_pylist([
        {"pair": k, "matched_on": word, "midpoint_barrier_nats": float(r.cut_barrier[k, c]), "share_of_units_as_by_all_weights": float(r.cut_agreement[k, c]), **{f"r_gamma_{g:g}": float(r.cut_r[k, c, j]) for j, g in enumerate(GAMMAS)}}
        for k in range(len(r.cut_r)) for c, word in enumerate(("large singular values", "small singular values"))])


def vectors(r) -> pa.Table:
    return pa.Table.from_pylist([
        {"layer": p, "vector": v, "s_a": float(r.spectra[0, p, v]), "s_b": float(r.spectra[1, p, v]), "input_along": float(r.along[p, v]), "chance": float(r.chance[p])}
        for p in range(r.spectra.shape[1]) for v in np.flatnonzero(np.isfinite(r.spectra[:, p]).any(0))])


def sweeps(r) -> pa.Table:
    return pa.Table.from_pylist([
        {"axis": axis, "value": int(x), "pair": k, "order": m, "midpoint_barrier_nats": float(barrier[i, k, j]), "mean_accuracy_of_parents": float(accuracy[i, k]), **{f"r_gamma_{g:g}": float(aligned[i, k, j, n]) for n, g in enumerate(GAMMAS) if g in (0, 0.3)}}
        for axis, xs, barrier, aligned, accuracy in (("width", r.widths, r.width_barrier, r.width_r, r.width_accuracy), ("epoch", r.epochs, r.epoch_barrier, r.epoch_r, r.epoch_accuracy))
        for i, x in enumerate(xs) for k in range(barrier.shape[1]) for j, m in enumerate(FEW)])


def units(r) -> pa.Table:
    n = r.units.shape[-1]
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    return pa.concat_tables([pa.table({"layer": np.full(n * n, s), "order": [word] * (n * n), "unit_of_a": i.ravel(), "place_in_b": j.ravel(), "cosine": r.units[s, k].ravel().astype(np.float64)})
                             for s in range(len(r.units)) for k, word in enumerate(("as they are", "weights"))])


def triangle(r) -> pa.Table:
    return pa.Table.from_pylist([{"order": o, "first": float(w[0]), "second": float(w[1]), "third": float(w[2]), "loss_nats": float(r.corner_loss[k, i])} for k, o in enumerate(ORDERS) for i, w in enumerate(r.corner_weights)])
