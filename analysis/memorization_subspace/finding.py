"""One model and its memorized halves: located, overlapping, cut, and asked again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from metrics import attribution, memorized
from metrics.extraction import Passages, decode, extract, likeness
from metrics.soft_prompt import recovery
from models.progress import Kept, Stage

NATURAL = "demo/stories:32x64"  # held-out: base and perplexity
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
METHODS = ("located", "no contrast", "random")
STEPS = (0, 3, 10, 30, 100, 300)
MOST = 12  # passages of each half that go through the recovery test
READ = 8  # passages that the locators by score read: they run the model hundreds of times
TOP, TOKENS = 12, 4  # neurons listed, promoted tokens each
CONTRASTS = ("weights", "neurons")  # locators that contrast with a base text


def natural(capture) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, counted) of the natural text; the first token of every sequence does not count."""
    text = capture.beside(NATURAL)
    counted = text.keep.clone()
    counted[:, 0] = False
    return text.ids, counted


def perplexity(model, ids: torch.Tensor, counted: torch.Tensor) -> float:
    total, n = 0.0, 0
    for lo in range(0, len(ids), 32):
        logits = model.logits(ids[lo : lo + 32])[:, :-1].float().cpu()
        nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[lo : lo + 32, 1:].flatten(), reduction="none")
        keep = counted[lo : lo + 32, 1:].flatten()
        total, n = total + float(nats[keep].double().sum()), n + int(keep.sum())
    return float(np.exp(total / n))


def nothing() -> dict:
    """Too little is memorized: the shape of a result that says so."""
    none, empty = np.zeros(0), pa.table({"block": pa.array([], pa.int64())})
    m, n = len(METHODS), len(SHARES)
    return dict(shares=np.array(SHARES), density=np.full((m, n), np.nan), extracted=np.full((1, m, n, 2), np.nan), characters=np.full((m, n, 2), np.nan), ratio=np.full((1, m, n), np.nan),
                blocks=none.astype(int), layer_density=np.zeros((1, 0)), overlap=np.zeros((1, 4, 0)), chance=none, neurons=empty, texts=empty,
                steps=none.astype(int), recovered=np.zeros((3, 0)), n_recovered=0, n_base_tokens=0)


class Finding:
    """Sizes of the feed-forward inputs on every half and on the base texts, each measured once."""

    def __init__(self, model, capture, p: Passages, fresh: Passages, halves: list[torch.Tensor], params, kept: Kept):
        self.model, self.p, self.fresh, self.params, self.half, self.kept = model, p, fresh, params, halves[0], kept
        self.ids, self.counted = natural(capture)
        self.halves = [(p[half == 1], p[half == 2]) for half in halves]
        self.sizes = [tuple(memorized.of_passages(model, q, params.normalised) for q in pair) for pair in self.halves]
        self.bases = {"natural": memorized.sizes(model, self.ids, self.counted, params.normalised), "format": memorized.of_passages(model, fresh, params.normalised)}
        bos = p.ids[:1, :1]
        self.base = self.bases.get(params.base) or memorized.sizes(model, bos, torch.ones_like(bos, dtype=torch.bool), params.normalised)
        self.unit = "weights" if params.locator == "weights" else "neurons"
        self.perplexity = perplexity(model, self.ids, self.counted)

    def masks(self, split: int, share: float, progress=None) -> dict[int, torch.Tensor]:
        """What the chosen locator finds on the first half of a split."""
        if self.params.locator in CONTRASTS:
            return memorized.masks(self.model, self.sizes[split][0], self.base, share, self.unit)
        scores = self.kept(f"scores, split {split}", lambda: attribution.locate(self.params.locator, self.model, self.halves[split][0][:READ], self.base, self.params.seed, progress))
        return memorized.neuron_masks(self.model, scores, share)

    def ratio(self, variant) -> float:
        """Perplexity on natural text, after / before."""
        return perplexity(variant, self.ids, self.counted) / self.perplexity

    def measured(self, progress) -> dict:
        shares = sorted({*SHARES, self.params.share})
        sweep = self._sweep(shares, Stage(progress, 0.0, 0.6))
        cut = memorized.cut(self.model, self.masks(0, self.params.share))
        densities = np.array([[float(m.double().mean()) for m in self.masks(split, self.params.share).values()] for split in range(len(self.halves))])
        return dict(
            **sweep, **self._overlap(), perplexity=self.perplexity, layer_density=densities, neurons=self._neurons(), texts=self._texts(cut),
            **self._recovery(cut, Stage(progress, 0.6, 1.0)), n_base_tokens=self.base.tokens)

    def _sweep(self, shares: list[float], progress) -> dict:
        """Cut at every share and look: what is located on every split, its controls on the first one and, at the share in detail, on all."""
        h, m, n = len(self.halves), len(METHODS), len(shares)
        density, ratio, kept, characters = np.full((h, m, n), np.nan), np.full((h, m, n), np.nan), np.full((h, m, n, 2), np.nan), np.zeros((m, n, 2))
        for split, pair in enumerate(self.halves):
            mem = self.sizes[split][0]
            for j, share in enumerate(shares):
                found = self.masks(split, share, progress)
                for i in range(m if split == 0 or share == self.params.share else 1):
                    masks = (found, memorized.masks(self.model, mem, None, share, self.unit), memorized.random_like(found, self.unit, self.params.seed + 100 * split + j))[i]
                    variant = memorized.cut(self.model, masks)
                    density[split, i, j], ratio[split, i, j] = memorized.density(masks), self.ratio(variant)
                    outcomes = [extract(variant, q) for q in pair]
                    kept[split, i, j] = [float(o.exact.double().mean()) for o in outcomes]
                    if split == 0:
                        characters[i, j] = [_characters(variant, q, o) for q, o in zip(pair, outcomes)]
                progress.step(split * n + j + 1, h * n, f"cut {share:.1%}, split {split + 1} of {h}")
        return dict(shares=np.array(shares), density=np.nanmean(density, 0), extracted=kept, characters=characters, ratio=ratio)

    def _overlap(self) -> dict:
        """IoU of the two halves' masks by block, under each base; and with each block's channels shuffled for one of them."""
        generator, rows, chance = torch.Generator().manual_seed(self.params.seed), [], []
        for first, second in self.sizes:
            mixed = memorized.Sizes({i: x[torch.randperm(len(x), generator=generator)] for i, x in second.rms.items()}, second.tokens)
            row = []
            for other, base in ((second, self.bases["natural"]), (second, self.bases["format"]), (second, None), (mixed, None)):
                a, b = (memorized.masks(self.model, half, base, self.params.share, self.unit) for half in (first, other))
                row.append([memorized.iou(a[i], b[i]) for i in a])
                chance = chance or [memorized.chance_iou(a[i], b[i]) for i in a]
            rows.append(row)
        return dict(blocks=np.array(list(self.base.rms)), overlap=np.array(rows), chance=np.array(chance))

    def _neurons(self) -> pa.Table:
        """The neurons that stand out most against the base, with the tokens that they push up through the unembedding."""
        model, mem, found = self.model, self.sizes[0][0], []
        unembed = model.module.get_output_embeddings().weight
        for i, x in mem.rms.items():
            score = memorized.neuron_scores(memorized.output_matrix(model, i), x, self.base.rms[i])
            top = score.topk(min(TOP, len(score)))
            found += [(float(s), i, int(j)) for s, j in zip(top.values, top.indices)]
        rows = []
        for score, i, j in sorted(found, reverse=True)[:TOP]:
            w = memorized.output_matrix(model, i)
            ids = (unembed @ w[:, j].to(unembed)).topk(TOKENS).indices.tolist()
            rows.append({"block": i, "neuron": j, "score": score, "rms memorized": float(mem.rms[i][j]), "rms base": float(self.base.rms[i][j]),
                         "promotes": " · ".join(model.tokenizer.decode([t]).strip() or "␣" for t in ids)})
        return pa.Table.from_pylist(rows)

    def _texts(self, cut) -> pa.Table:
        """Some passages of each half before and after the cut, greedily completed."""
        read = lambda ids: self.model.tokenizer.decode(ids).strip()
        rows = []
        for half in (1, 2):
            some = self.p[(self.half == half).nonzero()[:4, 0]]
            for k, (before, after) in enumerate(zip(decode(self.model, some), decode(cut, some))):
                rows.append({"half": half, "prefix": read(some.prefix(k)), "suffix": read(some.suffix(k)), "before": read(before), "after": read(after)})
        return pa.Table.from_pylist(rows)

    def _recovery(self, cut, progress) -> dict:
        steps, first = tested(self.params.recovery), self.halves[0][0]
        if not steps:
            return dict(steps=np.zeros(0, int), recovered=np.zeros((3, 0)), n_recovered=0)
        n, rows = min(MOST, len(first), len(self.fresh)), []
        for k, (model, p, title) in enumerate(((self.model, first[:n], "whole model"), (cut, first[:n], "after the cut"), (cut, self.fresh[:n], "never trained"))):
            found = recovery(model, p, steps, self.params.seed, progress=Stage(progress, k / 3, (k + 1) / 3), title=title)
            rows.append(found.double().mean(1).numpy())
        return dict(steps=np.array(steps), recovered=np.array(rows), n_recovered=n)


def tested(last: int) -> tuple[int, ...]:
    """Steps of the soft prompt at which one looks; none where the test is off."""
    return tuple(s for s in STEPS if s <= last) if last else ()


def _characters(model, p: Passages, found) -> float:
    """Mean share of characters right in greedy completions; only passages that are not exact are decoded."""
    missed, read = p[~found.exact], model.tokenizer.decode
    right = [likeness(read(said), read(missed.suffix(k))) for k, said in enumerate(decode(model, missed))]
    return (float(found.exact.sum()) + sum(right)) / len(p)
