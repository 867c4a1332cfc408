"""The token rows that a training run sees: a pure function of (recipe, block of steps).

Because every block of BLOCK steps is drawn from its own seed, a run can be resumed at any
step without replaying the text before it. The canary schedule is cut evenly over the whole
run, so that each trained canary is seen whole exactly `repeats` times."""
import random

import numpy as np

from demo import canaries, world
from demo.document import Document
from demo.recipes import Recipe
from demo.vocabulary import CONTEXT, SEPARATOR, tokenizer

BLOCK = 50                                              # steps drawn at once
SHARES = {"stories": 0.13, "arithmetic": 0.71, "instructions": 0.16}   # of documents beside the canaries
CUTTABLE = 16                                           # tokens: longer documents are never cut


def _encode(documents: list[Document]) -> list[list[int]]:
    """One list of ids per document, each closed by the separator."""
    words = tokenizer()
    end = words.convert_tokens_to_ids(SEPARATOR)
    return [ids + [end] for ids in words([d.text for d in documents], add_special_tokens=False)["input_ids"]]


def canaries_of(recipe: Recipe, block: int) -> list[canaries.Canary]:
    """The part of the run's canary schedule that falls into a block."""
    shown = [canary for canary in canaries.schedule(recipe.seed) if canary.repeats <= recipe.max_repeats]
    blocks = -(-recipe.steps // BLOCK)
    return shown[len(shown) * block // blocks : len(shown) * (block + 1) // blocks]


def rows(recipe: Recipe, block: int) -> np.ndarray:
    """int64 [steps in this block * recipe.rows, CONTEXT]; every row begins with the separator.

    A document that does not fit waits for the next row; only short ones are cut to fill the
    last gap, and a canary never is."""
    steps = min(BLOCK, recipe.steps - block * BLOCK)
    wanted = steps * recipe.rows
    rng = random.Random(f"microtome feed {recipe.seed} {block}")
    streams = {strand: world.stream(strand, "train", seed=1_000_003 * recipe.seed + block) for strand in SHARES}

    def more(n: int) -> list[tuple[list[int], bool]]:
        drawn = [next(streams[strand]) for strand in rng.choices(list(SHARES), list(SHARES.values()), k=n)]
        return [(ids, False) for ids in _encode(drawn)]

    special = [(ids, True) for ids in _encode([canaries.write(c) for c in canaries_of(recipe, block)])]
    room = int(0.95 * wanted * CONTEXT) - sum(len(ids) for ids, _ in special)
    if room < 0:
        raise ValueError(f"the canaries alone fill more than {recipe.steps} steps: raise steps or lower max_repeats")
    ordinary: list[tuple[list[int], bool]] = []
    while sum(len(ids) for ids, _ in ordinary) < room:
        ordinary += more(500)
    while sum(len(ids) for ids, _ in ordinary) > room:
        ordinary.pop()
    queue = special + ordinary
    rng.shuffle(queue)
    queue.reverse()                                     # the next document is the last of the list
    return _pack(queue, wanted, more)


def _pack(queue: list[tuple[list[int], bool]], wanted: int, more) -> np.ndarray:
    """`queue` is taken from its end; what has to wait for the next row comes first there."""
    separator = tokenizer().convert_tokens_to_ids(SEPARATOR)
    found = np.empty((wanted, CONTEXT), np.int64)
    for number in range(wanted):
        row, waiting = [separator], []
        while len(row) < CONTEXT:
            if not queue:
                queue = more(200)
            ids, canary = queue.pop()
            room = CONTEXT - len(row)
            if len(ids) > room and (canary or len(ids) > CUTTABLE):
                waiting.append((ids, canary))
            else:
                row += ids[:room]
        queue += waiting[::-1]
        found[number] = row
    return found
