"""Which answer reads a text best? Where shapes cannot tell the heads or the activation but a tokenizer came along, a few answers are
tried on the self-check's short texts. The usual answer stays the proposal where it reads as well as any; else, of those that read about
as well as the best, the one nearest to it. Still asked, never assumed: rotary models fall apart with wrong heads, GPT-2's hardly do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from models import skeleton
from models.intake.infer import Guess, Question
from models.refusal import Refused

TRIED = ("n_head", "num_attention_heads", "head_dim", "activation_function", "hidden_act")
FEW = 12  # options of one question, those nearest to the usual one
MOST = 100_000_000  # parameters of a model that is loaded so often
AS_WELL = 0.02  # nats per token: differences below say nothing on so short a text


def tried(guess: Guess, model: Path, n_parameters: int, complete: Callable[[Guess, dict], dict]) -> Guess:
    """The guess with better proposals; `complete` makes config fields from it and answers. Leaves `model`/config.json as written last."""
    if n_parameters > MOST:
        return guess
    chosen: dict = {}
    questions = []
    for question in guess.questions:
        if question.field in TRIED and len(question.options) > 1:
            question = _proposed(question, {option: _nats(model, complete(guess, chosen | {question.field: option})) for option in nearest(question)})
            chosen[question.field] = question.default
        questions.append(question)
    return replace(guess, questions=tuple(questions))


def nearest(question: Question) -> tuple:
    """Options worth a try: all words, and the numbers nearest to the proposal by their ratio to it."""
    if isinstance(question.default, str):
        return question.options[:FEW]
    return tuple(sorted(question.options, key=lambda option: abs(math.log(option / question.default)))[:FEW])


def _proposed(question: Question, nats: dict) -> Question:
    found = {option: value for option, value in nats.items() if value is not None}  # the usual one first, then by their distance to it
    if len(found) < 2:
        return question
    alike = [option for option, value in found.items() if value < min(found.values()) + AS_WELL]
    if question.default in alike:
        return replace(question, text=f"{question.text} Tried on a short text, no other reads it clearly better.")
    also = f", as well as {', '.join(map(str, alike[1:]))}" if alike[1:] else ""
    usual = f"; with {question.default}, {found[question.default]:.2f}" if question.default in found else ""
    return replace(question, default=alike[0], text=f"{question.text} Tried on a short text: {found[alike[0]]:.2f} nats per token with {alike[0]}{also}{usual}.")


def _nats(model: Path, fields: dict) -> float | None:
    """Nats per token of the model under this config on the sample it reads best; None where it does not run."""
    from models import checkpoints, selfcheck

    (model / "config.json").write_text(json.dumps(fields))
    try:
        return selfcheck.reading(*checkpoints.load(checkpoints.from_folder("upload", model)))
    except (Refused, *skeleton.BUILD_ERRORS):
        return None
