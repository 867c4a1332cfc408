"""The data behind each figure, whole, as Arrow tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from analysis.compression_skills import words

BOOKS = ("closed", "open", "wrong")


def _three(name: str, values) -> dict:
    return {name: _plain(values[0]), f"{name}_low": _plain(values[1]), f"{name}_high": _plain(values[2])}


def _plain(x) -> float | None:
    return float(x) if np.isfinite(x) else None


def skills(r) -> pa.Table:
    return pa.Table.from_pylist([
        {"skill": name, "book": BOOKS[k], "questions": words.asked(r, s), **_three("accuracy_a", r.accuracy_a[s, k]), **_three("accuracy_b", r.accuracy_b[s, k]),
         **_three("change", r.change[s, k]), **_three("change_of_ln_p_per_token", r.sure_change[s, k]), "only_a_right": int(r.lost[s, k]), "only_b_right": int(r.won[s, k]),
         "mcnemar_p": float(r.p[s, k])} for s, name in enumerate(r.skills) for k in range(3)])


def questions(r) -> pa.Table:
    names = [r.skills[s] for s in r.skill]
    columns = {"skill": names, "question": r.text.tolist(), "answer": r.answer.tolist()}
    for k, book in enumerate(BOOKS):
        columns |= {f"a_right_{book}": r.right_a[k], f"b_right_{book}": r.right_b[k], f"a_ln_p_{book}": r.log_p_a[k], f"b_ln_p_{book}": r.log_p_b[k]}
    return pa.table(columns)


def speed(r) -> pa.Table:
    rows = [{"what": "operations per token", "a": r.flops_a, "b": r.flops_b}, {"what": "stored bits", "a": r.bits_a, "b": r.bits_b}]
    rows += [{"what": f"seconds, repeat {i + 1}", "a": float(x), "b": float(y)} for i, (x, y) in enumerate(zip(r.seconds_a, r.seconds_b))]
    return pa.Table.from_pylist(rows)
