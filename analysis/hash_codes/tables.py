"""What cards and words read off a Result: means over rows, bits that differ between two models, tables of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from analysis.hash_codes.attention import BITS, METHODS
from analysis.hash_codes.sparsity import CUTS, TAUS

GUESSERS = ("linear predictor", "own on-fraction")
CLASSES = ("always off", "up to 10 %", "10–50 %", "50–90 %", "90 % and more", "always on")


def where(table: pa.Table, **wanted) -> list[dict]:
    return [row for row in table.to_pylist() if all(row[k] == v for k, v in wanted.items())]


def classes_of(on: np.ndarray) -> np.ndarray:
    """Units in each of CLASSES by how often they are on, int64 [..., class] of on [..., unit]."""
    inner = [(on > 0) & (on < 0.1), (on >= 0.1) & (on < 0.5), (on >= 0.5) & (on < 0.9), (on >= 0.9) & (on < 1)]
    return np.stack([(m).sum(-1) for m in (on == 0, *inner, on == 1)], -1)


def told(r) -> tuple[np.ndarray, np.ndarray]:
    """(precision, recall) of “off”, float64 [layer, guesser, cut]; NaN where nothing was said to be, or is, off."""
    hit, wrong, missed = np.moveaxis(r.told.astype(np.float64), -1, 0)
    with np.errstate(invalid="ignore"):
        return hit / (hit + wrong), hit / (hit + missed)


@dataclass(frozen=True, eq=False)
class Flips:
    """B against A: share of bits that differ, float64 [layer], its spread over units (10 and 90 %), and float64 [position] of the
    passage over all common layers (NaN at position 0; empty where the passage reads differently). kept: mean share of each unit's
    nine neighbours that B has too; NaN where the units differ. `same` units were compared."""

    layers: tuple[int, ...]
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    passage: np.ndarray
    same: int
    kept: float
    each: np.ndarray  # float64 [unit], neighbours kept
    why_not: str = ""


def flips(a, b) -> Flips:
    """Bits of the same unit (sequence, position, token) compared in both models; empty with the reason where they cannot be."""
    layers = tuple(int(i) for i in a.layers if i in set(b.layers.tolist()))
    nothing = lambda why: Flips((), *[np.zeros(0)] * 4, 0, np.nan, np.zeros(0), why)
    if a.planes != b.planes or a.d_mlp != b.d_mlp:
        return nothing(f"A has {a.d_mlp:,} units a block in {' and '.join(a.planes)}, B {b.d_mlp:,} in {' and '.join(b.planes)}: their bits do not answer to each other.")
    key = lambda r: {(s, p, t): n for n, (s, p, t) in enumerate(zip(r.sequence.tolist(), r.position.tolist(), r.token.tolist()))}
    ka, kb = key(a), key(b)
    common = [u for u in ka if u in kb]
    if not common or not layers:
        return nothing("A and B were not coded at the same tokens.")
    at = lambda r, codes, rows: np.ascontiguousarray(codes[rows][:, [list(r.layers).index(i) for i in layers]])
    n_bits = a.d_mlp * len(a.planes)
    differ = lambda x, y: np.bitwise_count(x ^ y).sum(-1, dtype=np.int64) / n_bits
    share = differ(at(a, a.codes, [ka[u] for u in common]), at(b, b.codes, [kb[u] for u in common]))
    passage = np.zeros(0)
    if np.array_equal(a.row_ids, b.row_ids):
        passage = differ(at(a, a.row_codes, slice(None)), at(b, b.row_codes, slice(None))).mean(1)
        passage[0] = np.nan
    kept, each = np.nan, np.zeros(0)
    if len(common) == len(ka) == len(kb) and a.nearest.shape == b.nearest.shape:
        each = overlap(a.nearest[0], b.nearest[0])
        kept = float(each.mean())
    return Flips(layers, share.mean(0), np.quantile(share, 0.1, 0), np.quantile(share, 0.9, 0), passage, len(common), kept, each)


def overlap(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of the neighbours x [unit, k] that are among y [unit, k] too, float64 [unit]."""
    return (x[:, :, None] == y[:, None, :]).any(2).mean(1)


def texts(r) -> dict[int, str]:
    """Token id to text; spaces trimmed, line ends shown, never markup."""
    clean = lambda t: (t.replace("\n", "⏎").strip() or "␣").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {int(i): clean(str(t)) for i, t in zip(r.token_ids, r.token_texts)}


def neighbours(r) -> pa.Table:
    n, text, rows = r.neighbours, texts(r), []
    for s, source in enumerate(("sign codes", "random hyperplanes")):
        for rank in range(n["ids"].shape[1]):
            if rank == 0 or n["sequence"][s, rank] >= 0:
                for w, i in enumerate(n["ids"][s, rank]):
                    if i >= 0:
                        rows.append(dict(source=source, rank=rank, sequence=int(n["sequence"][s, rank]), position=int(n["position"][s, rank]), distance_bits=int(n["distance"][s, rank]),
                                         place=w, token=text[int(i)], share_of_bits_differing=float(n["share"][s, rank, w])))
    return pa.Table.from_pylist(rows)


def units(runs) -> pa.Table:
    rows = [dict(run=run.label, plane=p, layer=int(i), unit=u, on_fraction=float(v))
            for run in runs for k, p in enumerate(run.result.planes) for j, i in enumerate(run.result.layers) for u, v in enumerate(run.result.on_fraction[k, j])]
    return pa.Table.from_pylist(rows)


def joined(runs, field: str) -> pa.Table:
    """The rows of one table of every run, with a column that says which."""
    return pa.concat_tables([t.add_column(0, "run", pa.array([run.label] * len(t))) for run in runs if (t := getattr(run.result, field)).num_rows], promote_options="default")


def sparsity(runs) -> pa.Table:
    rows = []
    for run in runs:
        precision, recall = told(run.result)
        for j, i in enumerate(run.result.layers):
            rows += [dict(run=run.label, layer=int(i), guesser=g, off_below=c, precision=float(precision[j, k, n]), recall=float(recall[j, k, n]), off_share=float(run.result.base[j, 0] / run.result.base[j, 1]))
                     for k, g in enumerate(GUESSERS) for n, c in enumerate(CUTS)]
    damage = joined(runs, "damage")
    return pa.concat_tables([pa.Table.from_pylist(rows), damage], promote_options="default")


def magnitude(runs) -> pa.Table:
    return pa.Table.from_pylist([dict(run=run.label, layer=int(i), tau=t, share=float(run.result.small[j, k])) for run in runs for j, i in enumerate(run.result.layers) for k, t in enumerate((0.0, *TAUS))])


def attention(runs) -> pa.Table:
    rows = []
    for run in runs:
        r = run.result
        for m, method in enumerate(METHODS):
            for b, bits in enumerate(BITS if m < 2 else BITS[:1]):
                rows += [dict(run=run.label, method=method, bits=bits if m < 2 else None, layer=i, head=h, recall=float(r.recall[m, b, i, h]), mass=float(r.mass[m, b, i, h]), true_mass=float(r.true_mass[i, h]), chance=float(r.chance))
                         for i in range(r.recall.shape[2]) for h in range(r.recall.shape[3])]
    return pa.Table.from_pylist(rows) if rows else pa.table({"layer": pa.array([], pa.int64())})


def flipped(f: Flips, r) -> pa.Table:
    text = texts(r)
    rows = [dict(layer=int(i), share_of_bits=float(s), low_10=float(lo), high_90=float(hi)) for i, s, lo, hi in zip(f.layers, f.share, f.low, f.high)]
    rows += [dict(unit=n, sequence=int(s), position=int(p), token=text.get(int(t), str(t)), neighbours_kept=float(f.each[n])) for n, (s, p, t) in enumerate(zip(r.sequence, r.position, r.token)) if len(f.each)]
    rows += [dict(passage_position=p, token=text.get(int(t), str(t)), share_of_bits=float(f.passage[p])) for p, t in enumerate(r.row_ids) if len(f.passage)]
    columns = ("layer", "share_of_bits", "low_10", "high_90", "unit", "sequence", "position", "token", "neighbours_kept", "passage_position")
    return pa.Table.from_pylist([{c: row.get(c) for c in columns} for row in rows])
