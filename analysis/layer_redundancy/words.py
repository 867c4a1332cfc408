"""The answer on top and the headline numbers, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.plots import interval, number
from metrics.bootstrap import RankCorrelation, rank_correlation

BLOCK, ATTENTION, MLP = range(3)


def scope(run) -> int:
    """Index of the tokens shown: 0 all, 1 all but position 0."""
    return 0 if run.params.tokens == "all" else 1


def correlation(run, kind: int | None) -> RankCorrelation:
    """Score against measured KL of one kind; None ranks attention and MLP together."""
    r, s = run.result, scope(run)
    pick = slice(kind, kind + 1) if kind is not None else slice(ATTENTION, MLP + 1)
    return rank_correlation(r.score[pick, :, s].ravel(), r.kl[pick, :, s].ravel())


def cheapest(run, kind: int = BLOCK) -> int:
    """Position of the unit with the smallest measured KL."""
    return int(np.nanargmin(run.result.kl[kind, :, scope(run)]))


def most_similar(run, kind: int = BLOCK) -> int:
    return int(np.nanargmin(run.result.score[kind, :, scope(run)]))


def measured(run) -> bool:
    return bool(np.isfinite(run.result.kl[BLOCK]).any())


def gone(run) -> tuple[int, ...]:
    """Blocks of the unmodified checkpoint that this variant lacks."""
    return tuple(sorted(set(range(run.result.n_layers)) - set(run.result.blocks.tolist())))


def lacking(run) -> list[str]:
    """What this variant lacks, whole blocks first: "block 3", "attention of block 5"."""
    r = run.result
    halves = [f"{name} of block {r.blocks[i]}" for kind, name in ((ATTENTION, "attention"), (MLP, "MLP")) for i in np.flatnonzero(np.isnan(r.score[kind, :, 0]))]
    return [f"block {i}" for i in gone(run)] + halves


def depth(runs) -> int:
    """Blocks of the deepest unmodified checkpoint: the axis that all runs share."""
    return max(run.result.n_layers for run in runs)


def nats(x: float) -> str:
    """A KL; what float32 logits cannot tell from zero is said so."""
    return number(x) if x >= 1e-6 else "less than 0.000001"


def listed(numbers) -> str:
    return ", ".join(map(str, numbers[:-1])) + (" and " if len(numbers) > 1 else "") + str(numbers[-1]) if numbers else ""


def answer(runs) -> str:
    a, *others = runs
    if not measured(a):
        i = most_similar(a)
        values = a.result.score[BLOCK, :, scope(a)]
        return (f"Block **{a.result.blocks[i]}** turns the residual stream least: 1 − cos **{number(values[i])}**; the median block {number(np.nanmedian(values))}. "
                "What its removal costs was not measured.")
    text = [_cheapest(a), _by_cosine(a)]
    if others and measured(others[0]):
        text.append(_against(a, others[0]))
    return " ".join(text)


def _cheapest(run) -> str:
    r, s, i = run.result, scope(run), cheapest(run)
    return (f"Removing **block {r.blocks[i]}** costs **{nats(r.kl[BLOCK, i, s])} nats per token**{_interval(r, i, s)}; "
            f"the median block costs {nats(np.nanmedian(r.kl[BLOCK, :, s]))}.")


def _interval(r, i: int, s: int) -> str:
    low, high = r.kl_low[BLOCK, i, s], r.kl_high[BLOCK, i, s]
    return f" (95 % interval {interval(low, high)})" if high >= 1e-6 else ""


def _by_cosine(run) -> str:
    r, s, i = run.result, scope(run), most_similar(run)
    found = correlation(run, BLOCK)
    null = (f"over {found.n} blocks ρ = {number(found.rho, 2)}, shuffled {number(found.null_low, 2)} to {number(found.null_high, 2)}"
            if np.isfinite(found.rho) else f"{found.n} blocks are too few for a rank correlation")
    if i == cheapest(run):
        return f"Cosine similarity would remove the same block ({null})."
    return f"Cosine similarity would have removed block {r.blocks[i]}, which costs {nats(r.kl[BLOCK, i, s])} ({null})."


def _against(a, b) -> str:
    i, s = cheapest(b), scope(b)
    block = int(b.result.blocks[i])
    cost = nats(b.result.kl[BLOCK, i, s])
    missing = lacking(b)
    lead = f"In {b.label}" + (f", which lacks {listed(missing) if len(missing) <= 4 else f'{len(missing)} blocks and sublayers'}," if missing else "")
    here = np.flatnonzero(a.result.blocks == block)
    before = f" (in {a.label} {nats(a.result.kl[BLOCK, here[0], scope(a)])})" if len(here) else ""
    return f"{lead} the cheapest is block {block} at {cost}{before}."


def headlines(runs) -> tuple[Headline, ...]:
    a = runs[0]
    r, s = a.result, scope(a)
    if not measured(a):
        i = most_similar(a)
        return (Headline("Most similar block", str(r.blocks[i]), note=f"1 − cos {number(r.score[BLOCK, i, s])}"),
                Headline("Median 1 − cos", float(np.nanmedian(r.score[BLOCK, :, s])), better=""))
    i, values, found = cheapest(a), r.kl[BLOCK, :, s], correlation(a, BLOCK)
    rows = [
        Headline("Cheapest block", str(r.blocks[i]), low=float(r.kl_low[BLOCK, i, s]), high=float(r.kl_high[BLOCK, i, s]),
                 note=f"{nats(values[i])} nats/token mean KL"),
        Headline("Median cost of one block", float(np.nanmedian(values)), "nats/token", float(np.nanmin(values)), float(np.nanmax(values)),
                 better="low", note="range over blocks"),
        Headline("Similarity against damage", found.rho, "ρ", found.low, found.high, f"{number(found.null_low, 2)} to {number(found.null_high, 2)}",
                 note=f"n = {found.n}, null: shuffled, 95 %"),
    ]
    if len(runs) > 1 and measured(runs[1]):
        ratio = cost_ratios(a, runs[1])
        if len(ratio):
            rows.append(Headline("Blocks left, B over A", float(np.median(ratio)), "×", float(ratio.min()), float(ratio.max()),
                                 note=f"median and range, n = {len(ratio)}"))
    else:
        rows.append(Headline("Perplexity without it", float(r.perplexity[BLOCK, i, s]), "", better="low", note=f"{number(r.base_perplexity[s])} with it"))
    return tuple(rows)


def cost_ratios(a, b) -> np.ndarray:
    """KL of removing each block that both have, B over A."""
    common = [x for x in a.result.blocks.tolist() if x in set(b.result.blocks.tolist())]
    at = lambda run: np.array([run.result.kl[BLOCK, list(run.result.blocks).index(x), scope(run)] for x in common])
    with np.errstate(divide="ignore"):
        ratio = at(b) / at(a)
    return ratio[np.isfinite(ratio) & (ratio > 0)]
