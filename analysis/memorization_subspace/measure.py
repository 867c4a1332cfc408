"""The numbers: what is extracted, where it is located, what cutting does, what a soft prompt brings back, what compression lost."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from analysis.memorization_subspace import finding, locators, lost
from metrics.extraction import Passages, exact_share, extract, passages, shortened, shuffled
from models.progress import Kept, Stage

FEWEST = 8  # memorized passages; fewer cannot be halved and say anything
SPLITS = 3  # random halvings, so that luck of the draw can be seen
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # tokens of prefix tried


@dataclass(frozen=True, eq=False)
class Result:
    """Axes: p passage, c control, k prefix length, h split into halves, s share of the sweep, m method of finding.METHODS, l block,
    t recovery step, o locator, i injected passage, d deleted passage. Where too little is memorized to locate, l, o, i and d are empty."""

    kind: np.ndarray  # [p] text, the label where there is one
    repeats: np.ndarray  # [p] int, −1 where unknown
    exact: np.ndarray  # [p] bool
    leading: np.ndarray  # [p] right tokens before the first wrong one
    suffix: np.ndarray  # [p] tokens in the suffix
    prefix: np.ndarray  # [p] tokens in the prefix
    control_exact: np.ndarray  # [c] bool
    control_kind: np.ndarray  # [c] text
    control_name: str  # what the controls are
    lengths: np.ndarray  # [k] tokens of prefix kept, its last ones
    by_length: np.ndarray  # [2, k] share extracted: of the memorized passages, of the controls
    half: np.ndarray  # [h, p] 1 located on, 2 held out, 0 not memorized
    n_memorized: int
    shares: np.ndarray  # [s]
    density: np.ndarray  # [m, s] mean over splits
    extracted: np.ndarray  # [h, m, s, half] share of the half still extracted; NaN: controls off the share in detail after the first split
    characters: np.ndarray  # [m, s, half] of the first split: 1 − edit distance / length of the greedy completions, mean over the half
    ratio: np.ndarray  # [h, m, s] perplexity after / before; NaN likewise
    perplexity: float  # of the whole model on natural text
    blocks: np.ndarray  # [l]
    layer_density: np.ndarray  # [h, l] of half 1's mask at the share in detail
    overlap: np.ndarray  # [h, 4, l] IoU of the halves' masks: natural base, format base, no contrast, shuffled channels
    chance: np.ndarray  # [l]
    neurons: pa.Table  # block, neuron, score, base and memorized rms, promoted tokens
    texts: pa.Table  # half, prefix, suffix, before, after
    steps: np.ndarray  # [t]; empty where the test was not run
    recovered: np.ndarray  # [3, t]: whole model and cut model on half 1, cut model on never-trained strings
    n_recovered: int  # passages in each
    n_base_tokens: int
    compared: np.ndarray  # [o] locators, and the random control last
    compared_density: np.ndarray  # [o]
    compared_extracted: np.ndarray  # [o, 2] of the half located on, of the held-out half
    compared_ratio: np.ndarray  # [o] perplexity after / before
    n_read: int  # passages that every compared locator read
    injected_recall: np.ndarray  # [o − 1, i] of the injected neurons among the top share of every block
    injected_nats: np.ndarray  # [i, 2] of the passage before and after it was written in
    injected_share: float  # of all neurons; what chance gives
    deleted: np.ndarray  # [o, d, 3] change of right tokens on the passage, of right tokens on the others, perplexity ratio
    deleted_share: float  # of the neurons of every block but the first
    original: str  # what the subject was compressed from; "" where it was not
    original_exact: np.ndarray  # [p] bool; empty where it was not
    lost_steps: np.ndarray  # [t']
    lost_recovered: np.ndarray  # [2, t'] of the passages that compression lost, of never-trained strings, both in the compressed model
    n_lost_tested: int
    n_tokens: int


def compute(captures, params, progress) -> Result:
    (capture,) = captures
    with capture.model() as model:
        tokens, p = capture.tokens, passages(capture.tokens, params.prefix)
        fresh, control_name, control_kind = _controls(capture, p, params)
        progress.step(0, 1000, "extracting")
        before, control = extract(model, p), extract(model, fresh)
        halves = [_halves(before.exact, params.seed + split) for split in range(SPLITS)]
        lengths = _lengths(p)
        known = p[before.exact]
        if halves[0].max():
            found = finding.Finding(model, capture, p, fresh, halves, params, Kept(progress))
            turn = {"none": 0.9, "quick": 0.3, "all": 0.05}[params.compare]  # of the run, about
            located = found.measured(Stage(progress, 0.0, turn)) | locators.compared(found, params, Stage(progress, turn, 0.9))
        else:
            located = finding.nothing() | locators.nothing() | {"perplexity": finding.perplexity(model, *finding.natural(capture))}
        return Result(
            *_labels(tokens, p), before.exact.numpy(), before.leading.numpy(), (p.end - p.start).numpy(), (p.start - 1).numpy(),
            control.exact.numpy(), control_kind, control_name, np.array(lengths),
            np.array([[exact_share(model, shortened(q, n)) if len(q) else np.nan for n in lengths] for q in (known, fresh)]),
            torch.stack(halves).numpy(), int(before.exact.sum()), n_tokens=tokens.n_tokens, **located, **lost.lost(capture, model, p, fresh, before.exact, params, progress))


def _controls(capture, p: Passages, params) -> tuple[Passages, str, np.ndarray]:
    """Strings of the same shape that were never trained on."""
    if capture.corpus.source == "demo/canaries":
        other = capture.beside(replace(capture.corpus, split="test", n_sequences=32).written)
        fresh = passages(other.tokens, params.prefix)
        return fresh, "control canaries, never trained on", np.asarray(other.tokens.labels["kind"], str)[fresh.row.numpy()]
    return shuffled(p, params.seed), "the same passages with shuffled tokens", np.full(len(p), "shuffled")


def _labels(tokens, p: Passages) -> tuple[np.ndarray, np.ndarray]:
    """(kind, repeats) of each passage; a list of one's own may say them in fields of these names."""
    rows = p.row.numpy()
    kind = np.asarray(tokens.labels["kind"], str)[rows] if "kind" in tokens.labels else np.full(len(p), "passage")
    said = [str(r) for r in tokens.labels["repeats"][rows]] if "repeats" in tokens.labels else []
    return kind, np.array([int(r) for r in said]) if said and all(r.isdigit() for r in said) else np.full(len(p), -1)


def _halves(exact: torch.Tensor, seed: int) -> torch.Tensor:
    """[passage]: memorized ones in two random halves, 1 and 2; all 0 where there are fewer than FEWEST."""
    half, known = torch.zeros(len(exact), dtype=torch.int64), exact.nonzero()[:, 0]
    if len(known) < FEWEST:
        return half
    order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
    half[order[: len(order) // 2]], half[order[len(order) // 2 :]] = 1, 2
    return half


def _lengths(p: Passages) -> list[int]:
    """Prefix lengths to try, in tokens, up to the longest there is."""
    longest = int(p.start.max()) - 1
    return sorted({n for n in LENGTHS if n < longest} | {longest})
