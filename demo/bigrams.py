"""Bigram tables of the demo world: exact where the strand can be enumerated, counted elsewhere.

Rows are the previous token, columns the next one; every document is preceded and closed
by the separator, as in training. arithmetic (both splits) and canaries are exact: their
documents have known probabilities. stories, instructions and mixed can only be counted."""
import numpy as np

from demo import arithmetic, canaries, world
from demo.document import Document
from demo.vocabulary import SEPARATOR, tokenizer

EXACT = {"arithmetic": arithmetic.distribution, "canaries": canaries.distribution}


def weighed(weighted: list[tuple[Document, float]]) -> np.ndarray:
    """float64 [previous, next]: expected number of each bigram in one document."""
    words = tokenizer()
    end = words.convert_tokens_to_ids(SEPARATOR)
    table = np.zeros((len(words), len(words)))
    encoded = words([document.text for document, _ in weighted], add_special_tokens=False)["input_ids"]
    for ids, (_, weight) in zip(encoded, weighted):
        np.add.at(table, ([end, *ids], [*ids, end]), weight)
    return table


def exact(strand: str, split: str) -> np.ndarray:
    """Expected bigram counts per document, without sampling error; divide a row by its sum for P(next | previous)."""
    if strand not in EXACT:
        raise ValueError(f"no exact bigram table for {strand!r}: only {', '.join(EXACT)} can be enumerated; use counted()")
    return weighed(EXACT[strand](split))


def counted(strand: str, split: str, seed: int, n: int) -> np.ndarray:
    """The same from a sample of n documents of any strand."""
    return weighed([(document, 1 / n) for document in world.documents(strand, split, seed, n)])
