"""The numbers: what is extracted, where it is located, what cutting does, and what a soft prompt brings back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from metrics import memorized
from metrics.extraction import Extraction, Passages, completion, extract, passages, shortened, shuffled
from metrics.soft_prompt import recovery
from models.corpus import parse

NATURAL = "demo/stories:64x64"  # held-out: base and perplexity
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
METHODS = ("contrast", "no contrast", "random")
PREFIXES = (0.25, 0.5, 0.75, 1.0)
STEPS = (0, 3, 10, 30, 100, 300)
FEWEST = 8  # memorized passages; fewer cannot be halved and say anything
MOST = 12  # passages of each half that go through the recovery test
TOP, TOKENS = 12, 4  # neurons listed, promoted tokens each


@dataclass(frozen=True, eq=False)
class Result:
    """Axes: p passage, c control, s share of the sweep, m method of METHODS, l block, t recovery step."""

    kind: np.ndarray  # [p] text, the label where there is one
    repeats: np.ndarray  # [p] int, −1 where unknown
    exact: np.ndarray  # [p] bool
    leading: np.ndarray  # [p] right tokens before the first wrong one
    suffix: np.ndarray  # [p] tokens in the suffix
    control_exact: np.ndarray  # [c] bool
    control_kind: np.ndarray  # [c] text
    control_name: str  # what the controls are
    by_prefix: np.ndarray  # [share of the prefix] of the memorized passages extracted
    half: np.ndarray  # [p] 1 located on, 2 held out, 0 not memorized
    n_memorized: int
    shares: np.ndarray  # [s]
    density: np.ndarray  # [m, s]
    extracted: np.ndarray  # [m, s, half] share of the half still extracted
    right: np.ndarray  # [m, s, half] share of suffix tokens right, teacher-forced
    ratio: np.ndarray  # [m, s] perplexity after / before
    perplexity: float  # before, on natural text
    blocks: np.ndarray  # [l]
    layer_density: np.ndarray  # [l] of half 1's mask at the share in detail
    overlap: np.ndarray  # [4, l] IoU of the halves' masks: natural base, format base, no contrast, shuffled channels
    chance: np.ndarray  # [l]
    neurons: pa.Table  # block, neuron, score, base and memorized rms, promoted tokens
    texts: pa.Table  # passage, half, prefix, suffix, before, after
    steps: np.ndarray  # [t]; empty where the test was not run
    recovered: np.ndarray  # [3, t]: whole model and cut model on half 1, cut model on never-trained strings
    n_recovered: int  # passages in each
    n_base_tokens: int
    n_tokens: int


def compute(captures, params, progress) -> Result:
    (capture,) = captures
    with capture.model() as model:
        tokens, p = capture.tokens, passages(capture.tokens, params.prefix)
        fresh, control_name, control_kind = _controls(capture, p, params)
        progress.step(0, 12, "extracting")
        before, control = extract(model, p), extract(model, fresh)
        rows = _labels(tokens, params, p)
        half = _halves(before.exact, params.seed)
        found = _Found(model, capture, p, fresh, half, params, progress)
        located = found.located() if half.max() else found.nothing()
        prefixes = [float(extract(model, shortened(p[before.exact], s)).exact.double().mean()) if before.exact.any() else np.nan for s in PREFIXES]
        return Result(
            *rows, before.exact.numpy(), before.leading.numpy(), (p.end - p.start).numpy(), control.exact.numpy(), control_kind, control_name,
            np.array(prefixes), half.numpy(), int(before.exact.sum()), n_tokens=tokens.n_tokens, **located)


def _controls(capture, p: Passages, params) -> tuple[Passages, str, np.ndarray]:
    """Strings of the same shape that were never trained on."""
    if capture.corpus.source == "demo/canaries":
        other = capture.beside(replace(capture.corpus, split="test", n_sequences=32).written)
        fresh = passages(other.tokens, params.prefix)
        return fresh, "control canaries, never trained on", np.asarray(other.tokens.labels["kind"][: len(fresh)], str)
    return shuffled(p, params.seed), "the same passages with shuffled tokens", np.full(len(p), "shuffled")


def _labels(tokens, params, p: Passages) -> tuple[np.ndarray, np.ndarray]:
    n = len(p)
    if len(tokens.ids) != n or "repeats" not in tokens.labels:
        return np.full(n, "passage"), np.full(n, -1)
    return np.asarray(tokens.labels.get("kind", np.full(n, "passage")), str), np.asarray(tokens.labels["repeats"]).astype(int)


def _halves(exact: torch.Tensor, seed: int) -> torch.Tensor:
    """[passage]: memorized ones in two random halves, 1 and 2; all 0 where there are fewer than FEWEST."""
    half, known = torch.zeros(len(exact), dtype=torch.int64), exact.nonzero()[:, 0]
    if len(known) < FEWEST:
        return half
    order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
    half[order[: len(order) // 2]], half[order[len(order) // 2 :]] = 1, 2
    return half


class _Found:
    """One model, its memorized halves, and the sizes of its feed-forward inputs on them and on the base texts."""

    def __init__(self, model, capture, p, fresh, half, params, progress):
        self.model, self.p, self.fresh, self.half, self.params, self.progress = model, p, fresh, half, params, progress
        natural = capture.beside(NATURAL)
        self.natural, keep = natural.ids, natural.keep.clone()
        keep[:, 0] = False
        self.counted = keep
        self.capture = capture

    def nothing(self) -> dict:
        """Too little is memorized: the shape of a result that says so."""
        n, none = len(SHARES), np.zeros(0)
        empty = pa.table({"block": pa.array([], pa.int64())})
        return dict(shares=np.array(SHARES), density=np.full((3, n), np.nan), extracted=np.full((3, n, 2), np.nan), right=np.full((3, n, 2), np.nan), ratio=np.full((3, n), np.nan),
                    perplexity=self._perplexity(self.model), blocks=none.astype(int), layer_density=none, overlap=np.zeros((4, 0)), chance=none, neurons=empty, texts=empty,
                    steps=none.astype(int), recovered=np.zeros((3, 0)), n_recovered=0, n_base_tokens=0)

    def located(self) -> dict:
        model, params = self.model, self.params
        first, second = self.p[self.half == 1], self.p[self.half == 2]
        mem = [memorized.of_passages(model, half, params.normalised) for half in (first, second)]
        bases = {"natural": memorized.sizes(model, self.natural, self.counted, params.normalised), "format": memorized.of_passages(model, self.fresh, params.normalised)}
        bos = self.p.ids[:1, :1]
        base = bases.get(params.base) or memorized.sizes(model, bos, torch.ones_like(bos, dtype=torch.bool), params.normalised)
        self.progress.step(2, 12, "located")
        sweep = self._sweep(mem[0], base, first, second)
        detail = memorized.masks(model, mem[0], base, params.share, params.unit)
        cut = memorized.cut(model, detail)
        return dict(
            **sweep, **self._overlap(mem, bases, detail), neurons=self._neurons(mem[0], base), texts=self._texts(cut), **self._recovery(cut, first), n_base_tokens=base.tokens)

    def _perplexity(self, model) -> float:
        total, n = 0.0, 0
        counted = self.counted[:, 1:]
        for lo in range(0, len(self.natural), 32):
            logits = model.logits(self.natural[lo : lo + 32])[:, :-1].float().cpu()
            nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.natural[lo : lo + 32, 1:].flatten(), reduction="none")
            keep = counted[lo : lo + 32].flatten()
            total, n = total + float(nats[keep].double().sum()), n + int(keep.sum())
        return float(np.exp(total / n))

    def _sweep(self, mem, base, first: Passages, second: Passages) -> dict:
        """Cut at every share by every method, and look."""
        model, params, n = self.model, self.params, len(SHARES)
        density, ratio, kept, right = np.zeros((3, n)), np.zeros((3, n)), np.zeros((3, n, 2)), np.zeros((3, n, 2))
        whole = self._perplexity(model)
        for j, share in enumerate(SHARES):
            contrast = memorized.masks(model, mem, base, share, params.unit)
            everywhere = memorized.masks(model, mem, None if params.unit == "weights" else _zero(base), share, params.unit)
            for i, masks in enumerate((contrast, everywhere, memorized.random_like(contrast, params.unit, params.seed + j))):
                variant = memorized.cut(model, masks)
                outcomes: list[Extraction] = [extract(variant, half) for half in (first, second)]
                density[i, j], ratio[i, j] = memorized.density(masks), self._perplexity(variant) / whole
                kept[i, j] = [float(o.exact.double().mean()) for o in outcomes]
                right[i, j] = [float(o.right.double().mean()) for o in outcomes]
            self.progress.step(3 + j, 12, f"cut {share:.2%}")
        return dict(shares=np.array(SHARES), density=density, extracted=kept, right=right, ratio=ratio, perplexity=whole)

    def _overlap(self, mem, bases, detail) -> dict:
        """IoU of the two halves' masks by block, under each base; and with each block's channels shuffled for one of them."""
        model, params = self.model, self.params
        generator = torch.Generator().manual_seed(params.seed)
        orders = {i: torch.randperm(len(x), generator=generator) for i, x in mem[1].rms.items()}
        mixed = memorized.Sizes({i: x[orders[i]] for i, x in mem[1].rms.items()}, mem[1].tokens)
        rows, chance = [], []
        for first, second, base in ((mem[0], mem[1], bases["natural"]), (mem[0], mem[1], bases["format"]), (mem[0], mem[1], None), (mem[0], mixed, None)):
            base = _zero(bases["natural"]) if base is None and params.unit == "neurons" else base
            a, b = (memorized.masks(model, half, base, params.share, params.unit) for half in (first, second))
            rows.append([memorized.iou(a[i], b[i]) for i in a])
            chance = chance or [memorized.chance_iou(a[i], b[i]) for i in a]
        return dict(blocks=np.array(list(detail)), layer_density=np.array([float(m.double().mean()) for m in detail.values()]), overlap=np.array(rows), chance=np.array(chance))

    def _neurons(self, mem, base) -> pa.Table:
        """The neurons that stand out most, with the tokens that they push up through the unembedding."""
        model = self.model
        unembed = model.module.get_output_embeddings().weight
        found = []
        for i, x in mem.rms.items():
            w = memorized.output_matrix(model, i)
            score = memorized.neuron_scores(w, x, base.rms[i])
            top = score.topk(min(TOP, len(score)))
            found += [(float(s), i, int(j)) for s, j in zip(top.values, top.indices)]
        rows = []
        for score, i, j in sorted(found, reverse=True)[:TOP]:
            w = memorized.output_matrix(model, i)
            ids = (unembed @ w[:, j].to(unembed)).topk(TOKENS).indices.tolist()
            rows.append({"block": i, "neuron": j, "score": score, "rms memorized": float(mem.rms[i][j]), "rms base": float(base.rms[i][j]),
                         "promotes": " · ".join(model.tokenizer.decode([t]).strip() or "␣" for t in ids)})
        return pa.Table.from_pylist(rows)

    def _texts(self, cut) -> pa.Table:
        """Some passages of each half before and after the cut, greedily completed."""
        read = lambda ids: self.model.tokenizer.decode(ids).strip()
        rows = []
        for half in (1, 2):
            for k in (self.half == half).nonzero()[:4, 0].tolist():
                start, end = int(self.p.start[k]), int(self.p.end[k])
                rows.append({"half": half, "prefix": read(self.p.ids[k, 1:start].tolist()), "suffix": read(self.p.ids[k, start:end].tolist()),
                             "before": read(completion(self.model, self.p, k)), "after": read(completion(cut, self.p, k))})
        return pa.Table.from_pylist(rows)

    def _recovery(self, cut, first: Passages) -> dict:
        last = self.params.recovery
        steps = tuple(s for s in STEPS if s <= last) if last else ()
        if not steps:
            return dict(steps=np.zeros(0, int), recovered=np.zeros((3, 0)), n_recovered=0)
        n = min(MOST, len(first), len(self.fresh))
        rows = []
        for k, (model, p, title) in enumerate(((self.model, first[:n], "whole model"), (cut, first[:n], "after the cut"), (cut, self.fresh[:n], "never trained"))):
            rows.append(recovery(model, p, steps, self.params.seed, progress=self.progress, title=title).numpy())
            self.progress.step(9 + k, 12, f"soft prompt, {title}")
        return dict(steps=np.array(steps), recovered=np.array(rows), n_recovered=n)


def _zero(base):
    """A base that never fires: the contrast with nothing."""
    return memorized.Sizes({i: torch.zeros_like(x) for i, x in base.rms.items()}, base.tokens)
