"""The answer on top and the headline numbers, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.chain_search.measure import read
from analysis.contract import Headline
from analysis.plots import interval, number


def answer(runs) -> str:
    parts = [_one(run) for run in runs]
    return parts[0] if len(parts) == 1 else " ".join(f"{run.label}: {text}" for run, text in zip(runs, parts))


def nothing(r) -> bool:
    """Whether the cheapest chain is the model as it is."""
    return read(r.found) == tuple(r.blocks)


def what(run) -> str:
    return "KL to the whole model" if run.params.loss == "kl" else "−ln p of the next token"


def _one(run) -> str:
    r = run.result
    seen = f"{len(r.chain):,} chains were measured in {run.params.simulations:,} simulations"
    if nothing(r):
        shorter = [(x, c) for x, c in zip(r.loss, r.chain) if len(read(c)) < len(r.blocks)]
        nearest = min(shorter, default=None)
        beside = f"; the nearest shorter one, {nearest[1]}, costs {nats(nearest[0])} nats per token" if nearest else ""
        return f"**No chain is cheaper than all {len(r.blocks)} blocks in order** at a price of {number(r.price)} nats{beside}. {seen}; so many random ones found {_random(r)}."
    text = f"The chain **{r.found}** ({described(r)}) costs **{nats(r.found_loss[0])} nats per token**{_span(r.found_loss)} of {what(run)}"
    text += f" for this prompt, on which it was chosen" if r.prompt else f" on {r.n_held} held-out sequences"
    if run.params.loss != "kl":
        text += f"; the whole model {nats(r.whole_loss[0])}"
    if len(r.control_loss):
        closer = int((r.control_loss <= r.found_loss[0]).sum())
        text += (f". Of {len(r.control_loss)} random chains of that length {closer or 'none'} {'is' if closer == 1 else 'are'} as close: their median costs "
                 f"{nats(np.median(r.control_loss))}, the best {nats(r.control_loss.min())}")
    return f"{text}. {seen}; so many random ones found {_random(r)}."


def _random(r) -> str:
    return "nothing cheaper than the whole model" if read(r.best_random) == tuple(r.blocks) else f"{r.best_random} at {nats(r.best_random_loss[0])}"


def described(r) -> str:
    """"5 of 6 blocks, without 3, 1 twice": what a chain does to the model."""
    chain, blocks = read(r.found), tuple(r.blocks)
    skipped = [b for b in blocks if b not in chain]
    again = [f"{b} {('twice', 'three times')[chain.count(b) - 2] if chain.count(b) < 4 else f'{chain.count(b)} times'}" for b in blocks if chain.count(b) > 1]
    firsts = [chain.index(b) for b in blocks if b in chain]
    return ", ".join(filter(None, [f"{len(chain)} of {len(blocks)} blocks", f"without {' and '.join(map(str, skipped))}" if skipped else "", *again,
                                   "" if firsts == sorted(firsts) else "in another order"]))


def nats(x: float) -> str:
    return number(x) if x >= 1e-6 else "less than 0.000001"


def _span(three) -> str:
    return f" (95 % interval {interval(three[1], three[2])})" if np.isfinite(three).all() and three[2] >= 1e-6 else ""


def headlines(runs) -> tuple[Headline, ...]:
    run = runs[0]
    r = run.result
    low, high = (None, None) if not np.isfinite(r.found_loss).all() else (float(r.found_loss[1]), float(r.found_loss[2]))
    null = f"{number(float(np.median(r.control_loss)), 2)} (random)" if len(r.control_loss) else ""
    return (
        Headline("Cheapest chain", r.found, note=described(r)),
        Headline("Its loss", float(r.found_loss[0]), "nats/token", low, high, null, "low", f"{what(run)}; null: median of {len(r.control_loss)} random chains of that length"),
        Headline("Blocks that run", len(read(r.found)), f"of {len(r.blocks)}", better="low"),
        Headline("Chains measured", len(r.chain), note=f"{run.params.simulations} simulations, seed {run.params.seed}"),
    )
