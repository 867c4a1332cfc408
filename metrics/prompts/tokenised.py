"""A prompt and its answer in a model's own tokens.

A blank before the answer goes to the answer (" 7") where that makes it one token, as in most vocabularies, else to the prompt, as
where digits stand alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from models.refusal import Refused


@dataclass(frozen=True)
class Ids:
    """Token ids of a prompt (BOS first where the tokenizer has one) and of its answer; `covers` are the characters
    (first, one past the last) of each prompt token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    covers: tuple[tuple[int, int], ...]

    def tokens_of(self, span: tuple[int, int]) -> tuple[int, ...]:
        """Positions of the prompt tokens that share characters with a span."""
        return tuple(i for i, (a, b) in enumerate(self.covers) if a < span[1] and b > span[0])


def read(tokenizer, text: str) -> Ids:
    """A text as a model is given it, BOS first where the tokenizer has one, as every corpus of the app is cut; no answer."""
    encoded = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)  # thousands of short texts: ten times faster than calling it
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return Ids((*bos, *encoded.ids), (), (*[(0, 0)] * len(bos), *encoded.offsets))


def with_answer(tokenizer, text: str, answer: str, single: bool = True) -> Ids | None:
    """A prompt `text` (ending in a blank where one stands before the answer) and its answer; None where `single` is asked for and
    the answer is not one token, where its characters melt into the prompt's tokens, or where the vocabulary does not know them."""
    body = text.removesuffix(" ")
    for prompt, rest in dict.fromkeys(((body, text[len(body) :] + answer), (text, answer))):
        front, whole = read(tokenizer, prompt), read(tokenizer, prompt + rest).prompt
        n = len(front.prompt)
        fits = len(whole) == n + 1 if single else len(whole) > n
        if fits and whole[:n] == front.prompt and tokenizer.unk_token_id not in whole[n:]:
            return Ids(front.prompt, whole[n:], front.covers)
    return None


def require_tokenizer(model) -> None:
    """Refused where a model came without a tokenizer, or with one that cannot say which characters a token covers."""
    if model.tokenizer is None:
        raise Refused(f"{model.written} came without a tokenizer, so no prompt can be written in its tokens; add a tokenizer.json to its folder.")
    if not getattr(model.tokenizer, "is_fast", False):
        raise Refused(f"The tokenizer of {model.written} is a slow one that cannot say which characters a token covers; add a tokenizer.json.")


def by_length(rows: list[tuple[int, ...]], most: int) -> Iterator[tuple[list[int], torch.Tensor]]:
    """(indices, ids [prompt, position]) of batches of equally long rows, at most `most` in each: nothing is padded, so the last
    position is the last token of every prompt. Short rows first, each length in the order given."""
    for length in sorted({len(row) for row in rows}):
        same = [i for i, row in enumerate(rows) if len(row) == length]
        for at in range(0, len(same), most):
            part = same[at : at + most]
            yield part, torch.tensor([rows[i] for i in part])
