"""The numbers: answers of both models in each condition, operations, and time where the variant can really run smaller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from analysis.compression_skills.questions import SKILLS, Question, questions
from analysis.compression_skills.speed import time_in_turn
from metrics.answers import Row, answers
from metrics.bootstrap import ratio_interval
from metrics.model_bits import model_bits, n_weights
from metrics.model_flops import flops_per_token
from metrics.paired import mcnemar
from metrics.prompts.tokenised import read, require_tokenizer, with_answer
from models.loaded import Model
from models.refusal import NotApplicable

BOOKS = ("closed", "open", "wrong")


@dataclass(frozen=True, eq=False)
class Result:
    """Axes: question runs over all questions, `skill` says which of `skills` it belongs to; book is closed, open, wrong; `3` is value, 95 %
    low and high.

    right_a, right_b [book, question]; log_p_a, log_p_b [book, question] nats per token of the answer
    accuracy_a, accuracy_b, change [skill, book, 3] shares, change is B − A; sure_change [skill, book, 3] nats per token
    lost, won [skill, book] answers that only A, only B gives; p [skill, book] McNemar
    flops_a, flops_b per token; seconds_a, seconds_b [repeat], empty where nothing was timed; how says what ran, or why nothing is faster
    """

    skills: tuple
    skill: np.ndarray
    text: np.ndarray
    answer: np.ndarray
    right_a: np.ndarray
    right_b: np.ndarray
    log_p_a: np.ndarray
    log_p_b: np.ndarray
    accuracy_a: np.ndarray
    accuracy_b: np.ndarray
    change: np.ndarray
    sure_change: np.ndarray
    lost: np.ndarray
    won: np.ndarray
    p: np.ndarray
    left_out: int  # questions that this tokenizer or context cannot take
    flops_a: float
    flops_b: float
    bits_a: float
    bits_b: float
    n_weights: int
    seconds_a: np.ndarray
    seconds_b: np.ndarray
    faster: bool
    how: str
    length: int
    n_tokens: int
    n_sequences: int

    @property
    def n_inputs(self) -> int:
        return len(self.skill)


def compute(captures, params, progress) -> Result:
    first, second = captures
    with first.model() as a, second.model() as b:
        require_tokenizer(a)
        if a.config.vocab_size != b.config.vocab_size or a.tokenizer.get_vocab() != b.tokenizer.get_vocab():
            raise NotApplicable("A and B cut text into different tokens, so their answers cannot be compared word for word; choose two models with one tokenizer.")
        asked = questions(first.lab.home, params.questions, params.seed)
        rows, kept = _rows(a, asked)
        if not kept:
            raise NotApplicable("None of the questions fits into this model’s vocabulary and context, so there is nothing to ask.")
        given = {label: _answers(m, rows, progress, share) for share, (label, m) in enumerate((("a", a), ("b", b)))}
        length = min(params.length, getattr(a.config, "max_position_embeddings", params.length))
        smaller, how = second.lab.physical(second.variant, progress)
        times = time_in_turn(a.module, smaller, a.config.vocab_size, length, params.repeats, progress) if smaller is not None else (np.zeros(0), np.zeros(0))
        mine = np.array([SKILLS.index(asked[i].skill) for i in kept])
        right, log_p = {k: v[0] for k, v in given.items()}, {k: v[1] for k, v in given.items()}
        return Result(
            skills=SKILLS, skill=mine, text=np.array([asked[i].text for i in kept], dtype=str), answer=np.array([asked[i].answer for i in kept], dtype=str),
            right_a=right["a"], right_b=right["b"], log_p_a=log_p["a"], log_p_b=log_p["b"], **_summaries(mine, right, log_p, params), left_out=len(asked) - len(kept),
            flops_a=flops_per_token(_dense(a, first), length), flops_b=flops_per_token(b.module if smaller is None else smaller, length), bits_a=model_bits(a),
            bits_b=model_bits(b), n_weights=n_weights(a), seconds_a=times[0], seconds_b=times[1], faster=smaller is not None, how=how, length=length,
            n_tokens=sum(len(r) for book in rows for r, _ in book), n_sequences=3 * len(kept),
        )


def _dense(a: Model, capture) -> torch.nn.Module:
    """A as it would really run: A may be a variant itself."""
    smaller, _ = capture.lab.physical(capture.variant)
    return a.module if smaller is None else smaller


def _rows(model: Model, asked: list[Question]) -> tuple[list[list[tuple[Row, Row]]], list[int]]:
    """(prompt, answer) ids of every question in each book, and the indices of the questions that fit in all three."""
    context = getattr(model.config, "max_position_embeddings", None) or 10**9
    books, kept = ([], [], []), []
    for i, q in enumerate(asked):
        three = [_prompt(model.tokenizer, q, book) for book in ("", q.book, q.wrong)]
        if all(three) and all(len(p) + len(w) <= context for p, w in three):
            kept.append(i)
            for book, row in zip(books, three):
                book.append(row)
    return list(books), kept


def _prompt(tokenizer, q: Question, book: str) -> tuple[Row, Row] | None:
    """A passage that ends is followed by the tokenizer's end of text, as between the documents of a training sequence."""
    found = with_answer(tokenizer, (book if q.joined else "") + q.text, q.answer, single=False)
    if found is None or not found.answer:
        return None
    if q.joined or not book:
        return found.prompt, found.answer
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    bos = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    return read(tokenizer, book).prompt + end + found.prompt[len(bos):], found.answer


def _answers(model: Model, rows, progress, share: int) -> tuple[np.ndarray, np.ndarray]:
    """right, log_p [book, question]."""
    n, out = len(rows[0]), []
    for k, book in enumerate(rows):
        step = lambda done: progress.step((share * 3 + k) * n + done, 6 * n, f"{BOOKS[k]} book, {'AB'[share]}")
        out.append(answers(model, [p for p, _ in book], [w for _, w in book], step))
    return np.stack([a.right for a in out]), np.stack([a.log_p for a in out])


def _summaries(skill: np.ndarray, right: dict, log_p: dict, params) -> dict:
    def three(values: np.ndarray) -> np.ndarray:
        """[skill, book, 3] mean of values [book, question] with its interval over questions."""
        out = np.full((len(SKILLS), len(BOOKS), 3), np.nan)
        for s in range(len(SKILLS)):
            own = values[:, skill == s].astype(float)
            if own.shape[1]:
                out[s] = np.stack(ratio_interval(own, np.ones(own.shape[1]), params.resamples, params.seed), -1)
        return out

    a, b = right["a"], right["b"]
    counts = lambda flags: np.array([[int(flags[k, skill == s].sum()) for k in range(len(BOOKS))] for s in range(len(SKILLS))])
    lost, won = counts(a & ~b), counts(b & ~a)
    p = np.array([[mcnemar(int(lost[s, k]), int(won[s, k])).p for k in range(len(BOOKS))] for s in range(len(SKILLS))])
    return {"accuracy_a": three(a), "accuracy_b": three(b), "change": three(b.astype(float) - a), "sure_change": three(log_p["b"] - log_p["a"]), "lost": lost, "won": won, "p": p}
