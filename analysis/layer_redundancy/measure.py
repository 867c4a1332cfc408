"""The numbers: one pass over the corpus for every similarity, and on its first sequences the measured removals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics import redundancy
from metrics.bootstrap import ratio_interval
from metrics.removal import KINDS, Sums, attention_mask, batch_size, sweep_batch, units
from metrics.residuals import record
from metrics.similarity import Similarities

SPECTRA = ("effective rank", "entropy / ln d", "entropy / ln min(N−1, d)", "Matrix Nuclear-Norm / N")
LINEAR_SAMPLE = 2048  # tokens kept for the biased CKA, spread over the corpus
MEASURED = {"everything": KINDS, "blocks": ("block",), "nothing": ()}


@dataclass(frozen=True, eq=False)
class Result:
    """Axes: kind is block, attention, MLP; block is the index in the unmodified checkpoint; scope is all tokens, then
    all but position 0; state is the stream into the first block, then after each block. NaN where nothing is left or
    nothing was measured; low and high are 95 % bootstrap intervals over sequences.

    score [kind, block, scope]     mean 1 − cos, 0…2        kl [kind, block, scope]         mean KL when removed, nats per token
    perplexity, agreement          same axes, when removed   base_perplexity [scope]         of the model as it is
    angular [state, state]         arccos(cos)/π, last token cka, cka_linear [scope, state, state]
    spectra [measure, scope, state]  measures as in SPECTRA, mean over sequences
    """

    blocks: np.ndarray
    n_layers: int
    parallel: bool
    score: np.ndarray
    score_low: np.ndarray
    score_high: np.ndarray
    kl: np.ndarray
    kl_low: np.ndarray
    kl_high: np.ndarray
    perplexity: np.ndarray
    agreement: np.ndarray
    base_perplexity: np.ndarray
    angular: np.ndarray
    cka: np.ndarray
    cka_linear: np.ndarray
    spectra: np.ndarray
    spectra_low: np.ndarray
    spectra_high: np.ndarray
    n_tokens: int
    n_sequences: int
    n_measured: int  # sequences in the removal sweep
    n_measured_tokens: int
    n_spectra: int
    n_linear: int  # tokens in the biased CKA

    @property
    def n_blocks(self) -> int:
        return len(self.blocks)


def compute(captures, params, progress) -> Result:
    (capture,) = captures
    with capture.model() as model, torch.inference_mode():
        ids, keep = capture.ids, capture.keep
        wanted = units(model, MEASURED[params.remove])
        n_measured = min(params.removal_sequences, len(ids)) if wanted else 0
        n_spectra = min(params.spectra_sequences, len(ids))
        held = _Held.empty(model, len(ids), int(keep.sum()), n_measured, len(wanted), n_spectra)
        saved = progress.saved()
        if saved:
            held.restore(saved)
        size = batch_size(ids.shape[1], model.config.vocab_size)
        starts = range(0, len(ids), size)
        n_steps = sum(1 + (len(wanted) if first < n_measured else 0) for first in starts)
        done = sum(1 + (len(wanted) if first < n_measured else 0) for first in starts[: held.batches])
        for first in starts[held.batches :]:
            part, kept = ids[first : first + size].to(model.device), keep[first : first + size].to(model.device)
            place = f"sequences {first + 1}–{first + len(part)} of {len(ids)}"
            progress.step(done, n_steps, f"{place} · similarities")
            seen = record(model, part, attention_mask(kept))
            held.similarities.add(model, seen, kept, first)
            held.add_cka(seen.states, kept, params.cka_batch, seed=first)
            held.add_spectra(seen.states, kept, first)
            done += 1
            if first < n_measured:
                few = min(len(part), n_measured - first)
                if few < len(part):
                    part, kept = part[:few], kept[:few]
                    seen = record(model, part, attention_mask(kept))

                def step(unit):
                    nonlocal done
                    progress.step(done, n_steps, f"{place} · removing {unit.written} ({unit.i + 1} of {len(seen.layers)})")
                    done += 1

                sweep_batch(model, seen, part, kept, wanted, held.sums, first, step)
            held.batches += 1
            progress.save(held.state())
        progress.step(n_steps, n_steps, "intervals")
        return held.result(model, wanted, params)


@dataclass(eq=False)
class _Held:
    """What the pass has accumulated; plain arrays, so that it can be kept and resumed to the same bits."""

    similarities: Similarities
    sums: Sums
    hsic: np.ndarray  # [scope, state, state], Σ n · HSIC₁
    sample: np.ndarray  # [state, token, channel] float32, for the biased CKA
    sample_late: np.ndarray  # [token] bool, position > 0
    spectra: np.ndarray  # [measure, scope, state, sequence]
    n_tokens: int
    filled: int = 0
    passed: int = 0  # tokens seen
    batches: int = 0

    @staticmethod
    def empty(model, n_sequences: int, n_tokens: int, n_measured: int, n_units: int, n_spectra: int) -> _Held:
        n_states, n_sample = len(model.layers) + 1, min(LINEAR_SAMPLE, n_tokens)
        return _Held(
            Similarities.empty(n_states - 1, n_sequences), Sums.empty(n_units, n_measured), np.zeros((2, n_states, n_states)),
            np.zeros((n_states, n_sample, model.config.hidden_size), np.float32), np.zeros(n_sample, bool),
            np.full((len(SPECTRA), 2, n_states, n_spectra), np.nan), n_tokens,
        )

    def add_cka(self, states: list, keep: torch.Tensor, minibatch: int, seed: int) -> None:
        """Cut the batch's tokens, shuffled, into minibatches; HSIC₁ with and without position 0 from the same Gram matrices."""
        tokens = torch.stack([state[keep] for state in states]).float()
        late = (keep.nonzero(as_tuple=True)[1] > 0).cpu()
        n = tokens.shape[1]
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        for part in order.tensor_split(max(1, n // minibatch)):
            x = tokens[:, part.to(tokens.device)]
            grams = redundancy.grams(x - x.mean(1, keepdim=True))
            rows = late[part].nonzero()[:, 0].to(x.device)
            for scope, k in enumerate((grams, grams[:, rows][:, :, rows])):
                if k.shape[1] >= 4:
                    self.hsic[scope] += k.shape[1] * redundancy.hsic_from_grams(k).cpu().numpy()
        self.passed += n
        quota = self.sample.shape[1] * self.passed // self.n_tokens - self.filled
        chosen = order[:quota].sort().values
        here = slice(self.filled, self.filled + quota)
        self.sample[:, here], self.sample_late[here] = tokens[:, chosen.to(tokens.device)].cpu().numpy(), late[chosen].numpy()
        self.filled += quota

    def add_spectra(self, states: list, keep: torch.Tensor, first: int) -> None:
        """Each sequence is centred by itself, as in the papers' code, so one pass is enough."""
        for s in range(min(len(keep), self.spectra.shape[-1] - first)):
            x = torch.stack([state[s, keep[s]] for state in states]).float()
            for scope in range(2):
                n, width = x.shape[1] - scope, x.shape[2]
                if n < 3:
                    continue
                z = redundancy.prepared(x[:, scope:])
                entropy = redundancy.matrix_entropy(redundancy.spectrum(z))
                values = (entropy.exp(), entropy / np.log(width), entropy / np.log(min(n - 1, width)), redundancy.matrix_nuclear_norm(z))
                self.spectra[:, scope, :, first + s] = torch.stack(values).cpu().numpy()

    def result(self, model, wanted, params) -> Result:
        sums, similar = self.sums, self.similarities
        n_blocks, n_measured = len(model.layers), self.sums.tokens.shape[1]
        score = _by_scope(similar.turn, similar.tokens, params)
        kl = np.full((3, 3, n_blocks, 2), np.nan)  # mean, low, high first
        nll, agreement = np.full((3, n_blocks, 2), np.nan), np.full((3, n_blocks, 2), np.nan)
        base = np.full(2, np.nan)
        if n_measured:
            at = (np.array([KINDS.index(u.kind) for u in wanted]), np.array([u.i for u in wanted]))
            kl[(slice(None), *at)] = np.stack(_by_scope(sums.kl, sums.tokens, params))
            nll[at] = sums.nll.sum(-1) / sums.targets.sum(-1)
            agreement[at] = sums.agree.sum(-1) / sums.tokens.sum(-1)
            base = np.exp(sums.base_nll.sum(-1) / sums.targets.sum(-1))
        spectra = _by_scope(np.moveaxis(self.spectra, 1, 2), np.ones((2, self.spectra.shape[-1])), params)
        sample = torch.from_numpy(self.sample)
        linear = [redundancy.linear_cka(sample), redundancy.linear_cka(sample[:, torch.from_numpy(self.sample_late)])]
        return Result(
            np.array(model.layers), model.n_layers, model.layout.parallel, *score, *kl, np.exp(nll), agreement, base, similar.angular,
            np.stack([redundancy.cka_from_hsic(torch.from_numpy(h)).numpy() for h in self.hsic]), torch.stack(linear).numpy(),
            *[np.moveaxis(v, 2, 1) for v in spectra], self.n_tokens, similar.tokens.shape[1], n_measured, int(sums.tokens[0].sum()),
            self.spectra.shape[-1], self.sample.shape[1],
        )

    def state(self) -> dict:
        s = self.similarities
        return {**{f"sums_{k}": v for k, v in vars(self.sums).items()}, "turn": s.turn, "tokens": s.tokens, "angle": s.angle,
                "n_last": s.n_last, "hsic": self.hsic, "sample": self.sample, "sample_late": self.sample_late, "spectra": self.spectra,
                "filled": self.filled, "passed": self.passed, "batches": self.batches}

    def restore(self, state: dict) -> None:
        self.sums = Sums(**{k.removeprefix("sums_"): np.array(v) for k, v in state.items() if k.startswith("sums_")})
        self.similarities = Similarities(np.array(state["turn"]), np.array(state["tokens"]), np.array(state["angle"]), int(state["n_last"]))
        self.hsic, self.sample, self.sample_late, self.spectra = (
            np.array(state[k]) for k in ("hsic", "sample", "sample_late", "spectra"))
        self.filled, self.passed, self.batches = int(state["filled"]), int(state["passed"]), int(state["batches"])


def _by_scope(sums: np.ndarray, counts: np.ndarray, params) -> tuple:
    """(mean, low, high) of sums [..., scope, sequence] over counts [scope, sequence], sequences resampled whole."""
    each = [ratio_interval(sums[..., scope, :], counts[scope], params.resamples, params.seed) for scope in range(2)]
    return tuple(np.stack(parts, -1) for parts in zip(*each))
