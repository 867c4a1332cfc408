"""The numbers: what is reproduced, where it is located on random splits of the prompts, and what each cut leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics import memorized_images as metric
from metrics.memorized import chance_iou, density, iou, random_like
from models.diffusion import subject as subjects
from models.home import home
from models.progress import Stage
from models.refusal import Refused

METHODS = ("located", "no contrast", "random")
PICTURES = ("before", "cut", "random")
SHOWN, PIXELS = 8, 64  # prompts of each set whose pictures are kept, and their longest side


@dataclass(frozen=True, eq=False)
class Result:
    """Axes: p memorized prompt, o other prompt, q once-seen prompt, k noise, h split into sets, s share of the sweep, m method of METHODS, b block,
    t time step, u untrained network."""

    blocks: np.ndarray  # [b] names
    memorized: np.ndarray  # [p] prompts
    others: np.ndarray  # [o]
    groups: np.ndarray  # [h, p] 1 located on, 2 held out, 0 in neither
    before: np.ndarray  # [p, k] similarity with the own training image, before any cut
    mismatched: np.ndarray  # [p · (p − 1)] similarity with other prompts' training images
    once: np.ndarray  # [q, k] the same of prompts whose image was seen once; empty where there are none
    shares: np.ndarray  # [s]
    density: np.ndarray  # [h, m, s] of all located weights; NaN: controls off the share in detail after the first split
    reproduced: np.ndarray  # [h, m, s, set] share of images still reproduced, likewise
    similarity: np.ndarray  # [h, m, s, set] mean, likewise
    kept: np.ndarray  # [h, m, s] mean similarity of other prompts' images with those before the cut, likewise
    detail: np.ndarray  # [h, m, p] similarity at the share in detail, mean over noises
    layer_density: np.ndarray  # [h, b] at the share in detail
    overlap: np.ndarray  # [h, b] IoU of the masks of the two sets
    chance: np.ndarray  # [h, b]
    overlap_others: np.ndarray  # [h, b] IoU of the first set's mask with that of as many other prompts
    untrained: np.ndarray  # [u, h, b] IoU of the two sets' masks in untrained networks
    earlier: np.ndarray  # [h, b] the same in the network before it learned the memorized images; [0, b] where there is none
    of_step: np.ndarray  # [h, t, b] share of the united mask that is located at the step
    alone: np.ndarray  # [h] share of the united mask located at one step only
    n_weights: int  # feed-forward output weights in all blocks
    pictures: np.ndarray  # uint8 [1 + PICTURES, shown, H, W, C] of the first split: training images, then as drawn; located set first
    shown: np.ndarray  # [shown] index into p
    n_shown_located: int
    other_pictures: np.ndarray  # uint8 [PICTURES, shown, H, W, C]
    n_inputs: int  # prompts


def compute(captures, params, progress) -> Result:
    one, two = _stages(params, progress)
    subject = subjects.digits(home(), params.updates, params.seed, one, params.memory) if params.subject == subjects.DIGITS else subjects.read(subjects.place(params.subject))
    return _Finding(subject, params, two).measured()


def _stages(params, progress) -> tuple[Stage, Stage]:
    """Training and looking, by about what they take on digits."""
    turn = params.updates / (params.updates + 500) if params.subject == subjects.DIGITS else 0.0
    return Stage(progress, 0.0, turn), Stage(progress, turn, 1.0)


class _Finding:
    """One pipeline with its prompts' activations, watched once; every set of prompts is a mean of them."""

    def __init__(self, subject: subjects.Subject, params, progress):
        self.subject, self.params, self.pipeline, self.progress = subject, params, subject.pipeline, progress
        self.recipe = metric.Recipe(params.first, params.steps, params.guidance, params.noises, params.seed)
        self.shares = sorted({s / 100 for s in params.sweep} | {params.share})
        self.detail = self.shares.index(params.share)
        self.sets = [_halves(len(subject.memorized), params.per_set, params.seed + h) for h in range(params.splits)]
        cuts = params.splits * (len(self.shares) + 2) + 2 * (len(self.shares) - 1)
        self.done, self.total = 0.0, (cuts + 1) * params.steps + (3 + 2 * params.untrained + 2 * (subject.before is not None)) * params.first  # passes of the UNet over the prompts, about

    def measured(self) -> Result:
        s, r = self.subject, self.recipe
        before, before_others = self._draw(s.memorized, "before the cut"), self._draw(s.others, "before the cut")
        once = metric.similarity(self._draw(s.once, "seen once"), s.once_images) if s.once else np.zeros((0, r.noises))
        memorized, base, others = (self._squares(self.pipeline, p) for p in (s.memorized, [""] * max(len(s.memorized), len(s.others)), s.others))
        masks = [self._masks(self.pipeline, memorized, base, rows, self.params.share) for rows in self.sets]
        at_steps = [metric.by_step(self.pipeline, memorized, base, rows[0], self.params.share) for rows in self.sets]
        on_others = [metric.union(metric.by_step(self.pipeline, others, base, np.arange(min(len(rows[0]), len(s.others))), self.params.share)) for rows in self.sets]
        untrained = np.array([self._overlap(self.pipeline.untrained(self.params.seed + u), f"untrained network {u + 1}") for u in range(self.params.untrained)])
        earlier = self._overlap(s.before, "the network before planting") if s.before is not None else np.zeros((0, len(self.pipeline.blocks)))
        swept, pictures = self._sweep(memorized, base, before_others)
        per_block = lambda measure, pairs: np.array([[measure(a[b], c[b]) for b in self.pipeline.blocks] for a, c in pairs])
        shown, n_located = self._shown()
        return Result(
            np.array(list(self.pipeline.blocks)), np.array(s.memorized), np.array(s.others), self._groups(), metric.similarity(before, s.images), metric.mismatched(before, s.images), once,
            np.array(self.shares), **swept, layer_density=np.array([[float(m.float().mean()) for m in a.values()] for a, _ in masks]),
            overlap=per_block(iou, masks), chance=per_block(chance_iou, masks), overlap_others=per_block(iou, [(a, o) for (a, _), o in zip(masks, on_others)]), untrained=untrained.reshape(-1, len(self.sets), len(self.pipeline.blocks)), earlier=earlier,
            of_step=np.array([[[float((m[t] & m.any(0)).sum() / m.any(0).sum().clamp(min=1)) for m in steps.values()] for t in range(r.first)] for steps in at_steps]),
            alone=np.array([_alone(steps) for steps in at_steps]), n_weights=sum(m.weight.numel() for m in self.pipeline.blocks.values()),
            pictures=np.stack([_small(s.images[shown]), *(_small(x[shown, 0]) for x in (before, *(pictures[m][0] for m in ("located", "random"))))]),
            shown=shown, n_shown_located=n_located, other_pictures=np.stack([_small(x[: 2 * SHOWN, 0]) for x in (before_others, *(pictures[m][1] for m in ("located", "random")))]),
            n_inputs=len(s.memorized) + len(s.others) + len(s.once))

    # ---- parts

    def _masks(self, pipeline, memorized, base, rows, share: float, contrast: bool = True) -> list[dict]:
        """The united mask of each of two sets of prompts."""
        return [metric.union(metric.by_step(pipeline, memorized, base, one, share, contrast)) for one in rows]

    def _overlap(self, other, said: str) -> np.ndarray:
        """[h, b] IoU of the two sets' masks in another network of the same shape."""
        memorized, base = (self._squares(other, p, said) for p in (self.subject.memorized, [""] * len(self.subject.memorized)))
        pairs = [self._masks(other, memorized, base, rows, self.params.share) for rows in self.sets]
        return np.array([[iou(a[b], c[b]) for b in other.blocks] for a, c in pairs])

    def _sweep(self, memorized, base, before_others) -> tuple[dict, dict]:
        """Every cut on every split; the controls away from the share in detail on the first split only. With the pictures of the first split."""
        h, m, s = len(self.sets), len(METHODS), len(self.shares)
        out = {name: np.full((h, m, s, *more), np.nan) for name, more in (("density", ()), ("reproduced", (2,)), ("similarity", (2,)), ("kept", ()))} | {"detail": np.full((h, m, len(self.subject.memorized)), np.nan)}
        pictures = {}
        for i, rows in enumerate(self.sets):
            for j, share in enumerate(self.shares):
                located = self._masks(self.pipeline, memorized, base, rows[:1], share)[0]
                for k, method in enumerate(METHODS):
                    if k and i and j != self.detail:
                        continue
                    mask = (located, lambda: self._masks(self.pipeline, memorized, base, rows[:1], share, contrast=False)[0], lambda: random_like(located, "weights", self.params.seed + i))[k]
                    mask = mask() if callable(mask) else mask
                    after = self.pipeline.cut(mask)
                    said = f"cut of {100 * share:g} %, {method}, split {i + 1} of {h}"
                    drawn, others = self._draw(self.subject.memorized, said, after), self._draw(self.subject.others, said, after)
                    like = metric.similarity(drawn, self.subject.images)
                    out["density"][i, k, j] = density(mask)
                    out["reproduced"][i, k, j] = [(like[one] >= metric.REPRODUCED).mean() for one in rows]
                    out["similarity"][i, k, j] = [like[one].mean() for one in rows]
                    out["kept"][i, k, j] = metric.similarity(others, before_others).mean()
                    if j == self.detail:
                        out["detail"][i, k] = like.mean(1)
                        if i == 0:
                            pictures[method] = (drawn, others)
        return out, pictures

    def _draw(self, prompts, said: str, pipeline=None) -> np.ndarray:
        n, every = len(prompts), len(self.subject.memorized) + len(self.subject.others)
        return metric.draw(pipeline or self.pipeline, prompts, self.recipe, self._stretch(self.params.steps * n / every, said))

    def _squares(self, pipeline, prompts, said: str = "watching the blocks") -> dict:
        return metric.squares(pipeline, prompts, self.recipe, self._stretch(self.params.first, said))

    def _stretch(self, passes: float, said: str) -> "_Named":
        start, self.done = self.done, self.done + passes
        return _Named(Stage(self.progress, min(start / self.total, 1.0), min(self.done / self.total, 1.0)), said)

    def _groups(self) -> np.ndarray:
        groups = np.zeros((len(self.sets), len(self.subject.memorized)), np.int64)
        for h, (a, b) in enumerate(self.sets):
            groups[h, a], groups[h, b] = 1, 2
        return groups

    def _shown(self) -> tuple[np.ndarray, int]:
        """Prompts of the first split whose pictures are kept, the located ones first, and how many these are."""
        a, b = (np.sort(rows)[:SHOWN] for rows in self.sets[0])
        return np.concatenate([a, b]), len(a)


class _Named:
    """Progress that says what is being done."""

    def __init__(self, stage: Stage, said: str):
        self.stage, self.said = stage, said

    def step(self, i: int, n: int, message: str = "", live: dict | None = None) -> None:
        self.stage.step(i, n, self.said, live)


def _halves(n: int, per_set: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint random sets of prompts."""
    size = per_set or n // 2
    if 2 * size > n:
        raise Refused(f"Two disjoint sets of {size} prompts need {2 * size} memorized ones; found {n}. Ask for at most {n // 2} in a set.")
    order = np.random.default_rng(seed).permutation(n)
    return order[:size], order[size : 2 * size if per_set else n]


def _alone(steps: dict[str, torch.Tensor]) -> float:
    """Share of the united masks of all blocks that is located at one step only."""
    counts = [mask.sum(0) for mask in steps.values()]
    return sum(int((c == 1).sum()) for c in counts) / max(sum(int((c > 0).sum()) for c in counts), 1)


def _small(images: np.ndarray) -> np.ndarray:
    """[n, H, W, C] in 0–1 -> uint8, every so many pixels averaged to one until no side is longer than PIXELS."""
    n, h, w, c = images.shape
    f = -(-max(h, w) // PIXELS)
    if f > 1:
        images = images[:, : h // f * f, : w // f * f].reshape(n, h // f, f, w // f, f, c).mean((2, 4))
    return np.rint(255 * images).astype(np.uint8)
