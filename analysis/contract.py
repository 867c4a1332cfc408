"""What an analysis supplies, and the values that pass between it and whoever asks.

An analysis is one module with:

    TITLE, QUESTION      shown in the menu and as the page's title; the docstring is the page's Method
    MODELS               (min, max) variants one computation takes: (1, 1), (2, 2) paired, (2, 8) for merges; (0, 0) where the
                         analysis trains its own small networks and looks at no language model
    CORPUS               the default corpus's written form; None where the analysis brings its own inputs
    CORPUS_IS            (optional) what the corpus is where it is not what is looked at: "control text"
    INPUTS               (optional) what is looked at then: "arithmetic prompts"; the Result's `n_inputs` says how many
    Params               frozen dataclass; fields are bool, int, float, str, Literal or tuple[int, ...], all with defaults
    Result               frozen dataclass: numpy arrays, scalars, str, pyarrow Tables; no torch
    also(variant, params)      (optional) further variants that the computation of one subject (of several, the last) reads, for instance
                         checkpoints along its training; their captures follow the subject's, and they are part of the key
    reads(variants, params)    (optional) content hashes of files that the parameters name, for instance an SAE; part of the key
    also_of(variants, params)  (optional) in place of `also`, where they follow from all subjects together, as a merge does
    compute(captures, params, progress) -> Result
    answer(runs) -> str                    the sentence on top, numbers and null included; Markdown bold allowed
    headlines(runs) -> tuple[Headline]     at most four numbers; the rows of a compression report
    figures(runs) -> list[Figure]          one run is a model, two are A against B
    take_away(runs) -> dict[str, Table]    (optional) tables that leave with the figures, by name: a selection of samples
    cost(shape, n_tokens, params) -> float FLOPs, for the estimate before a run; shape None where MODELS is (0, 0)

A Result may have `n_tokens` and `n_sequences`: where CORPUS is None they say how much was read. A page may draw more below
its cards: `page(name, below=draw)` in pages/shared/frame.py.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Run:
    """One computed result with its subject, as figures and answers receive it; a page holds one or two."""

    label: str  # "A", "B", … ; "A → B" for a paired analysis, "A → B → C" for one of three
    subject: str  # written variant(s)
    result: Any
    params: Any
    record: dict  # provenance, as stored


@dataclass(frozen=True)
class Headline:
    """A number with its unit, its interval and its null; `better` is "low", "high" or "" where neither is."""

    label: str
    value: float | str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    null: str = ""
    better: str = ""
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure card. `views` maps a view's name to a function from a Theme (analysis.plots) to a plotly figure; one view
    named "" where there is nothing to choose, else for instance "A", "B", "B − A". `data` is what the figure shows, whole."""

    name: str  # file name, anchor
    title: str
    reading: str  # one sentence: what to see, and what it does not show
    views: dict[str, Callable]
    data: Any  # pyarrow.Table
    caption: str  # for a paper
    alt: str
    height: int = 344  # px on screen
    wide: bool = False
    links: dict[str, str] = field(default_factory=dict)  # clicked x or y label, or first custom datum -> page?query to open


@dataclass(frozen=True)
class Shape:
    """What an estimate needs of a model, read from its config without loading it."""

    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    vocab: int
    n_parameters: int

    @property
    def forward_flops(self) -> float:
        """FLOPs of one forward pass per token, head included, attention scores left out."""
        return 2.0 * self.n_parameters

    @property
    def block_flops(self) -> float:
        return 2.0 * max(self.n_parameters - self.vocab * self.d_model, 1) / max(self.n_layers, 1)

    @property
    def head_flops(self) -> float:
        return 2.0 * self.vocab * self.d_model


def module_docs(module: types.ModuleType) -> str:
    """The Method text: the docstring below its first line."""
    return (module.__doc__ or "").partition("\n")[2].strip()
