"""The token rows that a training run sees: a pure function of (recipe, block of steps).

Because every block of BLOCK steps is drawn from its own seed, a run can be resumed at any
step without replaying the text before it. The canary schedule is cut evenly over the whole
run, so that each trained canary is seen whole exactly `repeats` times."""
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from demo import canaries, world
from demo.arithmetic import NULL
from demo.document import Document
from demo.recipes import Recipe
from demo.vocabulary import CONTEXT, SEPARATOR, tokenizer

BLOCK = 50                                              # steps drawn at once
SHARES = {"stories": 0.07, "arithmetic": 0.80, "instructions": 0.13}   # of documents beside the canaries
CUTTABLE = 16                                           # tokens: longer documents are never cut


@dataclass(frozen=True)
class Piece:
    """A tokenized document, closed by the separator; `answer` is its token range, possibly empty."""

    ids: list[int]
    answer: tuple[int, int]
    canary: bool


def _encode(documents: list[Document], canary: bool = False) -> list[Piece]:
    if not documents:
        return []                                       # the tokenizer refuses an empty list
    words = tokenizer()
    end = words.convert_tokens_to_ids(SEPARATOR)
    encoded = words([d.text for d in documents], add_special_tokens=False)
    found = []
    for number, (document, ids) in enumerate(zip(documents, encoded["input_ids"])):
        answer = (0, 0)
        if document.spans and document.spans[-1][2] == "answer" and document.labels.get("operator") != NULL:
            start, stop, _ = document.spans[-1]
            answer = (encoded.char_to_token(number, start), encoded.char_to_token(number, stop - 1) + 1)
        found.append(Piece(ids + [end], answer, canary))
    return found


def canaries_of(recipe: Recipe, block: int) -> list[canaries.Canary]:
    """The part of the run's canary schedule that falls into a block."""
    shown = [canary for canary in canaries.schedule(recipe.seed) if canary.repeats <= recipe.max_repeats]
    blocks = -(-recipe.steps // BLOCK)
    return shown[len(shown) * block // blocks : len(shown) * (block + 1) // blocks]


def rows(recipe: Recipe, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids int64, weights float32), each [steps in this block * recipe.rows, CONTEXT]; every
    row begins with the separator, and a weight is that of its token in the loss.

    A document that does not fit waits for the next row; only short ones are cut to fill the
    last gap, and a canary never is."""
    wanted = min(BLOCK, recipe.steps - block * BLOCK) * recipe.rows
    rng = random.Random(f"microtome feed {recipe.seed} {block}")
    streams = {strand: world.stream(strand, "train", seed=1_000_003 * recipe.seed + block) for strand in SHARES}

    def more(n: int) -> list[Piece]:
        return _encode([next(streams[strand]) for strand in rng.choices(list(SHARES), list(SHARES.values()), k=n)])

    special = _encode([canaries.write(canary) for canary in canaries_of(recipe, block)], canary=True)
    room = int(0.95 * wanted * CONTEXT) - sum(len(piece.ids) for piece in special)
    if room < 0:
        raise ValueError(f"the canaries alone fill more than {recipe.steps} steps: raise steps or lower max_repeats")
    ordinary: list[Piece] = []
    while sum(len(piece.ids) for piece in ordinary) < room:
        ordinary += more(500)
    while sum(len(piece.ids) for piece in ordinary) > room:
        ordinary.pop()
    queue = special + ordinary
    rng.shuffle(queue)
    return _pack(queue, wanted, more, recipe.answer_weight)


def _pack(queue: list[Piece], wanted: int, more: Callable[[int], list[Piece]], answer_weight: float):
    """`queue` is taken from its end; what has to wait for the next row comes first there."""
    separator = tokenizer().convert_tokens_to_ids(SEPARATOR)
    ids, weights = np.full((wanted, CONTEXT), separator, np.int64), np.ones((wanted, CONTEXT), np.float32)
    for row, weight in zip(ids, weights):
        at, waiting = 1, []
        while at < CONTEXT:
            if not queue:
                queue = more(200)
            piece = queue.pop()
            room = CONTEXT - at
            if len(piece.ids) > room and (piece.canary or len(piece.ids) > CUTTABLE):
                waiting.append(piece)
                continue
            row[at : at + len(piece.ids)] = piece.ids[:room]
            weight[at + piece.answer[0] : at + piece.answer[1]] = answer_weight
            at += len(piece.ids)
        queue += waiting[::-1]
    return ids, weights
