"""The numbers: every part of B alone in A, all parts up to a block, noise of the same size; errors of weights and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from analysis.sensitivity import weights
from metrics.batches import Batch, by_length
from metrics.bootstrap import ratio_interval
from metrics.divergence import KL, divergence, per_sequence
from metrics.noise import noisy
from metrics.removal import attention_mask, batch_size
from metrics.residuals import Residuals, head, record, run_on
from metrics.similarity import turn
from metrics.swap import differs, elsewhere, with_block, with_part
from models.loaded import Model
from models.refusal import NotApplicable


@dataclass(frozen=True, eq=False)
class Result:
    """Axes: matrix runs over A's matrices block by block; block over `layers`; state over the stream into the first block and after
    each; `3` is value, 95 % low and high. KL in nats per token, errors relative.

    part_kl, part_noise [matrix, 3] isolated, and noise of its size (NaN without control); changed [matrix]
    block_kl, block_noise, accumulated [block, 3]; outside [3] embeddings, final norm and head alone; whole [3] KL(A ‖ B)
    stream [state, 3] 1 − cos, stream_noise [draw, state]
    weight_error, output_isolated, output_accumulated, zeros_a, zeros_b [matrix]; density [matrix, square, square] share that is not 0
    spectrum_a, spectrum_b [matrix, rank] singular values, NaN beyond
    """

    layers: tuple
    names: tuple
    layer: np.ndarray  # [matrix]
    name: np.ndarray  # [matrix]
    changed: np.ndarray
    part_kl: np.ndarray
    part_noise: np.ndarray
    block_kl: np.ndarray
    block_noise: np.ndarray
    accumulated: np.ndarray
    outside: np.ndarray
    whole: np.ndarray
    stream: np.ndarray
    stream_noise: np.ndarray
    weight_error: np.ndarray
    output_isolated: np.ndarray
    output_accumulated: np.ndarray
    zeros_a: np.ndarray
    zeros_b: np.ndarray
    density: np.ndarray
    spectrum_a: np.ndarray
    spectrum_b: np.ndarray
    n_layers: int
    removed: tuple  # (layer, "attn" | "mlp") that B lacks and A has
    n_tokens: int
    n_sequences: int


def compute(captures, params, progress) -> Result:
    first, second = captures
    ids, keep = first.ids, first.keep
    if not torch.equal(ids, second.ids):
        raise NotApplicable("A and B cut this text into different tokens, so there is no token to compare at; choose two models with one tokenizer.")
    with first.model() as a, second.model() as b, torch.inference_mode():
        if _shapes(a) != _shapes(b):
            raise NotApplicable("A and B are not of one shape, so no matrix of B can stand in A; choose a variant that was made from A.")
        parts = _Parts.of(a, b, params)
        sums = _measured(a, b, parts, ids, keep, progress)
        counts = keep.sum(1).double().numpy()
        three = lambda values: np.stack(ratio_interval(values, counts, params.resamples, params.seed), -1)
        known = weights.of(a, b, parts.units, parts.changed, params.spectra, progress)
        energy = np.maximum(sums.energy[:, 0], 1e-300)
        return Result(
            layers=a.layers, names=a.layout.matrices(), layer=np.array([i for i, _ in parts.units]), name=np.array([n for _, n in parts.units], dtype=str),
            changed=np.array(parts.changed), part_kl=three(sums.part[:, 0]), part_noise=three(sums.part[:, 1]), block_kl=three(sums.block[:, 0]),
            block_noise=three(sums.block[:, 1]), accumulated=three(sums.block[:, 2]), outside=three(sums.rest[0]), whole=three(sums.rest[1]),
            stream=three(sums.stream[0]), stream_noise=sums.stream[1:].sum(-1) / counts.sum(), output_isolated=np.sqrt(sums.energy[:, 1] / energy),
            output_accumulated=np.sqrt(sums.energy[:, 2] / energy), **known, n_layers=a.n_layers, removed=tuple(sorted(b.removed - a.removed)),
            n_tokens=int(keep.sum()), n_sequences=len(ids),
        )


def _shapes(model: Model) -> dict:
    blocks = {(i, name): model.matrix(i, name).shape for i in range(model.n_layers) for name in model.layout.matrices()}
    return {"width": model.config.hidden_size, "vocab": model.config.vocab_size, **blocks}


@dataclass(eq=False)
class _Parts:
    """What is swapped: `units` (layer, name) of all matrices of A, which of them B changed, A with noise, and a host for swaps."""

    units: list
    changed: list
    blocks: list  # per block of A, whether B changed anything in it
    outside: bool
    host: Model
    noise: list  # A with noise, one per draw; empty without control

    @staticmethod
    def of(a: Model, b: Model, params) -> _Parts:
        units = [(layer, name) for layer in a.layers for name in a.layout.matrices()]
        draws = [noisy(a, b, params.seed + k) for k in range(params.draws)] if params.control == "noise" else []
        return _Parts(units, [differs(a, b, *unit) for unit in units], [differs(a, b, layer, "") for layer in a.layers], elsewhere(a, b), a.copy("host"), draws)


@dataclass(eq=False)
class _Sums:
    """Per-sequence sums: part [matrix, (B, noise), sequence]; block [block, (B, noise, accumulated), sequence]; rest [(outside, whole),
    sequence]; stream [(B, *draws), state, sequence]; energy [matrix, (of A's output, isolated, accumulated error)], over all tokens."""

    part: np.ndarray
    block: np.ndarray
    rest: np.ndarray
    stream: np.ndarray
    energy: np.ndarray

    @staticmethod
    def empty(n_parts: int, n_blocks: int, draws: int, n: int) -> _Sums:
        sums = _Sums(np.zeros((n_parts, 2, n)), np.zeros((n_blocks, 3, n)), np.zeros((2, n)), np.zeros((1 + draws, n_blocks + 1, n)), np.zeros((n_parts, 3)))
        if not draws:
            sums.part[:, 1], sums.block[:, 1] = np.nan, np.nan
        return sums


def _measured(a: Model, b: Model, parts: _Parts, ids: torch.Tensor, keep: torch.Tensor, progress) -> _Sums:
    sums, start = _Sums.empty(len(parts.units), len(a.layers), len(parts.noise), len(ids)), 0
    saved = progress.saved()
    if saved:
        sums, start = _Sums(**{name: np.array(saved[name]) for name in vars(sums)}), int(saved["start"])
    batches = by_length(ids, keep, batch_size(ids.shape[1], a.config.vocab_size))
    steps = len(parts.units) + len(a.layers) + 1
    for at in range(start, len(batches)):
        _Pass(a, b, parts, sums, batches[at], lambda i, what: progress.step(at * steps + i, len(batches) * steps, f"{what}, batch {at + 1} of {len(batches)}")).run()
        progress.save({"start": at + 1, **vars(sums)})
    return sums


class _Pass:
    """One batch through A, B, and every mixture of the two."""

    def __init__(self, a: Model, b: Model, parts: _Parts, sums: _Sums, batch: Batch, step):
        self.a, self.b, self.parts, self.sums, self.step = a, b, parts, sums, step
        self.ids, self.keep, self.rows = batch.ids.to(a.device), batch.keep.to(a.device), batch.rows.numpy()
        self.sequence = self.keep.nonzero(as_tuple=True)[0].cpu()
        self.to_logits, self.mask = head(a), attention_mask(self.keep)

    def run(self) -> None:
        self.step(0, "A and B")
        with weights.Watch(self.a, self.parts.units) as watch:
            seen = record(self.a, self.ids, self.mask)
            of_a = watch.take()
        self.reference = self.to_logits(seen.post[self.keep]).float()
        with weights.Watch(self.b, self.parts.units) as watch:
            seen_b = record(self.b, self.ids, self.mask)
            of_b = watch.take()
        self.sums.energy += weights.energies(self.b, self.parts.units, self.parts.changed, of_a, of_b, self.keep)
        self._stream(seen, seen_b)
        self._parts(seen)
        self._blocks(seen, seen_b)
        if self.parts.outside:
            self.sums.rest[0, self.rows] = self._kl_of(self._outside(), head(self.b))
        self.sums.rest[1, self.rows] = self._kl_of(self._at_end(seen_b), head(self.b))

    def _parts(self, seen: Residuals) -> None:
        for u, (layer, name) in enumerate(self.parts.units):
            if not self.parts.changed[u]:
                continue
            self.step(1 + u, f"{name} of block {layer}")
            i = seen.layers.index(layer)
            for k, donor in enumerate((self.b, *self.parts.noise[:1])):
                self.sums.part[u, k, self.rows] = self._kl_of(with_part(self.a, self.parts.host, donor, seen, i, name))

    def _blocks(self, seen: Residuals, seen_b: Residuals) -> None:
        before = 0.0
        for i, layer in enumerate(seen.layers):
            self.step(1 + len(self.parts.units) + i, f"block {layer}")
            if self.parts.blocks[i]:
                for k, donor in enumerate((self.b, *self.parts.noise[:1])):
                    self.sums.block[i, k, self.rows] = self._kl_of(with_block(self.a, donor, seen, i))
                before = self._kl_of(run_on(self.a, seen, i + 1, self._after(seen_b, layer)))
            elif i == 0 and self.parts.outside:
                before = self._kl_of(run_on(self.a, seen, 1, self._after(seen_b, layer)))
            self.sums.block[i, 2, self.rows] = before

    def _stream(self, seen: Residuals, seen_b: Residuals) -> None:
        others = [seen_b, *(record(noise, self.ids, self.mask) for noise in self.parts.noise)]
        for k, other in enumerate(others):
            for s, state in enumerate(seen.states):
                there = other.pre[0] if s == 0 and other.pre else self._after(other, seen.layers[s - 1]) if s else seen.pre[0]
                values = turn(state[self.keep], there[self.keep])
                self.sums.stream[k, s, self.rows] = per_sequence(values[:, None].cpu(), self.sequence, len(self.rows))[:, 0].numpy()

    def _after(self, seen: Residuals, layer: int) -> torch.Tensor:
        """B's stream after a block of A: where B lacks the block, what came into it."""
        later = [i for i, own in enumerate(seen.layers) if own > layer]
        return seen.pre[later[0]] if later else self._at_end(seen)

    def _at_end(self, seen: Residuals) -> torch.Tensor:
        return seen.post

    def _outside(self) -> torch.Tensor:
        """A's blocks on B's embeddings."""
        mixed = self.b.copy("outside")
        for layer in range(self.a.n_layers):
            mixed.blocks[layer] = self.a.blocks[layer]
        mixed.removed = self.a.removed
        return record(mixed, self.ids, self.mask).post

    def _kl_of(self, hidden: torch.Tensor, to_logits=None) -> np.ndarray:
        """Sums of KL to A over each sequence [sequence] of a stream after the last block."""
        nothing = torch.full((len(self.reference),), -1, device=self.reference.device)
        each = divergence(self.reference, hidden[self.keep], to_logits or self.to_logits, nothing)
        return per_sequence(each[:, KL : KL + 1], self.sequence, len(self.rows))[:, 0].numpy()
