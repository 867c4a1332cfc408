"""Questions of arithmetic that look different from the prompts on which heads are sought: larger numbers, years, word problems, files."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from metrics.prompts.tokenised import Ids, with_answer
from models.refusal import Refused

SETS = ("two digits", "three digits", "years", "word problems")
_OPERATIONS = {"plus": "+", "minus": "-", "times": "×"}
_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix")
_THINGS = ("apples", "books", "coins", "pencils", "stones", "tickets")
_STORIES = (
    ("{name} has {a} {things}. {other} gives {name} {b} more. Now {name} has ", "plus"),
    ("There are {a} {things} on the table and {b} {things} in the box. Altogether there are ", "plus"),
    ("{name} had {c} {things} and lost {b} of them. Now {name} has ", "minus"),
    ("{name} has {c} {things} and {other} has {b}. {name} has more than {other} by ", "minus"),
    ("{name} has {a} bags with {b} {things} in each of them. In all the bags together there are ", "times"),
)


@dataclass(frozen=True)
class Question:
    """`text` up to the answer, ending in a blank where one stands before it."""

    text: str
    answer: str


def questions(name: str, n: int, seed: int) -> list[Question]:
    """`n` questions of one of SETS, all different, drawn by the seed."""
    rng = np.random.default_rng([seed, SETS.index(name)])
    make = {"two digits": lambda: _digits(rng, 10, 99), "three digits": lambda: _digits(rng, 100, 999), "years": lambda: _years(rng),
            "word problems": lambda: _story(rng)}[name]
    found: dict[str, Question] = {}
    while len(found) < n:
        question = make()
        found.setdefault(question.text, question)
    return list(found.values())


def _digits(rng, low: int, high: int) -> Question:
    x, y = (int(v) for v in rng.integers(low, high + 1, 2))
    operator = ("plus", "minus", "times")[int(rng.integers(3))]
    a, b = (x + y, y) if operator == "minus" else (x, y)
    answer = {"plus": a + b, "minus": a - b, "times": a * b}[operator]
    return Question(f"{a} {_OPERATIONS[operator]} {b} = ", str(answer))


def _years(rng) -> Question:
    start, length = int(rng.integers(1700, 2000)), int(rng.integers(2, 10))
    forms = (
        (f"The bridge was begun in {start} and took {length} years. It was finished in the year ", start + length),
        (f"The journey lasted from the year {start} to the year {start + length}. In years it lasted ", length),
    )
    text, answer = forms[int(rng.integers(2))]
    return Question(text, str(answer))


def _story(rng) -> Question:
    a, b = (int(v) for v in rng.integers(2, 10, 2))
    text, operator = _STORIES[int(rng.integers(len(_STORIES)))]
    name, other = rng.choice(_NAMES, 2, replace=False)
    answer = {"plus": a + b, "minus": a, "times": a * b}[operator]
    return Question(text.format(name=name, other=other, things=rng.choice(_THINGS), a=a, b=b, c=a + b), str(answer))


def from_documents(documents, n: int) -> list[Question]:
    """The first `n` documents that are word problems: their labels hold a question and an answer, as the lines of GSM8K
    (`question`, `answer` ending in "#### 72") and SVAMP (`Body`, `Question`, `Answer`) do. Only the final number is asked for, at
    once and without written steps. Refused where no document is one."""
    found = []
    for document in documents:
        question = _asked(document.labels)
        if question is not None:
            found.append(question)
        if len(found) == n:
            break
    if not found:
        raise Refused("This file holds no word problems; expected JSON objects with “question” and “answer”, or “Body”, “Question” and “Answer”.")
    return found


def _asked(labels: dict) -> Question | None:
    parts = [str(labels[k]).strip() for k in ("Body", "Question", "question") if labels.get(k)]
    answer = labels.get("answer", labels.get("Answer"))
    number = None if answer is None else re.findall(r"-?\d[\d,]*(?:\.\d+)?", str(answer))
    if not parts or not number:
        return None
    last = number[-1].replace(",", "")
    text = parts[0] if len(parts) == 1 else f"{parts[0].rstrip('.')}. {parts[1]}"
    return Question(f"Question: {text} Answer: ", last.removesuffix(".0"))


def tokenised(tokenizer, asked: list[Question], context: int | None) -> list[Ids]:
    """Questions in a model's tokens, answers of any number of tokens; those longer than the context, and those whose answer melts
    into the prompt, are left out."""
    found = [with_answer(tokenizer, q.text, q.answer, single=False) for q in asked]
    return [ids for ids in found if ids is not None and (context is None or len(ids.prompt) + len(ids.answer) <= context)]
