"""A pool of any length, passed over in pieces: first its labels and words, then its samples against every draw of target examples.

What is kept of a sample are a few numbers for each draw, its text and label; its code goes to a file that is mapped, not read, so that
memory does not grow with the features of the pool. Activations never outlive their piece.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from analysis.data_selection.embed import Embedded, coder, counted, counts, embed, vocabulary
from metrics import selection
from metrics.selection import Frequencies
from models.corpus import Tokens

PIECE = 256  # samples in memory at one time


@dataclass(frozen=True, eq=False)
class Survey:
    """samples: text, label (empty where there is none), tokens that count; labels: names of the pool's labels."""

    samples: pa.Table
    labels: tuple[str, ...]
    words: Frequencies

    def __len__(self) -> int:
        return self.samples.num_rows


@dataclass(frozen=True, eq=False)
class Target:
    """A draw of target examples: prototype [feature], raw [d_model], rds [example, d_model], queries [example, token], rows of the pool
    (empty for a text of the user's own), and the words of the other samples."""

    rows: np.ndarray
    prototype: np.ndarray
    raw: np.ndarray
    rds: np.ndarray
    queries: np.ndarray
    others: Frequencies


@dataclass(frozen=True, eq=False)
class Codes:
    """CSR [sample, feature] in two mapped files."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Passed:
    """score, cosine, bm25 float32 [draw, sample]; rds: a [sample, example] float32 for each draw; mean [feature] over the pool, fires [feature]
    in at least one sample."""

    score: np.ndarray
    cosine: np.ndarray
    bm25: np.ndarray
    rds: list[np.ndarray]
    codes: Codes
    mean: np.ndarray
    fires: np.ndarray


def used_of(t: Tokens, params) -> torch.Tensor:
    return counted(torch.from_numpy(t.ids), torch.from_numpy(t.keep), t.spans, params.part, params.first_token)


def survey(capture, n_vocabulary: int, params, progress) -> Survey:
    """The first pass, without the model."""
    parts, labels, words, n = [], set(), Frequencies(0, 0.0, np.zeros(n_vocabulary, np.int64)), 0
    for t, texts in capture.pieces(PIECE):
        used = used_of(t, params)
        words += Frequencies.of(counts(torch.from_numpy(t.ids), used, n_vocabulary))
        named = t.labels.get(params.label)
        parts.append(pa.table({"text": pa.array(texts, pa.large_string()), "label": pa.array([""] * len(texts) if named is None else [str(x) for x in named], pa.large_string()),
                               "tokens": used.sum(1).numpy()}))
        labels.update(t.labels)
        n += len(texts)
        progress.step(n, capture.corpus.n_sequences, f"reading, {n:,} samples")
    return Survey(pa.concat_tables(parts), tuple(sorted(labels)), words)


def rows_of(capture, rows: np.ndarray) -> list[Tokens]:
    """The samples at these ascending places of the pool, as tokens, piece by piece."""
    found, start = [], 0
    for t, _ in capture.pieces(PIECE):
        here = rows[(rows >= start) & (rows < start + len(t.ids))] - start
        if len(here):
            found.append(Tokens(t.ids[here], t.keep[here], {}, {name: span[here] for name, span in t.spans.items()}))
        start += len(t.ids)
        if start > rows[-1]:
            break
    return found


def read(model, sae, pieces: list[Tokens], params) -> Embedded:
    """Some samples, whole: target examples."""
    from scipy.sparse import vstack

    make = coder(sae, params.pooling, params.k)
    found = [embed(model, sae, torch.from_numpy(t.ids), used_of(t, params), params.pooling, params.k, encoder=make) for t in pieces]
    join = lambda name: np.concatenate([getattr(e, name) for e in found])
    return Embedded(vstack([e.codes for e in found], "csr"), join("raw"), join("rds"), vstack([e.tokens for e in found], "csr"), join("length"))


def target(aim: Embedded, at: np.ndarray, rows: np.ndarray, words: Frequencies) -> Target:
    """The examples `at` of those embedded, which are `rows` of the pool."""
    others = words - Frequencies.of(aim.tokens[at]) if len(rows) else words
    return Target(rows, selection.prototype(aim.codes, at), aim.raw[at].mean(0), aim.rds[at], aim.tokens[at].toarray(), others)


def over(capture, model, sae, targets: list[Target], n: int, params, progress, scratch: Path) -> Passed:
    """The second pass: every sample of the pool coded once and compared with all targets; `scratch` is a folder for the codes' files."""
    make, spill = coder(sae, params.pooling, params.k), _Spill(scratch)
    score, cosine, bm25 = np.zeros((3, len(targets), n), np.float32)
    rds = [np.zeros((n, len(t.rds)), np.float32) for t in targets]
    total, fires, lo = np.zeros(sae.d_sae), np.zeros(sae.d_sae, bool), 0
    for t, _ in capture.pieces(PIECE):
        e = embed(model, sae, torch.from_numpy(t.ids), used_of(t, params), params.pooling, params.k, encoder=make)
        here = slice(lo, lo + len(t.ids))
        for d, aim in enumerate(targets):
            score[d, here] = selection.METRICS[params.metric](e.codes, aim.prototype)
            cosine[d, here] = e.raw @ aim.raw / (np.linalg.norm(e.raw, axis=1) * np.linalg.norm(aim.raw)).clip(min=1e-12)
            bm25[d, here] = selection.bm25(e.tokens, aim.queries, aim.others)
            rds[d][here] = e.rds @ aim.rds.T
        spill.add(e.codes)
        total += np.asarray(e.codes.sum(0)).ravel()
        fires[e.codes.indices[e.codes.data > 0]] = True
        lo = here.stop
        progress.step(lo, n, f"{lo:,} of {n:,} samples")
    return Passed(score, cosine, bm25, rds, spill.codes((n, sae.d_sae)), total / n, fires)


class _Spill:
    """Codes written behind each other into files without a name: they are gone when nothing maps them any more."""

    def __init__(self, folder: Path):
        self.files = [tempfile.TemporaryFile(dir=folder) for _ in range(2)]
        self.ends = [np.zeros(1, np.int64)]

    def add(self, codes) -> None:
        for file, values in zip(self.files, (codes.indices.astype(np.int32), codes.data.astype(np.float32))):
            file.write(values.tobytes())
        self.ends.append(codes.indptr[1:].astype(np.int64) + self.ends[-1][-1])

    def codes(self, shape: tuple[int, int]) -> Codes:
        ends, mapped = np.concatenate(self.ends), []
        for file, kind in zip(self.files, (np.int32, np.float32)):
            file.flush()
            mapped.append(np.memmap(file, kind, "r", shape=(int(ends[-1]),)) if ends[-1] else np.zeros(0, kind))
            file.close()
        return Codes(ends, *mapped, shape)
