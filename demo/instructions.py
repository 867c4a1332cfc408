"""Strand 4: a pool of twelve small tasks, each asked for in three wordings.

Every document is `Task: <wording> Input: <input> Output: <answer>`; the span `answer`
marks what a model has to produce. The third wording of each task occurs in the test split
only, and inputs of the test split never occur in training."""
import random
from collections.abc import Callable
from dataclasses import dataclass

from demo.document import Document, fill
from demo.lexicon import ANIMALS, BOYS, COLOURS, FOODS, GIRLS, OPPOSITES, PLACES, THINGS

_WORDS = (*ANIMALS, *COLOURS, *THINGS)
_GOOD = "loved liked enjoyed praised".split()
_BAD = "hated feared disliked blamed".split()


def _some(rng: random.Random, low: int, high: int) -> list[str]:
    return rng.sample(_WORDS, rng.randint(low, high))


def _copy(rng):
    words = _some(rng, 2, 4)
    return " ".join(words), " ".join(words)


def _reverse(rng):
    words = _some(rng, 2, 4)
    return " ".join(words), " ".join(reversed(words))


def _first(rng):
    words = _some(rng, 3, 5)
    return " ".join(words), words[0]


def _last(rng):
    words = _some(rng, 3, 5)
    return " ".join(words), words[-1]


def _count(rng):
    words = _some(rng, 1, 6)
    return " ".join(words), str(len(words))


def _largest(rng):
    numbers = rng.sample(range(20), rng.randint(2, 4))
    return " ".join(map(str, numbers)), str(max(numbers))


def _sort(rng):
    numbers = rng.sample(range(10), rng.randint(2, 4))
    return " ".join(map(str, numbers)), " ".join(map(str, sorted(numbers)))


def _next(rng):
    start, step = rng.randrange(10), rng.randint(1, 4)
    return " ".join(str(start + step * k) for k in range(4)), str(start + step * 4)


def _category(rng):
    name = rng.choice(("animal", "color", "food", "place"))
    words = {"animal": ANIMALS, "color": COLOURS, "food": FOODS, "place": PLACES}[name]
    return " ".join(rng.sample(words, rng.randint(1, 3))), name


def _opposite(rng):
    picked = rng.sample(OPPOSITES, rng.randint(1, 3))
    turned = [pair if rng.random() < 0.5 else pair[::-1] for pair in picked]
    return " ".join(pair[0] for pair in turned), " ".join(pair[1] for pair in turned)


def _sentiment(rng):
    good = rng.random() < 0.5
    verb = rng.choice(_GOOD if good else _BAD)
    text = f"{rng.choice(GIRLS + BOYS)} {verb} the {rng.choice(COLOURS)} {rng.choice(THINGS)}."
    return text, "good" if good else "bad"


def _owner(rng):
    person, other = rng.sample(GIRLS + BOYS, 2)
    mine, yours = rng.sample(THINGS, 2)
    asked, whose = rng.choice(((mine, person), (yours, other)))
    return f"{person} has a {mine}. {other} has a {yours}. Who has the {asked}?", whose


@dataclass(frozen=True)
class Task:
    """`make(rng)` draws (input, answer); the last wording is held out."""

    name: str
    wordings: tuple[str, str, str]
    make: Callable[[random.Random], tuple[str, str]]


TASKS = (
    Task("copy", ("Copy the words.", "Write the same words again.", "Write the words again."), _copy),
    Task("reverse", ("Reverse the words.", "Write the words in reverse order.", "Write the words in reverse."), _reverse),
    Task("first", ("Give the first word.", "Which word comes first?", "Write the first word."), _first),
    Task("last", ("Give the last word.", "Which word comes last?", "Write the last word."), _last),
    Task("count", ("Count the words.", "How many words are there?", "Give the count of words."), _count),
    Task("largest", ("Give the largest number.", "Which number is largest?", "Write the largest number."), _largest),
    Task("sort", ("Sort the numbers.", "Write the numbers in order.", "Give the numbers in order."), _sort),
    Task("next", ("Give the next number.", "Which number comes next?", "Write the next number."), _next),
    Task("category", ("Name the category.", "What kind of words are these?", "Give the category."), _category),
    Task("opposite", ("Give the opposite.", "Write the opposite words.", "Name the opposite."), _opposite),
    Task("sentiment", ("Good or bad?", "Is this good or bad?", "Say if this is good or bad."), _sentiment),
    Task("owner", ("Answer the question.", "Read and answer.", "Read and answer the question."), _owner),
)
TEXT = "Task: {wording} Input: {input} Output: {answer|answer}"


def is_heldout(given: str) -> bool:
    """Whether an input belongs to the test split (about one in eight), by its characters."""
    return sum(i * ord(letter) for i, letter in enumerate(given, 1)) % 8 == 3


def write(task: Task, wording: str, given: str, answer: str) -> Document:
    text, spans = fill(TEXT, {"wording": wording, "input": given, "answer": answer})
    number = task.wordings.index(wording)
    labels = {"strand": "instructions", "task": task.name, "wording": number, "heldout_wording": number == 2}
    return Document(text, labels, tuple(spans))


def draw(rng: random.Random, split: str) -> Document:
    """train: first two wordings, trained inputs. test: any wording, held-out inputs."""
    task = rng.choice(TASKS)
    wording = rng.choice(task.wordings if split == "test" else task.wordings[:2])
    while True:
        given, answer = task.make(rng)
        if is_heldout(given) == (split == "test"):
            return write(task, wording, given, answer)
