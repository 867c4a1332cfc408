"""One prompt looked at closely: what every head attends to from END, and what the stream would say after each block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.patching.end_attention import end_patterns
from metrics.patching.ranking import states_of
from metrics.patching.roles import lens
from metrics.prompts.tokenised import read
from models.loaded import Model
from models.refusal import Refused

TOP = 5
LONGEST = 256  # tokens of a prompt


@dataclass(frozen=True, eq=False)
class Glance:
    """pattern [block, head, position] of END's attention; guess, guess_p [state, 5] the likeliest tokens if the stream were read out
    into the first block and after each; tracked [k] tokens of interest, numbers of the prompt and what the model answers, and
    tracked_p [state, k] their probabilities."""

    prompt: str
    token: np.ndarray  # [position] text
    pattern: np.ndarray
    guess: np.ndarray
    guess_p: np.ndarray
    tracked: np.ndarray
    tracked_p: np.ndarray


def look(model: Model, text: str) -> Glance:
    """Refused where the text is empty or longer than a prompt."""
    ids = read(model.tokenizer, text.rstrip()).prompt
    longest = min(LONGEST, getattr(model.config, "max_position_embeddings", LONGEST))
    if not text.strip() or len(ids) > longest:
        raise Refused(f"The prompt has {len(ids):,} tokens; expected a short question of 1 to {longest}, such as “3 + 4 =”.")
    word = lambda token: model.tokenizer.decode([token])
    probabilities = lens(model, states_of(model, [ids]))[:, 0]
    best = probabilities.topk(min(TOP, probabilities.shape[1]), -1)
    tracked = list(dict.fromkeys([*(t for t in ids if word(t).strip().isdigit()), int(best.indices[-1, 0])]))[-TOP:]
    return Glance(text.rstrip(), np.array([word(t) for t in ids]), end_patterns(model, torch.tensor([ids]))[:, 0].numpy(),
                  np.array([[word(t) for t in row] for row in best.indices.tolist()]),
                  best.values.numpy(), np.array([word(t) for t in tracked]), probabilities[:, tracked].numpy())
