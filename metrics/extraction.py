"""Does a model know passages by heart? Prefix in, suffix out, greedily, token by token.

A passage is extracted where greedy decoding from its prefix gives its suffix exactly (k-extractable with k the prefix's length in
tokens, Carlini et al. 2023). Greedy decoding reproduces the suffix if and only if each of its tokens is the likeliest after the true
text before it, so one pass over the passage decides, and says how far decoding would have come.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from models.corpus import Tokens
from models.loaded import Model
from models.refusal import Refused

SHORTEST = 4  # tokens of a suffix that count as knowing it by heart, where the text marks none


@dataclass(frozen=True, eq=False)
class Passages:
    """ids [passage, position] padded on the right; the suffix is start ≤ position < end; `row` says which sequence of the corpus
    each one is. int64 [passage] each."""

    ids: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor
    row: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, which) -> Passages:
        return Passages(self.ids[which], self.start[which], self.end[which], self.row[which])

    @property
    def predicting(self) -> torch.Tensor:
        """bool [passage, position]: the positions whose next token belongs to the suffix."""
        at = torch.arange(self.ids.shape[1])
        return (at >= self.start[:, None] - 1) & (at < self.end[:, None] - 1)

    def prefix(self, which: int) -> list[int]:
        """Token ids before the suffix, without the first token of all (BOS)."""
        return self.ids[which, 1 : self.start[which]].tolist()

    def suffix(self, which: int) -> list[int]:
        return self.ids[which, self.start[which] : self.end[which]].tolist()


@dataclass(frozen=True, eq=False)
class Extraction:
    """Per passage: exact (bool), leading right tokens of greedy decoding, teacher-forced share of right tokens, mean nats of the suffix."""

    exact: torch.Tensor
    leading: torch.Tensor
    right: torch.Tensor
    nats: torch.Tensor


def passages(tokens: Tokens, prefix: int = 0) -> Passages:
    """From a padded corpus: the marked suffix where the text has one, else the tokens after the first `prefix` (0: after half).

    Sequences without a suffix, or with fewer than SHORTEST tokens of one where the text marks none, are left out; Refused where none is left.
    """
    ids, keep = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.keep)
    length = keep.sum(1)
    if prefix == 0 and "suffix" in tokens.spans:
        marked = torch.from_numpy(tokens.spans["suffix"])
        start, end = marked.float().argmax(1), ids.shape[1] - marked.flip(1).float().argmax(1)
        found = marked.any(1) & (start > 1)
    else:
        start = torch.full_like(length, 1 + prefix) if prefix else 1 + (length - 1) // 2
        end, found = length, length - start >= SHORTEST
    if not bool(found.any()):
        raise Refused(f"No passage is longer than its prefix of {prefix or 'half its'} tokens; choose a shorter prefix, or longer passages.")
    return Passages(ids[found], start[found], end[found], found.nonzero()[:, 0])


def shortened(p: Passages, prefix: int) -> Passages:
    """The same suffixes after only the last `prefix` tokens of each prefix (all of it where it is shorter); the first token of all
    (BOS) stays."""
    out, starts, ends = torch.zeros_like(p.ids), [], []
    for row, (ids, start, end) in enumerate(zip(p.ids, p.start.tolist(), p.end.tolist())):
        kept = max(1, min(prefix, start - 1))
        whole = torch.cat([ids[:1], ids[start - kept : end]])
        out[row, : len(whole)] = whole
        starts.append(1 + kept)
        ends.append(len(whole))
    return Passages(out, torch.tensor(starts), torch.tensor(ends), p.row)


def shuffled(p: Passages, seed: int = 0) -> Passages:
    """The same passages with the tokens after the first in random order: same format and words, never trained."""
    generator = torch.Generator().manual_seed(seed)
    ids = p.ids.clone()
    for row, end in enumerate(p.end.tolist()):
        ids[row, 1:end] = ids[row, 1:end][torch.randperm(end - 1, generator=generator)]
    return Passages(ids, p.start, p.end, p.row)


def extract(model: Model, p: Passages, batch: int = 32) -> Extraction:
    """What greedy decoding of each passage's suffix gives, from one pass over the passages."""
    parts = [scored(model.logits(p.ids[lo : lo + batch]), p[slice(lo, lo + batch)]) for lo in range(0, len(p), batch)]
    return Extraction(*(torch.cat(column) for column in zip(*parts)))


def exact_share(model: Model, p: Passages) -> float:
    """Share of the passages that are extracted."""
    return float(extract(model, p).exact.double().mean())


def scored(logits: torch.Tensor, p: Passages) -> tuple[torch.Tensor, ...]:
    """(exact, leading, right, nats) from logits [passage, position, vocabulary]."""
    counted, target = p.predicting[:, :-1], p.ids[:, 1:]
    logits = logits[:, :-1].float().cpu()
    hit = (logits.argmax(-1) == target) & counted
    n = counted.sum(1)
    before = ((~hit & counted).int().cumsum(1) == 0) & counted
    return hit.sum(1) == n, before.sum(1), hit.sum(1) / n, suffix_nats(logits, p)


def suffix_nats(logits: torch.Tensor, p: Passages) -> torch.Tensor:
    """Mean −ln p of each passage's suffix tokens, [passage]; logits [passage, position, vocabulary] or without the last position."""
    counted, target = p.predicting[:, :-1].to(logits.device), p.ids[:, 1:].to(logits.device)
    logits = logits[:, : target.shape[1]].float()
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
    return (nats * counted).sum(1) / counted.sum(1)


def decode(model: Model, p: Passages, more: int = 0, batch: int = 32) -> list[list[int]]:
    """Token ids of greedy decoding from each passage's prefix, as many as its suffix has and `more`; passages whose prefixes are
    equally long are decoded together, with keys and values kept."""
    out: list[list[int]] = [[] for _ in range(len(p))]
    groups = defaultdict(list)
    for i, start in enumerate(p.start.tolist()):
        groups[start].append(i)
    for start, rows in groups.items():
        for lo in range(0, len(rows), batch):
            here = rows[lo : lo + batch]
            length = int((p.end - p.start)[here].max()) + more
            for i, said in zip(here, _greedy(model, p.ids[here, :start], length).tolist()):
                out[i] = said[: int(p.end[i] - p.start[i]) + more]
    return out


def _greedy(model: Model, ids: torch.Tensor, length: int) -> torch.Tensor:
    """int64 [row, length]: the likeliest continuation of ids [row, position], token by token."""
    said, past, given = [], None, ids.to(model.device)
    with torch.inference_mode():
        for _ in range(length):
            step = model.module(input_ids=given, past_key_values=past, use_cache=True)
            past, given = step.past_key_values, step.logits[:, -1:].argmax(-1)
            said.append(given)
    return torch.cat(said, 1).cpu()


def likeness(said: str, truth: str) -> float:
    """1 − Levenshtein distance / the longer length, in characters: 1 the same text, 0 nothing in common."""
    longest = max(len(said), len(truth))
    return 1.0 - edits(said, truth) / longest if longest else 1.0


def edits(a: str, b: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and replacements of a character that turn a into b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
