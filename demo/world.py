"""The demo world: seeded, labelled text in four strands and their mixture.

    for document in documents("stories", "test", seed=0, n=100): ...

The first k of n documents do not depend on n, and the same seed gives the same text on
every machine (Python's own generator, seeded with a string). Train and test never share
what the strand holds out: see each strand's module."""
import random
from collections.abc import Iterator
from itertools import islice

from demo import arithmetic, canaries, instructions, stories
from demo.document import Document

STRANDS = ("stories", "arithmetic", "canaries", "instructions", "mixed")
SPLITS = ("train", "test")
MIXTURE = {"stories": 0.20, "arithmetic": 0.60, "instructions": 0.15, "canaries": 0.05}   # shares of documents


def _draw_canary(rng: random.Random, split: str) -> Document:
    """In the mixture a canary comes as often as its repetitions; a control uniformly."""
    if split == "test":
        return canaries.write(rng.choice(canaries.controls()))
    pool = canaries.trained()
    return canaries.write(rng.choices(pool, [canary.repeats for canary in pool])[0])


_DRAW = {
    "stories": stories.draw, "arithmetic": arithmetic.draw, "instructions": instructions.draw, "canaries": _draw_canary,
}


def _canary_stream(split: str, seed: int) -> Iterator[Document]:
    """Every canary once (test: every control) in shuffled order, then again in another order."""
    rng = random.Random(f"microtome canaries {split} {seed}")
    pool = list(canaries.trained() if split == "train" else canaries.controls())
    while True:
        rng.shuffle(pool)
        yield from map(canaries.write, pool)


def stream(strand: str, split: str, seed: int) -> Iterator[Document]:
    """The endless sequence of which `documents` is the beginning."""
    if strand not in STRANDS:
        raise ValueError(f"unknown strand {strand!r}: choose one of {', '.join(STRANDS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose train or test")
    if strand == "canaries":
        yield from _canary_stream(split, seed)
    rng = random.Random(f"microtome {strand} {split} {seed}")
    strands, shares = list(MIXTURE), list(MIXTURE.values())
    while True:
        drawn = rng.choices(strands, shares)[0] if strand == "mixed" else strand
        yield _DRAW[drawn](rng, split)


def documents(strand: str, split: str, seed: int, n: int) -> list[Document]:
    """The first n documents of a strand ("stories", ..., "mixed"), split "train" or "test"."""
    return list(islice(stream(strand, split, seed), n))
