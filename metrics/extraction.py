"""Does a model know passages by heart? Prefix in, suffix out, greedily, token by token.

A passage is extracted where greedy decoding from its prefix gives its suffix exactly (k-extractable with k the prefix's length,
Carlini et al. 2023). Greedy decoding reproduces the suffix if and only if each of its tokens is the likeliest after the true text
before it, so one pass over the passage decides, and says how far decoding would have come.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.corpus import Tokens
from models.loaded import Model
from models.refusal import Refused


@dataclass(frozen=True, eq=False)
class Passages:
    """ids [passage, position] padded on the right; the suffix is start ≤ position < end, int64 [passage] each."""

    ids: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, which) -> Passages:
        return Passages(self.ids[which], self.start[which], self.end[which])

    @property
    def predicting(self) -> torch.Tensor:
        """bool [passage, position]: the positions whose next token belongs to the suffix."""
        at = torch.arange(self.ids.shape[1])
        return (at >= self.start[:, None] - 1) & (at < self.end[:, None] - 1)


@dataclass(frozen=True, eq=False)
class Extraction:
    """Per passage: exact (bool), leading right tokens of greedy decoding, teacher-forced share of right tokens, mean nats of the suffix."""

    exact: torch.Tensor
    leading: torch.Tensor
    right: torch.Tensor
    nats: torch.Tensor


def passages(tokens: Tokens, prefix: int = 0) -> Passages:
    """From a padded corpus: the marked suffix where the text has one, else the tokens after the first `prefix` (0: after half)."""
    ids, keep = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.keep)
    length = keep.sum(1)
    if prefix == 0 and "suffix" in tokens.spans:
        marked = torch.from_numpy(tokens.spans["suffix"])
        start, end = marked.float().argmax(1), ids.shape[1] - marked.flip(1).float().argmax(1)
        found = marked.any(1)
    else:
        start = torch.full_like(length, 1 + prefix) if prefix else 1 + (length - 1) // 2
        end, found = length, length - start >= 4
    if not bool(found.any()):
        raise Refused(f"No passage is longer than its prefix of {prefix or 'half its'} tokens; choose a shorter prefix, or longer passages.")
    return Passages(ids[found], start[found], end[found])


def shortened(p: Passages, share: float) -> Passages:
    """The same suffixes after only the last `share` of each prefix (at least one token); the first token of all (BOS) stays."""
    out = torch.zeros_like(p.ids)
    starts, ends = [], []
    for row, (ids, start, end) in enumerate(zip(p.ids, p.start.tolist(), p.end.tolist())):
        kept = max(1, round(share * (start - 1)))
        whole = torch.cat([ids[:1], ids[start - kept : end]])
        out[row, : len(whole)] = whole
        starts.append(1 + kept)
        ends.append(len(whole))
    return Passages(out, torch.tensor(starts), torch.tensor(ends))


def shuffled(p: Passages, seed: int = 0) -> Passages:
    """The same passages with the tokens after the first in random order: same format and words, never trained."""
    generator = torch.Generator().manual_seed(seed)
    ids = p.ids.clone()
    for row, end in enumerate(p.end.tolist()):
        ids[row, 1:end] = ids[row, 1:end][torch.randperm(end - 1, generator=generator)]
    return Passages(ids, p.start, p.end)


def extract(model: Model, p: Passages, batch: int = 32) -> Extraction:
    """What greedy decoding of each passage's suffix gives."""
    parts = [_scored(model.logits(p.ids[lo : lo + batch]), p[slice(lo, lo + batch)]) for lo in range(0, len(p), batch)]
    return Extraction(*(torch.cat(column) for column in zip(*parts)))


def _scored(logits: torch.Tensor, p: Passages) -> tuple[torch.Tensor, ...]:
    """(exact, leading, right, nats) from logits [passage, position, vocabulary]."""
    counted, target = p.predicting[:, :-1], p.ids[:, 1:]
    logits = logits[:, :-1].float().cpu()
    hit = (logits.argmax(-1) == target) & counted
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
    n = counted.sum(1)
    wrong = (~hit & counted).int()
    before = (wrong.cumsum(1) == 0) & counted
    return hit.sum(1) == n, before.sum(1), hit.sum(1) / n, (nats * counted).sum(1) / n


def completion(model: Model, p: Passages, which: int, more: int = 0) -> list[int]:
    """Token ids of greedy decoding from one passage's prefix, as long as its suffix and `more`."""
    start, end = int(p.start[which]), int(p.end[which])
    ids = p.ids[which, :start].tolist()
    for _ in range(end - start + more):
        ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    return ids[start:]
