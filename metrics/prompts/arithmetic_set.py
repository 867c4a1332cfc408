"""Arithmetic prompts for one model, in its own tokens, kept only where it answers them correctly.

Prompts are asked in an order drawn by the seed over all wordings and problems, in rounds, until enough are answered; how many were
asked is kept with them, so that a choice of the easy ones shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from metrics.prompts.answering import after_last
from metrics.prompts.tokenised import read, require_tokenizer, with_answer
from metrics.prompts.wordings import BY_NAME, FORMS, OPERATORS, WORDINGS, Problem, Wording, changed, problems, write
from models.loaded import Model
from models.refusal import Refused

FEWEST = 30  # correctly answered prompts, below which nothing is said about an operator
SHARE = 0.2  # of what was asked; a model that answers less guesses among few answers
ASKED = 6  # times as many prompts as are wanted are asked, at most


@dataclass(frozen=True)
class Prompt:
    """One question; `changed` are the ids of its counterfactuals, as in wordings.CHANGES; `a`, `op`, `b` the positions of the tokens
    that hold the operands and the operator; `key` names the question, whatever the model."""

    wording: Wording
    problem: Problem
    text: str
    ids: tuple[int, ...]
    changed: tuple[tuple[int, ...], tuple[int, ...]]
    answer: int
    a: tuple[int, ...]
    op: tuple[int, ...]
    b: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"{self.wording.name}:{self.problem.operator}:{self.problem.a}:{self.problem.b}"


@dataclass(frozen=True)
class Asked:
    """What came of one wording and operator: how many prompts were asked, how many of them answered correctly, and how many could
    not be asked because their answer is no single token of this vocabulary."""

    operator: str
    wording: str
    validation: bool
    asked: int
    right: int
    unwritable: int


@dataclass(frozen=True, eq=False)
class PromptSet:
    """Kept prompts, discovery and validation wordings apart, and what was asked to get them."""

    discovery: tuple[Prompt, ...]
    validation: tuple[Prompt, ...]
    asked: tuple[Asked, ...]

    def count(self, operator: str, validation: bool) -> tuple[int, int]:
        """(correctly answered, asked) prompts of an operator."""
        rows = [a for a in self.asked if a.operator == operator and a.validation == validation]
        return sum(a.right for a in rows), sum(a.asked for a in rows)

    def known(self) -> tuple[str, ...]:
        """Operators of which the model answers at least FEWEST prompts and SHARE of those asked, in both halves."""
        counts = {o: [self.count(o, half) for half in (False, True)] for o in OPERATORS}
        return tuple(o for o, two in counts.items() if all(right >= FEWEST and right >= SHARE * asked for right, asked in two))

    def only(self, operators: tuple[str, ...]) -> PromptSet:
        keep = lambda part: tuple(p for p in part if p.problem.operator in operators)
        return PromptSet(keep(self.discovery), keep(self.validation), self.asked)


def ask(model: Model, operators: tuple[str, ...], n: int, largest: int, null: str, seed: int, progress) -> PromptSet:
    """Up to `n` correctly answered prompts of each operator and half; an answer is correct where its token is the likeliest of all.
    `null` is one of wordings.NULLS, `largest` the largest operand."""
    require_tokenizer(model)
    kept: dict[bool, list[Prompt]] = {False: [], True: []}
    counts: list[Asked] = []
    stages = [(operator, half) for operator in operators for half in (False, True)]
    for i, (operator, half) in enumerate(stages):
        questions, asked, right, lost = _questions(operator, half, largest, seed), [], [], []
        while len(right) < n and len(asked) < ASKED * n:
            progress.step(i, len(stages), f"asking {operator}: {len(right)} of {len(asked)} right")
            part = _some(model.tokenizer, questions, n, lambda w, p: changed(w, p, null, largest, seed), lost)
            if not part:
                break
            asked += part
            right += [p for p, ok in zip(part, correct(model, part)) if ok]
        kept[half] += right[:n]
        tried = [p.wording.name for p in asked], [p.wording.name for p in right], lost
        counts += [Asked(operator, w.name, half, *(names.count(w.name) for names in tried)) for w in WORDINGS if any(w.name in names for names in tried)]
    return PromptSet(tuple(kept[False]), tuple(kept[True]), tuple(counts))


def _questions(operator: str, validation: bool, largest: int, seed: int) -> Iterator[tuple[Wording, Problem]]:
    """Every (wording, problem) of one half in the order in which they are asked; two that give the same text count once."""
    every = {write(w, p, FORMS[operator])[0]: (w, p) for w in reversed(WORDINGS) if w.validation == validation for p in problems(operator, largest)}
    pairs = list(every.values())
    order = np.random.default_rng([seed, OPERATORS.index(operator), validation]).permutation(len(pairs))
    return iter([pairs[i] for i in order])


def _some(tokenizer, questions: Iterator, n: int, counterpart: Callable[[Wording, Problem], tuple[str, str]], lost: list[str]) -> list[Prompt]:
    """The next `n` questions that this vocabulary can write; the wordings of those it cannot are added to `lost`."""
    found = []
    for wording, problem in questions:
        prompt = written(tokenizer, wording, problem, counterpart(wording, problem))
        if prompt is None:
            lost.append(wording.name)
        else:
            found.append(prompt)
        if len(found) == n:
            break
    return found


def written(tokenizer, wording: Wording, problem: Problem, others: tuple[str, str]) -> Prompt | None:
    """A question and the texts of its counterfactuals in this vocabulary; None where the answer is not one token."""
    text, spans = write(wording, problem, FORMS[problem.operator])
    ids = with_answer(tokenizer, text, str(problem.answer))
    if ids is None:
        return None
    holds_blank = ids.covers[-1][1] == len(text)  # the prompt's last token covers the blank before the answer
    other = tuple(read(tokenizer, t if holds_blank else t.removesuffix(" ")).prompt for t in others)
    return Prompt(wording, problem, text, ids.prompt, other, ids.answer[0], *(ids.tokens_of(spans[s]) for s in ("a", "op", "b")))


def correct(model: Model, prompts: list[Prompt]) -> list[bool]:
    """Whether the answer's token is the likeliest next one, for each prompt."""
    if not prompts:
        return []
    return (after_last(model, [p.ids for p in prompts]) == torch.tensor([p.answer for p in prompts])).tolist()


def is_shown(problem: Problem, seed: int) -> bool:
    """Whether a problem may be trained on: four in five, drawn by the seed, whatever the wording."""
    return bool(np.random.default_rng([seed, OPERATORS.index(problem.operator), problem.a, problem.b]).random() < 0.8)


def some(model: Model, operators: tuple[str, ...], n: int, largest: int, seed: int, validation: bool, shown: bool) -> list[Prompt]:
    """Up to `n` prompts, right or wrong, spread evenly over the operators: of the wordings on which heads are sought or of the others,
    on problems that may be trained on or on those that may not."""
    require_tokenizer(model)
    found = []
    for operator in operators:
        asked = (q for q in _questions(operator, validation, largest, seed) if is_shown(q[1], seed) == shown)
        found += _some(model.tokenizer, asked, -(-n // len(operators)), lambda w, p: ("", ""), [])
    if not found:
        raise Refused(f"No answer of an arithmetic problem up to {largest} is a single token of {model.written}; nothing can be asked.")
    return found


def from_key(tokenizer, key: str) -> Prompt:
    """The prompt again that `Prompt.key` names, without its counterfactuals."""
    name, operator, a, b = key.split(":")
    return written(tokenizer, BY_NAME[name], Problem(operator, int(a), int(b)), ("", ""))
