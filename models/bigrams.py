"""How often one token follows another: counted on any text with the model's own tokenizer, exact where the demo world can be enumerated.

P(next | previous) = count / total, without smoothing. A token never seen as previous gets the unigram distribution, and the
uniform one where nothing was counted; a pair never seen in a seen row keeps probability 0, an infinite surprisal (Chang &
Bergen, arXiv 2504.15471, A.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from models.corpus import Corpus, Document, cut, read_documents
from models.refusal import Refused

AT_ONCE = 1 << 20  # tokens between two merges of the counts
EXACT = ("demo/arithmetic", "demo/canaries")


@dataclass(frozen=True, eq=False)
class Bigrams:
    """Sparse rows, as stored. `slot` int64 [vocab] says which row a previous token has (the unigram's is the last one); row s
    is column and p at start[s] : start[s + 1], columns ascending. column int64, p float32 [entry]."""

    slot: np.ndarray
    start: np.ndarray
    column: np.ndarray
    p: np.ndarray
    n_pairs: int  # counted; 0 where exact
    source: str

    @property
    def n_vocab(self) -> int:
        return len(self.slot)

    @property
    def n_unseen(self) -> int:
        """Tokens that were never a previous one."""
        return int((self.slot == len(self.start) - 2).sum())

    def rows(self, previous: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The rows of previous tokens [n] as (index into previous, column, p), each [entry], on previous's device."""
        slot = self.slot[previous.cpu().numpy()]
        length = self.start[slot + 1] - self.start[slot]
        row = np.repeat(np.arange(len(slot)), length)
        entry = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length) + np.repeat(self.start[slot], length)
        return tuple(torch.from_numpy(x).to(previous.device) for x in (row, self.column[entry], self.p[entry]))

    def surprisal(self, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
        """−log₂ P(following | previous) in bits, float64, shaped like the arguments; infinite for a pair never seen."""
        row_of = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))
        keys = row_of * self.n_vocab + self.column
        wanted = self.slot[previous] * self.n_vocab + following
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        with np.errstate(divide="ignore"):
            return np.where(keys[at] == wanted, -np.log2(self.p[at].astype(np.float64)), np.inf)

    def entropy(self, previous: np.ndarray) -> np.ndarray:
        """Entropy of each previous token's row in bits: the least cross-entropy that any model of the table can have."""
        p = self.p.astype(np.float64)
        each = np.add.reduceat(-p * np.log2(p), self.start[:-1])
        return each[self.slot[previous]]


def from_counts(keys: np.ndarray, counts: np.ndarray, n_vocab: int, source: str, n_pairs: int | None = None) -> Bigrams:
    """A table from pair keys previous · n_vocab + following, ascending and unique, and their counts > 0."""
    previous, following = np.divmod(keys, n_vocab)
    seen, begin = np.unique(previous, return_index=True)
    start = np.append(begin, len(keys)).astype(np.int64)
    totals = np.add.reduceat(counts, begin) if len(keys) else np.zeros(0)
    unigram = np.bincount(following, counts, n_vocab) if len(keys) else np.ones(n_vocab)
    common = np.flatnonzero(unigram)
    slot = np.full(n_vocab, len(seen), np.int64)
    slot[seen] = np.arange(len(seen))
    p = np.concatenate([counts / np.repeat(totals, np.diff(start)), unigram[common] / unigram.sum()])
    return Bigrams(slot, np.append(start, len(p)), np.concatenate([following, common]).astype(np.int64), p.astype(np.float32),
                   int(counts.sum()) if n_pairs is None else n_pairs, source)


def from_table(table: np.ndarray, source: str) -> Bigrams:
    """From expected counts or probabilities [previous, following]; rows of zeros count as unseen."""
    flat = np.asarray(table, np.float64).ravel()
    keys = np.flatnonzero(flat)
    return from_counts(keys, flat[keys], len(table), source, 0)


def count(sequences: Iterable[list[int]], n_vocab: int, source: str, most: int | None = None, progress=None) -> Bigrams:
    """Count the pairs inside each of the token sequences, at most `most` pairs; memory grows with distinct pairs only."""
    keys, counts, held, n = np.empty(0, np.int64), np.empty(0, np.int64), [], 0
    waiting = 0
    for sequence in sequences:
        tokens = np.asarray(sequence, np.int64)
        if most is not None and n + len(tokens) - 1 > most:
            tokens = tokens[: most - n + 1]
        held.append(tokens[:-1] * n_vocab + tokens[1:])
        waiting, n = waiting + len(held[-1]), n + len(held[-1])
        if waiting >= AT_ONCE:
            keys, counts = _merged(keys, counts, held)
            held, waiting = [], 0
            if progress is not None:
                progress.step(n, most or 0, f"counting bigrams, {n:,} of {most:,} tokens" if most else f"counting bigrams, {n:,} tokens")
        if most is not None and n >= most:
            break
    return from_counts(*_merged(keys, counts, held), n_vocab, source)


def _merged(keys: np.ndarray, counts: np.ndarray, more: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    new, n = np.unique(np.concatenate([np.empty(0, np.int64), *more]), return_counts=True)
    both = np.concatenate([keys, new])
    out, inverse = np.unique(both, return_inverse=True)
    return out, np.bincount(inverse, np.concatenate([counts, n]), len(out)).astype(np.int64)


def apart(corpus: Corpus, tokenizer, home: Path) -> tuple[Corpus, Iterator[Document]]:
    """(the text that counts and training may read, its documents): the same source, but nothing that `corpus` reads. The
    training split where there is one; of a file, or of a split that is already the training one, what comes after."""
    kind = corpus.source.partition("/")[0]
    if kind == "demo":
        other = replace(corpus, split="train", seed=corpus.seed + (corpus.split == "train"))
        return other, read_documents(other, home)
    if kind == "hub" and corpus.split == "test":
        other = replace(corpus, split="train")
        return other, read_documents(other, home)
    return corpus, _beyond(corpus, tokenizer, read_documents(corpus, home))


def _beyond(corpus: Corpus, tokenizer, documents: Iterator[Document]) -> Iterator[Document]:
    need = corpus.n_sequences * (corpus.length if corpus.packing == "packed" else 1)
    seen = 0
    for document in documents:
        if seen >= need:
            yield document
        elif corpus.packing == "packed":
            seen += len(tokenizer(document.text, add_special_tokens=False)["input_ids"]) + (tokenizer.eos_token_id is not None)
        else:
            seen += 1


def stream(corpus: Corpus, documents: Iterator[Document], tokenizer) -> Iterator[list[int]]:
    """Token sequences whose inner pairs are the pairs of the text: one endless line of documents joined by EOS where the
    corpus is packed, one line per document (BOS first) where it is padded."""
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    front = [tokenizer.bos_token_id] if corpus.bos and tokenizer.bos_token_id is not None else []
    last = list(end)
    for ids in _encoded(documents, tokenizer):
        if corpus.packing == "padded":
            yield (front + ids)[: corpus.length]
        else:
            yield last + ids + end
            last = (ids + end)[-1:] or last


def _encoded(documents: Iterator[Document], tokenizer, batch: int = 200) -> Iterator[list[int]]:
    held = []
    for document in documents:
        held.append(document.text)
        if len(held) == batch:
            yield from tokenizer(held, add_special_tokens=False)["input_ids"]
            held = []
    if held:
        yield from tokenizer(held, add_special_tokens=False)["input_ids"]


def of_text(corpus: Corpus, tokenizer, n_vocab: int, most: int, home: Path, progress=None) -> Bigrams:
    """The table of the text beside `corpus` (see `apart`), at most `most` pairs of it."""
    other, documents = apart(corpus, tokenizer, home)
    table = count(stream(other, documents, tokenizer), n_vocab, other.source, most, progress)
    if table.n_pairs == 0:
        raise Refused(f"{corpus.source} has no text beyond the {corpus.n_sequences} sequences that are measured; ask for fewer sequences, or name another text to count.")
    return table


def exact(corpus: Corpus, tokenizer, n_vocab: int) -> Bigrams | None:
    """The demo world's own table where it can be enumerated and the model has its tokenizer; else None."""
    if corpus.source not in EXACT:
        return None
    from demo import bigrams, vocabulary

    if vocabulary.tokenizer().get_vocab() != tokenizer.get_vocab():
        return None
    table = bigrams.exact(corpus.source.partition("/")[2], "train")
    return from_table(table[:n_vocab, :n_vocab], f"{corpus.source}, enumerated")


def sequences_apart(corpus: Corpus, n: int, tokenizer, home: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, keep) [sequence, position] to train on: at most n sequences of the text beside `corpus`, cut like it."""
    other, documents = apart(corpus, tokenizer, home)
    tokens = cut(replace(other, n_sequences=n), documents, tokenizer)
    return torch.from_numpy(tokens.ids), torch.from_numpy(tokens.keep)


def counted_positions(corpus: Corpus, tokenizer, keep: torch.Tensor) -> torch.Tensor:
    """bool [sequence, position]: where the text itself has a pair to imitate. The BOS that stands before a cut piece of text
    has no successor in the text."""
    out = keep.clone()
    if corpus.packing == "packed" and corpus.bos and tokenizer.bos_token_id is not None:
        out[:, 0] = False
    return out
