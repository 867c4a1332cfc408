"""Strand 2: one-step arithmetic in 21 wordings of three styles.

Operands are 0..6 for plus and times, and minus is the inverse of plus (minuend 0..12,
subtrahend and difference 0..6): 49 problems per operator, answers 0..36, each a single
token. Every prompt has a null form of equal length, in which the operator is a word that
means nothing and the answer is a uniformly random digit: the counterfactual in which the
operands are present but nothing is to be computed."""
import random
from dataclasses import dataclass
from functools import lru_cache

from demo.document import Document, fill

STYLES = ("equation", "statement", "question")
OPERATORS = ("plus", "minus", "times")
OPERANDS = range(7)
NULL = "null"
NULL_SHARE = 0.08                                # share of null documents in either split

_FORMS = {                                       # operator: symbol, word, noun
    "plus": {"symbol": "+", "word": "plus", "noun": "sum"},
    "minus": {"symbol": "-", "word": "minus", "noun": "difference"},
    "times": {"symbol": "×", "word": "times", "noun": "product"},
    NULL: {"symbol": "@", "word": "nothing", "noun": "none"},
}


@dataclass(frozen=True)
class Template:
    """`text` holds {a}, {b} and {c|answer}; a held-out template occurs in no training text."""

    name: str
    style: str
    text: str
    heldout: bool = False


TEMPLATES = (
    Template("eq_symbol", "equation", "{a} {symbol} {b} = {c|answer}"),
    Template("eq_equals", "equation", "{a} {symbol} {b} equals {c|answer}"),
    Template("eq_word", "equation", "{a} {word} {b} = {c|answer}"),
    Template("eq_bracket", "equation", "( {a} {symbol} {b} ) = {c|answer}"),
    Template("eq_compute", "equation", "compute {a} {symbol} {b} : {c|answer}"),
    Template("eq_let", "equation", "let x = {a} {symbol} {b} ; x = {c|answer}"),
    Template("eq_word_equals", "equation", "{a} {word} {b} equals {c|answer}", True),
    Template("eq_bracket_equals", "equation", "( {a} {word} {b} ) = {c|answer}", True),
    Template("st_is", "statement", "{a} {word} {b} is {c|answer}."),
    Template("st_equal_to", "statement", "{a} {word} {b} is equal to {c|answer}."),
    Template("st_noun", "statement", "The {noun} of {a} and {b} is {c|answer}."),
    Template("st_answer_to", "statement", "The answer to {a} {word} {b} is {c|answer}."),
    Template("st_teacher", "statement", "The teacher wrote that {a} {symbol} {b} is {c|answer}."),
    Template("st_noun_equal", "statement", "The {noun} of {a} and {b} is equal to {c|answer}.", True),
    Template("st_answer_symbol", "statement", "The answer to {a} {symbol} {b} is {c|answer}.", True),
    Template("qa_what", "question", "Q: What is {a} {word} {b}? A: {c|answer}"),
    Template("qa_noun", "question", "Q: What is the {noun} of {a} and {b}? A: {c|answer}"),
    Template("qa_how_much", "question", "Question: How much is {a} {word} {b}? Answer: {c|answer}"),
    Template("qa_tell", "question", "Can you tell me {a} {symbol} {b}? Yes, it is {c|answer}."),
    Template("qa_how_symbol", "question", "Q: How much is {a} {symbol} {b}? A: {c|answer}"),
    Template("qa_how_word", "question", "Q: How much is {a} {word} {b}? A: {c|answer}", True),
)
BY_NAME = {template.name: template for template in TEMPLATES}
TRAIN_TEMPLATES = tuple(t for t in TEMPLATES if not t.heldout)
HELDOUT_TEMPLATES = tuple(t for t in TEMPLATES if t.heldout)


def answer(operator: str, a: int, b: int) -> int:
    return {"plus": a + b, "minus": a - b, "times": a * b}[operator]


@lru_cache(maxsize=None)
def pairs(operator: str, heldout: bool | None = None) -> tuple[tuple[int, int], ...]:
    """The operand pairs of an operator: all, only trained (False) or only held out (True).

    About a tenth is held out, a pair together with its mirror image (and with the
    subtractions that undo it), so that no trained fact gives a held-out one away by symmetry."""
    if operator == "minus":
        every = tuple((x + y, y) for x in OPERANDS for y in OPERANDS)
    else:
        every = tuple((x, y) for x in OPERANDS for y in OPERANDS)
    if heldout is None:
        return every
    return tuple(pair for pair in every if is_heldout(operator, *pair) == heldout)


_HELD = {"plus": {(2, 5), (4, 6), (3, 3)}, "minus": {(2, 5), (4, 6), (3, 3)}, "times": {(2, 6), (3, 5), (4, 4)}}


def is_heldout(operator: str, a: int, b: int) -> bool:
    x, y = (a - b, b) if operator == "minus" else (a, b)
    low, high = min(x, y), max(x, y)
    return (low, high) in _HELD[operator]


def write(template: Template, operator: str, a: int, b: int, c: int) -> Document:
    fields = {"a": str(a), "b": str(b), "c": str(c), **_FORMS[operator]}
    text, spans = fill(template.text, fields)
    held = operator != NULL and is_heldout(operator, a, b)
    labels = {
        "strand": "arithmetic", "template": template.name, "style": template.style,
        "operator": operator, "a": a, "b": b, "answer": c,
        "heldout_template": template.heldout, "heldout_pair": held,
    }
    return Document(text, labels, tuple(spans))


def prompt(template: Template, operator: str, a: int, b: int) -> tuple[str, str]:
    """(text up to the answer without the blank before it, the answer)."""
    c = 0 if operator == NULL else answer(operator, a, b)
    document = write(template, operator, a, b, c)
    return document.text[: document.spans[0][0] - 1], str(c)


def counterfactual(template: Template, a: int, b: int) -> str:
    """The prompt with the same wording, operands and token count, and nothing to compute."""
    return prompt(template, NULL, a, b)[0]


def distribution(split: str) -> list[tuple[Document, float]]:
    """Every document of the split with its exact probability; the probabilities sum to 1.

    train: operator, training template and trained pair, each uniform. test: a third each of
    held-out template with trained pair, training template with held-out pair, both held out.
    Null documents take NULL_SHARE of either split, over the pairs of plus."""
    parts = [(TRAIN_TEMPLATES, False, 1.0)]
    if split == "test":
        third = 1 / 3
        parts = [(HELDOUT_TEMPLATES, False, third), (TRAIN_TEMPLATES, True, third), (HELDOUT_TEMPLATES, True, third)]
    found = []
    for templates, heldout, share in parts:
        for template in templates:
            for operator in OPERATORS:
                chosen = pairs(operator, heldout)
                weight = share * (1 - NULL_SHARE) / (len(templates) * len(OPERATORS) * len(chosen))
                found += [(write(template, operator, a, b, answer(operator, a, b)), weight) for a, b in chosen]
            chosen = pairs("plus", heldout)
            weight = share * NULL_SHARE / (len(templates) * len(chosen) * 10)
            found += [(write(template, NULL, a, b, c), weight) for a, b in chosen for c in range(10)]
    return found


def draw(rng: random.Random, split: str) -> Document:
    templates, heldout = TRAIN_TEMPLATES, False
    if split == "test":
        templates, heldout = rng.choice(((HELDOUT_TEMPLATES, False), (TRAIN_TEMPLATES, True), (HELDOUT_TEMPLATES, True)))
    template = rng.choice(templates)
    if rng.random() < NULL_SHARE:
        a, b = rng.choice(pairs("plus", heldout))
        return write(template, NULL, a, b, rng.randrange(10))
    operator = rng.choice(OPERATORS)
    a, b = rng.choice(pairs(operator, heldout))
    return write(template, operator, a, b, answer(operator, a, b))
