"""Arithmetic in words: four operators, three styles, and the wordings on which heads are sought and those on which they are tested.

Every prompt has two counterfactuals. Without operator, a word that means nothing stands in its place: operands, order and wording
stay, and what differs is whether there is anything to compute. With other numbers, wording and operator stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

STYLES = ("equation", "statement", "question")
OPERATORS = ("plus", "minus", "times", "over")
SIGN = {"plus": "+", "minus": "−", "times": "×", "over": "÷"}
FORMS = {
    "plus": {"symbol": "+", "ascii": "+", "word": "plus", "noun": "sum"},
    "minus": {"symbol": "-", "ascii": "-", "word": "minus", "noun": "difference"},
    "times": {"symbol": "×", "ascii": "*", "word": "times", "noun": "product"},
    "over": {"symbol": "÷", "ascii": "/", "word": "divided by", "noun": "quotient"},
}
NULLS = {
    "@, nothing": {"symbol": "@", "ascii": "@", "word": "nothing", "noun": "none"},
    "<, none": {"symbol": "<", "ascii": "<", "word": "none", "noun": "nothing"},
}


@dataclass(frozen=True)
class Wording:
    """`text` up to the answer, with {a}, {b} and one of {symbol}, {ascii}, {word}, {noun}; it ends in a blank where one stands
    before the answer. `validation`: heads are never sought on it."""

    name: str
    style: str
    text: str
    validation: bool = False


WORDINGS = (
    Wording("eq_symbol", "equation", "{a} {symbol} {b} = "),
    Wording("eq_equals", "equation", "{a} {symbol} {b} equals "),
    Wording("eq_word", "equation", "{a} {word} {b} = "),
    Wording("eq_bracket", "equation", "( {a} {symbol} {b} ) = "),
    Wording("eq_compute", "equation", "compute {a} {symbol} {b} : "),
    Wording("eq_let", "equation", "let x = {a} {symbol} {b} ; x = "),
    Wording("eq_ascii", "equation", "{a} {ascii} {b} = "),
    Wording("eq_tight", "equation", "{a}{ascii}{b}="),
    Wording("eq_word_equals", "equation", "{a} {word} {b} equals ", True),
    Wording("eq_bracket_word", "equation", "( {a} {word} {b} ) = ", True),
    Wording("eq_bracket_tight", "equation", "({a}{ascii}{b})=", True),
    Wording("eq_calculate", "equation", "Calculate: {a} {ascii} {b} = ", True),
    Wording("st_is", "statement", "{a} {word} {b} is "),
    Wording("st_equal_to", "statement", "{a} {word} {b} is equal to "),
    Wording("st_noun", "statement", "The {noun} of {a} and {b} is "),
    Wording("st_answer_to", "statement", "The answer to {a} {word} {b} is "),
    Wording("st_teacher", "statement", "The teacher wrote that {a} {symbol} {b} is "),
    Wording("st_result", "statement", "The result of {a} {word} {b} is "),
    Wording("st_noun_equal", "statement", "The {noun} of {a} and {b} is equal to ", True),
    Wording("st_answer_symbol", "statement", "The answer to {a} {symbol} {b} is ", True),
    Wording("st_get", "statement", "If you compute {a} {word} {b}, you get ", True),
    Wording("qa_what", "question", "Q: What is {a} {word} {b}? A: "),
    Wording("qa_noun", "question", "Q: What is the {noun} of {a} and {b}? A: "),
    Wording("qa_how_much", "question", "Question: How much is {a} {word} {b}? Answer: "),
    Wording("qa_tell", "question", "Can you tell me {a} {symbol} {b}? Yes, it is "),
    Wording("qa_how_symbol", "question", "Q: How much is {a} {symbol} {b}? A: "),
    Wording("qa_short", "question", "Q: {a} {ascii} {b}? A: "),
    Wording("qa_how_word", "question", "Q: How much is {a} {word} {b}? A: ", True),
    Wording("qa_what_symbol", "question", "Question: What is {a} {ascii} {b}? Answer: ", True),
)
BY_NAME = {wording.name: wording for wording in WORDINGS}


_COMPUTE = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__, "over": int.__floordiv__}


@dataclass(frozen=True)
class Problem:
    """One operator on two whole numbers with a whole answer."""

    operator: str
    a: int
    b: int

    @property
    def answer(self) -> int:
        return int(_COMPUTE[self.operator](self.a, self.b))


@lru_cache(maxsize=64)
def problems(operator: str, largest: int) -> tuple[Problem, ...]:
    """Every problem with operands from 1 to `largest`; minus undoes plus and ÷ undoes ×, so that no answer is negative or broken."""
    x_y = [(x, y) for x in range(1, largest + 1) for y in range(1, largest + 1)]
    undone = {"minus": lambda x, y: x + y, "over": lambda x, y: x * y}.get(operator, lambda x, y: x)
    return tuple(Problem(operator, undone(x, y), y) for x, y in x_y)


CHANGES = ("no operator", "other numbers")  # the two counterfactuals of a prompt, in this order everywhere


def changed(wording: Wording, problem: Problem, null: str, largest: int, seed: int) -> tuple[str, str]:
    """The texts of both counterfactuals, as in CHANGES; other numbers differ in both operands and in the answer."""
    others = [p for p in problems(problem.operator, largest) if p.a != problem.a and p.b != problem.b and p.answer != problem.answer]
    chosen = others[int(np.random.default_rng([seed, problem.a, problem.b]).integers(len(others)))]
    return write(wording, problem, NULLS[null])[0], write(wording, chosen, FORMS[problem.operator])[0]


_FIELD = re.compile(r"\{(\w+)\}")


def write(wording: Wording, problem: Problem, form: dict[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """(text up to the answer, {"a" | "op" | "b": first character and one past the last}); `form` is one of FORMS or NULLS."""
    fields = {"a": str(problem.a), "b": str(problem.b), **form}
    text, spans, at = "", {}, 0
    for match in _FIELD.finditer(wording.text):
        text += wording.text[at : match.start()]
        name, value = match[1], fields[match[1]]
        spans[name if name in "ab" else "op"] = (len(text), len(text) + len(value))
        text, at = text + value, match.end()
    return text + wording.text[at:], spans
