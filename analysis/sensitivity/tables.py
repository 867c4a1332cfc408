"""The data behind each figure, whole, as Arrow tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def _three(name: str, values) -> dict:
    return {name: _plain(values[0]), f"{name}_low": _plain(values[1]), f"{name}_high": _plain(values[2])}


def _plain(x) -> float | None:
    return float(x) if np.isfinite(x) else None


def parts(r) -> pa.Table:
    return pa.Table.from_pylist([
        {"block": int(r.layer[u]), "matrix": str(r.name[u]), "changed": bool(r.changed[u]), **_three("isolated_kl_nats", r.part_kl[u]), **_three("noise_kl_nats", r.part_noise[u]),
         "weight_error": float(r.weight_error[u]), "output_error_isolated": float(r.output_isolated[u]), "output_error_accumulated": float(r.output_accumulated[u]),
         "zeros_a": float(r.zeros_a[u]), "zeros_b": float(r.zeros_b[u])} for u in range(len(r.layer))])


def blocks(r) -> pa.Table:
    rows = [{"part": f"block {layer}", **_three("isolated_kl_nats", r.block_kl[i]), **_three("noise_kl_nats", r.block_noise[i]), **_three("accumulated_kl_nats", r.accumulated[i])}
            for i, layer in enumerate(r.layers)]
    return pa.Table.from_pylist([*rows, {"part": "embeddings, final norm, head", **_three("isolated_kl_nats", r.outside)}, {"part": "whole", **_three("accumulated_kl_nats", r.whole)}])


def stream(r) -> pa.Table:
    after = ["embeddings", *(f"block {layer}" for layer in r.layers)]
    return pa.Table.from_pylist([{"after": name, **_three("one_minus_cos", r.stream[s]), **{f"noise_draw_{k}": float(v) for k, v in enumerate(r.stream_noise[:, s])}}
                                 for s, name in enumerate(after)])


def spectra(r) -> pa.Table:
    unit, rank = np.nonzero(np.isfinite(r.spectrum_a))
    return pa.table({"block": r.layer[unit], "matrix": r.name[unit].tolist(), "index": rank + 1, "a": r.spectrum_a[unit, rank], "b": r.spectrum_b[unit, rank]})


def masks(r) -> pa.Table:
    unit, row, column = (x.ravel() for x in np.indices(r.density.shape))
    return pa.table({"block": r.layer[unit], "matrix": r.name[unit].tolist(), "row_square": row, "column_square": column, "share_not_zero": r.density.ravel()})
