"""Numbers read off a scan: mean effects with their intervals, ranked heads, key heads. Plain numpy, the same for words and figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from metrics.bootstrap import ratio_interval
from metrics.patching.end import MEASURES
from metrics.patching.path import CONVENTIONS
from metrics.patching.ranking import label
from metrics.prompts.arithmetic_set import FEWEST
from metrics.prompts.wordings import CHANGES, OPERATORS

RELATIVE = 0  # index of the paper's measure
RECOMPUTED = 0
RESAMPLES = 1000


def operators(r) -> list[int]:
    """Indices of the operators that were kept."""
    return sorted(set(r.operator.tolist()))


def weights(r, among: np.ndarray) -> np.ndarray:
    """[prompt] weights, 0 outside `among` [prompt] bool; every operator there weighs the same."""
    counts = np.bincount(r.operator[among], minlength=len(OPERATORS))
    return np.where(among, 1 / np.maximum(counts, 1)[r.operator], 0.0)


def half(r, validation: bool, operator: int | None = None) -> np.ndarray:
    """[prompt] bool: the prompts of one half, of one operator or of all."""
    return (r.validation == validation) & (True if operator is None else r.operator == operator)


def means(r, effect: np.ndarray, among: np.ndarray) -> np.ndarray:
    """[…, 3] mean, low, high of effect [prompt, …] over the prompts of `among`, 95 %, prompts resampled; those without a value (a
    reference logit not above zero) are left out."""
    flat = effect.reshape(len(effect), -1)
    known = among & np.isfinite(flat).any(1)
    if not known.any():
        return np.full((*effect.shape[1:], 3), np.nan)
    w = weights(r, known)[known]
    three = ratio_interval(flat[known].T.astype(np.float64) * w, w, RESAMPLES)
    return np.stack(three, -1).reshape(*effect.shape[1:], 3)


@lru_cache(maxsize=64)  # results are compared by identity
def heads(r, change: int, convention: int = RECOMPUTED, measure: int = RELATIVE, validation: bool = False, operator: int | None = None) -> np.ndarray:
    """[block, head, 3] mean effect of patching each head alone, with its interval."""
    return means(r, r.head_effect[change, convention, measure], half(r, validation, operator))


def mlps(r, change: int, convention: int, measure: int, operator: int | None = None) -> np.ndarray:
    """[block, 3] the same for MLPs."""
    return means(r, r.mlp_effect[change, convention, measure], half(r, False, operator))


def ranked(r, change: int, convention: int = RECOMPUTED, measure: int = RELATIVE, operator: int | None = None) -> list[tuple[int, int]]:
    """(position of the block, head), the most harmful patch on the discovery prompts first; removed heads are left out."""
    mean = heads(r, change, convention, measure, operator=operator)[..., 0]
    order = np.argsort(np.where(np.isfinite(mean), mean, np.inf).ravel(), kind="stable")
    return [divmod(int(i), mean.shape[1]) for i in order if np.isfinite(mean.ravel()[i])]


def closest(run, most: int) -> list[tuple[int, int]]:
    """The heads that are looked at closely: the one that was asked for, then the strongest by what is shown."""
    r = run.result
    order = ranked(r, *chosen(run.params))
    asked = [x for x in order if name(r, x) == run.params.head.strip()]
    return [*asked, *(x for x in order if x not in asked)][:most]


def key_heads(r, change: int, threshold: float, convention: int = RECOMPUTED, operator: int | None = None) -> list[tuple[int, int]]:
    """Heads whose patch takes more than `threshold` percent of the answer's logit away, the worst first: the rule of the paper."""
    mean = heads(r, change, convention, operator=operator)[..., 0]
    return [(i, h) for i, h in ranked(r, change, convention, operator=operator) if mean[i, h] < -threshold / 100]


def name(r, head: tuple[int, int]) -> str:
    return label(int(r.blocks[head[0]]), head[1])


def n_heads(r) -> int:
    """Heads that are left."""
    return int((~r.no_attention).sum()) * r.n_heads


def chosen(params) -> tuple[int, int, int]:
    """(change, convention, measure) that the page shows."""
    return CHANGES.index(params.change), CONVENTIONS.index(params.mlps), MEASURES.index(params.measure)


def scale(measure: int) -> float:
    """From stored to shown: relative logits in percent, the rest in nats."""
    return 100.0 if measure == RELATIVE else 1.0


def unit(measure: int) -> str:
    return "%" if measure == RELATIVE else "nats"


def same_checkpoint(a, b) -> bool:
    """Whether two runs look at variants of one checkpoint, so that their heads correspond."""
    return a.subject.partition("~")[0] == b.subject.partition("~")[0] and a.result.n_heads == b.result.n_heads


@dataclass(frozen=True, eq=False)
class Both:
    """Mean effects of A, B and B − A, each [block, head, 3], on A's blocks; over `n` prompts of one half's wordings that both answer
    rightly, or, with `common` False, each over its own. NaN where B lacks a head."""

    a: np.ndarray
    b: np.ndarray
    difference: np.ndarray
    n: int
    common: bool


@lru_cache(maxsize=32)
def both(a, b, change: int, convention: int = RECOMPUTED, measure: int = RELATIVE, validation: bool = False) -> Both:
    """Two results of one checkpoint's variants, compared head by head in one half of the wordings."""
    mine = {str(k): i for i, k in enumerate(a.key) if a.validation[i] == validation}
    pairs = [(mine[str(k)], j) for j, k in enumerate(b.key) if b.validation[j] == validation and str(k) in mine]
    at_a, at_b = (np.array(column, int) for column in zip(*pairs)) if pairs else (np.zeros(0, int), np.zeros(0, int))
    at = np.searchsorted(b.blocks, a.blocks).clip(max=len(b.blocks) - 1)
    lacking = b.blocks[at] != a.blocks
    if len(pairs) < FEWEST:
        one, two = heads(a, change, convention, measure, validation), heads(b, change, convention, measure, validation)[at].copy()
        two[lacking] = np.nan
        return Both(one, two, np.full_like(one, np.nan), len(pairs), False)
    first = a.head_effect[change, convention, measure][at_a]
    second = b.head_effect[change, convention, measure][at_b][:, at].copy()
    second[:, lacking] = np.nan
    over = lambda effect: means(_Part(a.operator[at_a]), effect, np.ones(len(pairs), bool))
    return Both(over(first), over(second), over(second - first), len(pairs), True)


@dataclass(frozen=True, eq=False)
class _Part:
    operator: np.ndarray


def killed(a, b, change: int, threshold: float, convention: int = RECOMPUTED, validation: bool = False) -> list[tuple[int, int]]:
    """A's key heads (of the discovery wordings) that B has lost in one half of the wordings: there they take the threshold away in A and less in
    B, and the interval of B − A lies above 0; or they are gone."""
    found = both(a, b, change, convention, validation=validation)
    least = -threshold / 100
    keys = [(i, h) for i, h in ranked(a, change, convention) if found.a[i, h, 0] < least]
    gone = lambda i, h: not np.isfinite(found.b[i, h, 0])
    weaker = lambda i, h: found.b[i, h, 0] > least and (found.difference[i, h, 1] > 0 or not found.common)
    return [(i, h) for i, h in keys if gone(i, h) or weaker(i, h)]
