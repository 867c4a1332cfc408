"""One corpus seen through one variant: what an analysis or an operator's calibration gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from models.corpus import Corpus, Tokens, parse
from models.loaded import Model


@dataclass(eq=False)
class Capture:
    """`lab` hands these out; `with capture.model() as model:` for code that must run, patch or train."""

    lab: object
    variant: object
    corpus: Corpus | None  # None where the analysis brings its own inputs

    @cached_property
    def tokens(self) -> Tokens:
        """The corpus cut by this model's tokenizer; ids [sequence, position]."""
        return self.lab.tokens(self.variant, self.corpus)

    def pieces(self, size: int) -> Iterator[tuple[Tokens, list[str]]]:
        """The corpus in pieces of `size` padded sequences, with the documents' own texts; nothing of a piece stays behind."""
        return self.lab.pieces(self.variant, self.corpus, size)

    @property
    def ids(self) -> torch.Tensor:
        return torch.from_numpy(self.tokens.ids)

    @property
    def keep(self) -> torch.Tensor:
        return torch.from_numpy(self.tokens.keep)

    def beside(self, written: str) -> Capture:
        """The same variant on another text, given in its written form."""
        return Capture(self.lab, self.variant, parse(written))

    @contextmanager
    def model(self) -> Iterator[Model]:
        """The loaded variant. Its parameters must be left as they are; train on `model.copy(...)`."""
        yield self.lab.model(self.variant)

    @contextmanager
    def original(self) -> Iterator[Model]:
        """What the variant's recipe started from: the checkpoint, or the merge of several."""
        start = replace(self.variant, steps=self.variant.steps[:1] if self.variant.parents else ())
        yield self.lab.model(start)

    def measure(self, requests: list, *, exclude_first: bool = False, batch: int = 8, progress=None) -> list:
        """Stream every requested statistic in one pass over the corpus; see models.stream."""
        from models.stream import stream

        with self.model() as model:
            return stream(model, self.ids, self.keep, requests, batch=batch, exclude_first=exclude_first, progress=progress)

    def keep_plan(self, name: str, parameters: dict, make: Callable, plan_class: type, progress=None, beside: tuple[Capture, ...] = ()):
        """A trained artefact worth keeping: from the store, or made by `make(progress)` and stored under its own key
        (the code of make's module, variant, corpus, name, parameters), so that display parameters never retrain it.
        `beside` are captures of further models that it depends on."""
        return self.lab.kept(name, self, parameters, make, plan_class, progress, beside)

    def find_plan(self, name: str, parameters: dict, make: Callable, plan_class: type):
        """What keep_plan would take from the store; None where it would have to be made."""
        return self.lab.found(name, self, parameters, make, plan_class)

    def keep_plans(self, name: str, parameters: list[dict], make: Callable, plan_class: type, progress=None) -> list:
        """Several of them that train together, each with an entry of its own; `make(progress, missing)` returns the plans of
        the given indices, in order."""
        return self.lab.kept_many(name, self, parameters, make, plan_class, progress)
