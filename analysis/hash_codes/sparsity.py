"""Contextual sparsity: how much of the MLP is small, whether what will be off can be told one block earlier, and what it costs to believe it."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from metrics.bootstrap import ratio_interval
from metrics.divergence import KL, per_sequence, token_divergence
from models.layout import Site
from models.loaded import Model
from models.stream import Request, stream

TAUS = (0.01, 0.03, 0.1, 0.3, 1.0)  # of the root mean square of the layer's mlp_post
CUTS = (0.05, 0.1, 0.2, 0.3, 0.5)  # predicted off where the score of “on” is below
MAIN = 4  # the cut that precision and recall are read at
CONDITIONS = ("predicted off", "random", "smallest", "truly off")


def source_of(layers: tuple[int, ...], layer: int) -> int:
    """The block whose incoming stream the predictor of `layer` reads: one block earlier, the first its own."""
    at = layers.index(layer)
    return layers[max(at - 1, 0)]


def normed(x: torch.Tensor) -> torch.Tensor:
    """float32 [token, channel + 1]: each token's stream centred and scaled to unit variance, with a constant."""
    x = x.float()
    x = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True).clamp(min=1e-6)
    return torch.cat([x, torch.ones(len(x), 1, device=x.device)], 1)


class Fit:
    """Sums for least squares from the stream to the bits: on is 1, off is 0."""

    def __init__(self, threshold: float):
        self.threshold, self.gram, self.cross, self.on, self.count = threshold, 0.0, 0.0, 0.0, 0

    def add(self, x: torch.Tensor, pre: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        if keep is not None:
            x, pre = x[keep], pre[keep]
        x, bits = normed(x), (pre > self.threshold).float()
        self.gram, self.cross = self.gram + (x.T @ x).double(), self.cross + (x.T @ bits).double()
        self.on, self.count = self.on + bits.sum(0).double(), self.count + len(x)

    def solve(self, rank: int) -> torch.Tensor:
        """Weights float32 [channel + 1, d_mlp]; of the best fit of that rank where 0 < rank < channels (reduced-rank regression)."""
        d = len(self.gram)
        gram = self.gram + 1e-3 * self.gram.diagonal().mean() * torch.eye(d, dtype=torch.float64, device=self.gram.device)
        weights = torch.linalg.solve(gram, self.cross)
        if 0 < rank < d - 1:
            half = torch.linalg.cholesky(gram)
            u, s, v = torch.linalg.svd(half.T @ weights, full_matrices=False)
            weights = torch.linalg.solve_triangular(half.T, (u[:, :rank] * s[:rank]) @ v[:rank], upper=True)
        return weights.float()


class Score:
    """Counts of right and wrong guesses, int64 [cut, (off and said so, on but said off, off but not said)], and of a guess that knows
    each unit's on-fraction only; sums of small values of mlp_post come along."""

    def __init__(self, weights: torch.Tensor, on_fraction: torch.Tensor, threshold: float):
        self.weights, self.often, self.threshold = weights, on_fraction.float(), threshold
        self.told, self.base = np.zeros((2, len(CUTS), 3), np.int64), np.zeros(2, np.int64)

    def add(self, x: torch.Tensor, pre: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        if keep is not None:
            x, pre = x[keep], pre[keep]
        score, off = normed(x) @ self.weights, pre <= self.threshold
        self.base += (int(off.sum()), off.numel())
        for k, cut in enumerate(CUTS):
            for g, guess in enumerate((score < cut, (self.often < cut).expand_as(off))):
                self.told[g, k] += (int((guess & off).sum()), int((guess & ~off).sum()), int((~guess & off).sum()))


class Small:
    """Share of |mlp_post| at most τ times its root mean square over the text so far known, and of exact zeros; float64 [1 + τ]."""

    def __init__(self, rms: float):
        self.rms, self.hits, self.count = rms, np.zeros(1 + len(TAUS)), 0

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        x = (x if keep is None else x[keep]).float().abs()
        self.hits += [int((x <= t * self.rms).sum()) for t in (0.0, *TAUS)]
        self.count += x.numel()


class Square:
    """Root mean square of everything seen."""

    def __init__(self):
        self.sum, self.count = 0.0, 0

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        x = x if keep is None else x[keep]
        self.sum, self.count = self.sum + float(x.double().square().sum()), self.count + x.numel()

    @property
    def rms(self) -> float:
        return (self.sum / max(self.count, 1)) ** 0.5


@dataclass(frozen=True, eq=False)
class Predictor:
    """Weights by layer, and what they reach on text they were not fitted on: told int64 [layer, guesser, cut, 3] as in Score, base
    [layer, 2] (off, all); small float64 [layer, 1 + τ]. Guessers: the predictor, the unit's own on-fraction."""

    layers: tuple[int, ...]
    weights: dict
    told: np.ndarray
    base: np.ndarray
    small: np.ndarray


def fitted(model: Model, layers: tuple[int, ...], learn: tuple, ask: tuple, params, progress=None) -> Predictor:
    """learn, ask: (ids, counted) of two halves of the text."""
    sites = {i: (Site(source_of(layers, i), "resid_pre"), Site(i, "mlp_pre")) for i in layers}
    found = stream(model, *learn, [Request(Fit(params.threshold), sites[i]) for i in layers] + [Request(Square(), (Site(i, "mlp_post"),)) for i in layers], progress=progress)
    fits, squares = found[: len(layers)], found[len(layers) :]
    weights = {i: f.solve(params.rank) for i, f in zip(layers, fits)}
    scores = [Score(weights[i], f.on / max(f.count, 1), params.threshold) for i, f in zip(layers, fits)]
    smalls = [Small(s.rms) for s in squares]
    stream(model, *ask, [Request(s, sites[i]) for i, s in zip(layers, scores)] + [Request(s, (Site(i, "mlp_post"),)) for i, s in zip(layers, smalls)])
    return Predictor(layers, weights, np.stack([s.told for s in scores]), np.stack([s.base for s in scores]), np.stack([s.hits / max(s.count, 1) for s in smalls]))


@contextmanager
def masking(model: Model, predictor: Predictor, cut: float, condition: str, threshold: float, seed: int, share: list):
    """While open, units of every MLP are set to zero at each token: those predicted off, as many drawn at random, as many with the
    smallest |mlp_post|, or those whose pre-activation really is off. The predictor reads the masked model's own stream. `share`
    receives (masked, all) counts."""
    generator = torch.Generator().manual_seed(seed)
    held: dict = {}

    def read(layer):
        def hook(module, args, kwargs):
            x = args[0] if args else kwargs["hidden_states"]
            held[layer] = normed(x.flatten(0, -2)) @ predictor.weights[layer] < cut
        return hook

    def pre(layer):
        def hook(module, args, output):
            held[layer] = output.flatten(0, -2) <= threshold
        return hook

    def mask(layer):
        def hook(module, args):
            post, off = args[0], held.pop(layer)
            if condition == "random":
                order = torch.rand(off.shape, generator=generator).to(off.device).argsort(1)
                off = off.gather(1, order)
            elif condition == "smallest":
                off = post.flatten(0, -2).abs().argsort(1).argsort(1) < off.sum(1, keepdim=True)
            share.append((int(off.sum()), off.numel()))
            return (post.masked_fill(off.view(post.shape), 0), *args[1:])
        return hook

    with ExitStack() as stack:
        for i in predictor.layers:
            block = model.blocks[i]
            if condition == "truly off":
                stack.callback(model.site(i, "mlp_pre")[0].register_forward_hook(pre(i)).remove)
            else:
                stack.callback(model.blocks[source_of(predictor.layers, i)].register_forward_pre_hook(read(i), with_kwargs=True).remove)
            stack.callback(block.get_submodule(model.layout.mlp_output).register_forward_pre_hook(mask(i)).remove)
        yield


def damage(model: Model, predictor: Predictor, ids: torch.Tensor, keep: torch.Tensor, params, progress) -> list[dict]:
    """KL(model ‖ model with units masked), nats per token, for every condition and cut; 95 % intervals over sequences. Resumes after
    the last eight sequences that were finished."""
    plans = [(c, k) for c in CONDITIONS[:3] for k in CUTS] + [(CONDITIONS[3], float("nan"))]
    kept = progress.saved() or dict(done=0, sums=np.zeros((len(plans), len(ids))), shares=np.zeros((len(plans), 2), np.int64))
    first, sums, shares = int(kept["done"]), np.array(kept["sums"]), np.array(kept["shares"])
    counts = keep.sum(1).double().numpy()
    size = 8
    for lo in range(first, len(ids), size):
        part, here = ids[lo : lo + size], keep[lo : lo + size]
        sequence = torch.arange(len(part))[:, None].expand_as(part)[here]
        clean = model.logits(part)[here.to(model.device)].float().cpu()
        for n, (condition, cut) in enumerate(plans):
            progress.step(lo // size * len(plans) + n, -(-len(ids) // size) * len(plans), f"masking: {condition}")
            masked: list = []
            with masking(model, predictor, cut, condition, params.threshold, params.seed + lo, masked):
                logits = model.logits(part)[here.to(model.device)].float().cpu()
            kl = token_divergence(clean, logits, torch.zeros(len(clean), dtype=torch.int64))[:, KL : KL + 1]
            sums[n, lo : lo + len(part)] = per_sequence(kl, sequence, len(part))[:, 0].numpy()
            shares[n] += np.sum(masked, 0, dtype=np.int64) if masked else 0
        progress.save(dict(done=lo + size, sums=sums, shares=shares))
    rows = []
    for (condition, cut), of, (off, every) in zip(plans, sums, shares):
        mean, low, high = ratio_interval(of, counts, seed=params.seed)
        rows.append(dict(condition=condition, cut=None if cut != cut else cut, masked_share=float(off / max(every, 1)), kl=float(mean), low=float(low), high=float(high), n_tokens=int(counts.sum())))
    return rows
