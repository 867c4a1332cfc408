"""The data behind each figure, whole, as Arrow tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from analysis.compression_cost import words

SUMMARY = ("mean", "median", "p95", "p99")
CELLS = ("both right", "right to wrong", "wrong to right", "both wrong")


def _three(name: str, values) -> dict:
    return {name: _plain(values[0]), f"{name}_low": _plain(values[1]), f"{name}_high": _plain(values[2])}


def _plain(x) -> float | None:
    return float(x) if np.isfinite(x) else None


def tokens(r) -> pa.Table:
    """Every token: what it is, what comes next, what it lost."""
    text = {int(i): str(t) for i, t in zip(r.ids, r.texts)} | {-1: ""}
    names = np.array(r.groups)
    look = lambda ids: [text[int(i)] for i in ids]
    columns = {"sequence": r.sequence, "position": r.position, "strand": names[r.strand[r.sequence]], "token": look(r.token), "next": look(r.target),
               "kl_nats": r.kl, "kl_noise_nats": r.noise, "kl_before_healing_nats": r.before, "ln_p_a_next": r.log_a, "ln_p_b_next": r.log_b, "top_a": look(r.top_a), "top_b": look(r.top_b)}
    return pa.table({k: pa.array(v, from_pandas=True) for k, v in columns.items()})


def divergence(r) -> pa.Table:
    return pa.Table.from_pylist([{"model": model, "measure": SUMMARY[i], **_three("kl_nats", values[i])}
                                 for model, values in (("B", r.kl_summary), ("B before healing", r.before_summary), ("A with noise", r.noise_summary)) for i in range(len(SUMMARY))])


def strands(r) -> pa.Table:
    return pa.Table.from_pylist([
        {"strand": name, "sequences": int(r.group_sequences[g]), "tokens": int(r.group_tokens[g]), **_three("perplexity_a", np.exp(r.nll_a[g])),
         **_three("perplexity_b", np.exp(r.nll_b[g])), **_three("perplexity_b_over_a", np.exp(r.nll_change[g])), **_three("mean_kl_nats", r.group_kl[g])}
        for g, name in enumerate(r.groups)])


def flips(r) -> pa.Table:
    return pa.Table.from_pylist([
        {"strand": name, **{CELLS[i].replace(" ", "_"): int(r.flips[g, i]) for i in range(4)}, **_three("right_to_wrong_share", r.only_a[g]),
         **_three("wrong_to_right_share", r.only_b[g]), **_three("accuracy_change", r.accuracy_change[g]), **_three("agreement", r.agreement[g]),
         **_three("mcnemar_share_to_wrong", r.mcnemar[g, :3]), "mcnemar_p": float(r.mcnemar[g, 3])}
        for g, name in enumerate(r.groups)])


def positions(r) -> pa.Table:
    return pa.Table.from_pylist([{"strand": name, "first_position": int(s), "last_position": int(s) + r.bin_width - 1, **_three("mean_kl_nats", r.position_kl[g, i])}
                                 for g, name in enumerate(r.groups) for i, s in enumerate(r.bin_start)])


def weights(r) -> pa.Table:
    return pa.table({"block": r.weight_layer, "matrix": r.weight_name.tolist(), "relative_error": r.weight_error})


def worst(r, n: int = 200) -> pa.Table:
    return tokens(r).take(pa.array(words.worst(r, n))).append_column("context", [[context(r, i, 40) for i in words.worst(r, n)]])


def context(r, i: int, most: int) -> str:
    """The text up to token i of its sequence, whole tokens, at most `most` characters and at least one token."""
    text = {int(k): str(t) for k, t in zip(r.ids, r.texts)}
    out = text[int(r.token[i])]
    for k in range(i - 1, i - int(r.position[i]) - 1, -1):
        if len(out) + len(text[int(r.token[k])]) > most:
            break
        out = text[int(r.token[k])] + out
    return out.replace("\n", "⏎")
