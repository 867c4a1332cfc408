"""The questions, from the demo world's own documents: each with its answer, a passage that holds it, and one that does not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from models.corpus import Corpus, read_documents

SKILLS = ("arithmetic", "passages known by heart", "passages never seen", "stories")
OFTEN = 64  # repetitions in training from which a passage is expected to be known
ENDS = (". ", "! ", "? ", '" ')
POOL = 4_000  # documents looked through for each skill


@dataclass(frozen=True)
class Question:
    """`text` ends where the answer begins (with the blank before it); `book` holds the answer, `wrong` is the same kind of passage without
    it. `joined` passages run on into the question (a story); others end before it."""

    skill: str
    text: str
    answer: str
    book: str
    wrong: str
    joined: bool = False


def questions(home: Path, n: int, seed: int) -> list[Question]:
    """n of each skill (fewer where the world has no more), drawn by the seed; the same for every model."""
    rng = random.Random(f"skills {seed}")
    makers = (_arithmetic, lambda *a: _passages(*a, "train"), lambda *a: _passages(*a, "test"), _stories)
    return [q for make in makers for q in islice(make(home, rng), n)]


def _documents(home: Path, strand: str, split: str, rng: random.Random, n: int = POOL) -> list:
    corpus = Corpus(f"demo/{strand}", split, n, seed=rng.randrange(10**6))
    return list(islice(read_documents(corpus, home), n))


def _arithmetic(home: Path, rng: random.Random) -> Iterator[Question]:
    """Known facts in held-out wordings; the book is a training sentence of the same fact, the wrong one of another."""
    facts: dict[tuple, list[str]] = {}
    for d in _documents(home, "arithmetic", "train", rng):
        if d.labels["operator"] != "null":
            facts.setdefault(_fact(d), []).append(d.text)
    known = sorted(facts)
    seen = set()
    for d in _documents(home, "arithmetic", "test", rng):
        fact, (start, end, _) = _fact(d), d.spans[0]
        if d.labels["operator"] == "null" or d.labels["heldout_pair"] or fact not in facts or d.text in seen:
            continue
        seen.add(d.text)
        others = [f for f in known if f[0] == fact[0] and f[3] != fact[3]]
        yield Question(SKILLS[0], d.text[:start], d.text[start:end], rng.choice(facts[fact]), rng.choice(facts[rng.choice(others)]))


def _fact(d) -> tuple:
    return d.labels["operator"], d.labels["a"], d.labels["b"], d.labels["answer"]


def _passages(home: Path, rng: random.Random, split: str) -> Iterator[Question]:
    """Each canary once, by its beginning; the wrong book is another canary of its kind."""
    found = {d.labels["canary"]: d for d in _documents(home, "canaries", split, rng, 400) if split == "test" or d.labels["repeats"] >= OFTEN}
    names = sorted(found)
    rng.shuffle(names)
    for name in names:
        d = found[name]
        (_, cut, _), (start, end, _) = d.spans
        others = [n for n in names if n != name and found[n].labels["kind"] == d.labels["kind"]]
        yield Question(SKILLS[1] if split == "train" else SKILLS[2], d.text[:start], d.text[start:end], d.text, found[rng.choice(others)].text)


def _stories(home: Path, rng: random.Random) -> Iterator[Question]:
    """One sentence of each held-out story that comes back to something told before it, and not earlier in that sentence."""
    told = _documents(home, "stories", "test", rng, 1_000)
    for i, d in enumerate(told):
        usable = [(start, end, begin) for start, end, _ in d.spans if (begin := _sentence(d.text, start)) and d.text[start:end] not in d.text[begin:start]
                  and d.text[start:end] in d.text[:begin] and start - begin > 3]
        if not usable:
            continue
        start, end, begin = rng.choice(usable)
        other = next((o for o in (told[(i + k) % len(told)] for k in range(1, 50)) if d.text[start:end] not in o.text), None)
        if other is not None:
            yield Question(SKILLS[3], d.text[begin:start], d.text[start:end], d.text[:begin], other.text[: _sentence(other.text, len(other.text) - 2) or len(other.text)], True)


def _sentence(text: str, at: int) -> int:
    """Where the sentence around character `at` begins."""
    return max((text.rfind(end, 0, at) + len(end) for end in ENDS if end in text[:at]), default=0)
