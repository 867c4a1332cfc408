"""The answer on top and the headline numbers, made from the result; and what several cards say alike."""

from __future__ import annotations

import numpy as np

from analysis.contract import Headline
from analysis.memorized_images.measure import METHODS
from analysis.plots import number
from metrics.memorized_images import REPRODUCED

LOCATED, PLAIN, RANDOM = range(len(METHODS))
FORGOTTEN = 0.15  # share of what was reproduced that is left, up to which a cut made the model forget
HELD = 0.85  # share of it that a control must leave for the cut to say something
CLOSE = 0.05  # correlation by which other prompts may change more than after a random cut


def percent(x: float) -> str:
    return f"{100 * x:.0f} %" if np.isfinite(x) else "–"


def mean_range(values: np.ndarray, written=percent) -> str:
    """Mean over splits and, where they differ, the smallest and largest."""
    low, high = written(values.min()), written(values.max())
    return written(values.mean()) + (f" ({low.removesuffix(' %')}–{high})" if low != high else "")


def two(x: float) -> str:
    return number(x, 2)


def at_share(run) -> int:
    """Index in the sweep of the share shown in detail."""
    return int(np.abs(run.result.shares - run.params.share).argmin())


def known(r) -> np.ndarray:
    """bool [p]: memorized prompts most of whose images are reproduced before any cut."""
    return (r.before >= REPRODUCED).mean(1) >= 0.5


def reproduced_before(r) -> np.ndarray:
    """[h, set] share of images reproduced before any cut."""
    hits = (r.before >= REPRODUCED).mean(1)
    return np.array([[hits[groups == k].mean() for k in (1, 2)] for groups in r.groups])


def by_heart(r) -> bool:
    """Whether enough is reproduced that a cut could show anything: half of the images of every set."""
    return bool(reproduced_before(r).min() >= 0.5)


def forgets(r, j: int) -> tuple[bool, bool, bool]:
    """(located set, held-out set, random cut) at share j: whether a cut leaves next to nothing of what was reproduced, on every split; whether a random one
    destroys more than a little, on average."""
    left = r.reproduced[:, :, j] / np.maximum(reproduced_before(r), 1e-9)[:, None]
    return bool(left[:, LOCATED, 0].max() <= FORGOTTEN), bool(left[:, LOCATED, 1].max() <= FORGOTTEN), bool(np.nanmean(left[:, RANDOM]) < HELD)


def verdict(run) -> str:
    """What the cut in detail says, in one or two sentences; the other shares where they say something else."""
    r, j = run.result, at_share(run)
    if not by_heart(r):
        return "That is too little to see whether a cut makes it forget."
    first, held, random = forgets(r, j)
    others = [f"{100 * r.shares[i]:g} %" for i in range(len(r.shares)) if i != j and forgets(r, i) == (True, True, False)]
    elsewhere = f" At a share of {' and '.join(others)} both sets are gone." if others else ""
    dearer = r.kept[:, RANDOM, j].mean() - r.kept[:, LOCATED, j].mean()
    price = f", but other prompts change too, more than after a random cut (by {two(dearer)})" if dearer > CLOSE else ", and other prompts change hardly more than after a random cut"
    if random:
        return "A random cut of as many weights destroys images as well, so this share says nothing about where they are kept." + elsewhere
    if first and held:
        return f"So what it has by heart hangs on weights that the sets share{price}. Whether it is suppressed or deleted is not tested here."
    if first and (r.reproduced[:, LOCATED, j, 1] / reproduced_before(r)[:, 1]).mean() < 0.5:
        return f"So most held-out images hang on weights that the sets share, not all{price}.{elsewhere}"
    if first:
        return "So each set hangs on weights of its own: most held-out images stay." + elsewhere
    largest = f"not even the largest share tried ({100 * r.shares[-1]:g} %) does" if j < len(r.shares) - 1 and not others else ""
    return f"The cut does not make it forget{'; ' + largest if largest else ''}: what it has by heart does not hang on these weights alone.{elsewhere}"


def overlap_says(r) -> str:
    """IoU of the sets' masks beside chance and networks without the memory, in words."""
    nulls = {**({"untrained networks": r.untrained.mean(2)} if len(r.untrained) else {}), **({"this network before planting": r.earlier.mean(1)} if len(r.earlier) else {})}
    beside = "".join(f", {name} {mean_range(values, two)}" for name, values in nulls.items())
    said = f"The sets’ masks overlap at IoU **{mean_range(r.overlap.mean(1), two)}** (chance {two(r.chance.mean())}{beside})"
    if not nulls:
        return said + "; without an untrained network beside it this says nothing about memory."
    if r.overlap.mean(1).min() > max(values.max() for values in nulls.values()):
        return said + f": more than without the memory, by {two(r.overlap.mean() - max(values.mean() for values in nulls.values()))}."
    return said + ": no more than without the memory, so the overlap is no sign of it."


def answer(runs) -> str:
    return "  \n".join((f"**{run.label}**: " if len(runs) > 1 else "") + _one(run) for run in runs)


def _one(run) -> str:
    r, j = run.result, at_share(run)
    n_once = int(((r.once >= REPRODUCED).mean(1) >= 0.5).sum()) if len(r.once) else 0
    once = f", {n_once} of {len(r.once)} whose image was seen once" if len(r.once) else ""
    planted = f"Planted {'into known feed-forward neurons' if run.params.memory == 'feed-forward' else 'by training the whole network, the control'}: " if run.params.subject == "digits" else ""
    start = f"{planted}{known(r).sum()} of {len(r.before)} memorized prompts give back their training image (r ≥ {REPRODUCED:g}{once})."
    left = lambda m, k: mean_range(r.reproduced[:, m, j, k])
    cut = (f" Zeroing {100 * r.density[:, LOCATED, j].mean():.1f} % of the feed-forward output weights, located on one set of them, leaves **{left(LOCATED, 0)}** of that set and **{left(LOCATED, 1)}** of the held-out set "
           f"(as many random weights: {left(RANDOM, 0)}, {left(RANDOM, 1)}), and other prompts’ images at r = {mean_range(r.kept[:, LOCATED, j], two)} with what they were (random: {two(r.kept[:, RANDOM, j].mean())}; "
           f"{len(r.groups)} random splits, range in brackets).")
    return f"{start}{cut} {verdict(run)} {overlap_says(r)}"


def headlines(runs) -> tuple[Headline, ...]:
    run = runs[-1]
    r, j = run.result, at_share(run)
    left, random, kept, over = r.reproduced[:, LOCATED, j], r.reproduced[:, RANDOM, j], r.kept[:, LOCATED, j], r.overlap.mean(1)
    dense = f"{100 * r.density[:, LOCATED, j].mean():.1f} % of weights"
    each = lambda title, k, note: Headline(title, 100 * left[:, k].mean(), "%", 100 * left[:, k].min(), 100 * left[:, k].max(), f"{percent(random[:, k].mean())} random", note=f"{note}; {dense}, {len(left)} splits; {percent(reproduced_before(r)[:, k].mean())} before")
    return (
        each("Reproduced, located set", 0, "images with r ≥ 0.9 after the cut"),
        each("Reproduced, held-out set", 1, "images with r ≥ 0.9 after a cut located on the other set"),
        Headline("Other prompts after the cut", kept.mean(), "r", kept.min(), kept.max(), f"{two(r.kept[:, RANDOM, j].mean())} random", better="high", note="correlation of their images with those before the cut"),
        Headline("IoU of the sets’ masks", over.mean(), "", over.min(), over.max(), f"{two(r.untrained.mean())} untrained" if len(r.untrained) else f"{two(r.chance.mean())} chance", note=f"mean over blocks; chance {two(r.chance.mean())}"),
    )


def block(name: str) -> str:
    """down_blocks.0.0.0 -> down 0.0.0"""
    return str(name).replace("_blocks.", " ").replace("_block.", " ")
