"""What is trained or counted, and kept as plans: the bigram table and the masks. Nothing here reads a display parameter."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch

from metrics.mask_training import Schedule, Trained, Wish, batch_of_masks, train
from models import bigrams
from models.bigrams import Bigrams
from models.capture import Capture
from models.corpus import Corpus, parse
from models.loaded import Model
from models.progress import Stage


@dataclass(frozen=True, eq=False)
class Text:
    """The table; ids and counted [sequence, position] to train on; ids and scored to measure on. `scored` are the positions
    whose next token is predicted from one token of the text: neither a BOS before a cut piece nor the last position."""

    table: Bigrams
    train_ids: torch.Tensor
    counted: torch.Tensor
    ids: torch.Tensor
    scored: torch.Tensor
    asked: dict  # what the table and the training text depend on


def text_of(capture: Capture, model: Model, params, progress) -> Text:
    """Count, and cut the training text; the measured text stays apart from both."""
    tokenizer, home, n_vocab = model.tokenizer, capture.lab.home, min(len(model.tokenizer), model.config.vocab_size)
    asked = {"target": params.target, "tokens": params.count_tokens, "table": params.table}
    source = _source(capture.corpus, params.target)

    def make(part) -> Bigrams:
        known = bigrams.exact(source, tokenizer, n_vocab) if params.table != "counted" else None
        return known or bigrams.of_text(source, tokenizer, n_vocab, params.count_tokens, home, part)

    table = capture.keep_plan("bigram table", asked, make, Bigrams, progress)
    ids, keep = bigrams.sequences_apart(source, params.train_sequences, tokenizer, home)
    counted = bigrams.counted_positions(source, tokenizer, keep)
    scored = bigrams.counted_positions(capture.corpus, tokenizer, capture.keep)
    return Text(table, ids, counted, capture.ids, _with_next(scored, capture.keep), {**asked, "sequences": params.train_sequences})


def _source(measured: Corpus, target: str) -> Corpus:
    """The corpus beside which text is taken: the measured one, or one cut like it from another source."""
    if not target.strip():
        return measured
    other = parse(target.strip())
    same = other.source == measured.source
    return measured if same else replace(other, n_sequences=1, length=measured.length, packing=measured.packing, bos=measured.bos)


def _with_next(positions: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    out = positions.clone()
    out[:, -1] = False
    out[:, :-1] &= keep[:, 1:]
    return out


def masks(capture, model: Model, text: Text, wishes: list[Wish], schedule: Schedule, progress, about: str = "") -> list[Trained]:
    """One trained mask per wish, from the store where it is there; as many at once as memory allows. `about` tells apart
    models that share a variant (the embedding controls)."""
    size = batch_of_masks(model, text.train_ids.shape[1], schedule.rows, max(len(wishes), 1))
    found: list[Trained] = []
    for lo in range(0, len(wishes), size):
        group = wishes[lo : lo + size]

        def make(part, missing: list[int], group=group) -> list[Trained]:
            return train(model, text.train_ids, text.counted, text.table, [group[i] for i in missing], schedule, part)

        asked = [{**text.asked, **asdict(schedule), **asdict(wish), "about": about} for wish in group]
        found += capture.keep_plans("bigram mask", asked, make, Trained, Stage(progress, lo / len(wishes), (lo + len(group)) / len(wishes)))
    return found
