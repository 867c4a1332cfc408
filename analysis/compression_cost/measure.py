"""The numbers: both models, and the noise control, over the same tokens; what each token lost, then the sums."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from metrics.batches import by_length
from metrics.bootstrap import ratio_interval
from metrics.damage import matrix_damage
from metrics.divergence import KL, LOG_P, LOG_Q, token_divergence
from metrics.model_bits import model_bits, n_weights
from metrics.noise import noisy
from metrics.paired import mcnemar, quantiles
from metrics.removal import attention_mask, batch_size, next_tokens
from models.loaded import Model
from models.refusal import NotApplicable

QUANTILES = (0.5, 0.95, 0.99)
BINS = 24  # of positions, at most


@dataclass(frozen=True, eq=False)
class Result:
    """Axes: token runs over all tokens of the text, sequence by sequence; group is all, then each strand; `3` is value, 95 % low
    and high, bootstrapped over sequences. KL in nats, log probabilities natural; NaN where there is no next token, no control or no healing.

    kl, noise, before [token] KL(A ‖ B), KL(A ‖ A with noise), KL(A ‖ B before healing)      log_a, log_b [token] of the next token
    token, target, top_a, top_b [token] ids, target −1 at an end; `texts` belongs to the sorted `ids`
    kl_summary, noise_summary, before_summary [mean, median, p95, p99; 3]
    per group: group_kl, nll_a, nll_b, nll_change (B − A), agreement, only_a, only_b (shares of the tokens with a next one
    that only this model's top-1 gets right), accuracy_change (B − A) [group, 3]; flips [group, 4] tokens that both, only A,
    only B, neither gets right; mcnemar [group, 4] share of only-A flips, low, high, p
    bin_start [bin] first position, position_kl [group, bin, 3]
    weight_error [matrix] ‖W′ − W‖ / ‖W‖ with its layer and name; empty where A and B are not of one shape
    """

    groups: tuple
    group_sequences: np.ndarray
    group_tokens: np.ndarray
    kl: np.ndarray
    noise: np.ndarray
    before: np.ndarray
    log_a: np.ndarray
    log_b: np.ndarray
    sequence: np.ndarray
    position: np.ndarray
    token: np.ndarray
    target: np.ndarray
    top_a: np.ndarray
    top_b: np.ndarray
    ids: np.ndarray
    texts: np.ndarray
    strand: np.ndarray  # [sequence] index into groups
    kl_summary: np.ndarray
    noise_summary: np.ndarray
    before_summary: np.ndarray
    group_kl: np.ndarray
    nll_a: np.ndarray
    nll_b: np.ndarray
    nll_change: np.ndarray
    agreement: np.ndarray
    only_a: np.ndarray
    only_b: np.ndarray
    accuracy_change: np.ndarray
    flips: np.ndarray
    mcnemar: np.ndarray
    bin_start: np.ndarray
    bin_width: int
    position_kl: np.ndarray
    n_layers: int
    weight_layer: np.ndarray
    weight_name: np.ndarray
    weight_kind: np.ndarray
    weight_error: np.ndarray
    removed: tuple  # (layer, "attn" | "mlp") that B lacks and A has
    bits_a: float
    bits_b: float
    n_weights: int  # parameters of A

    @property
    def n_tokens(self) -> int:
        return len(self.kl)


def compute(captures, params, progress) -> Result:
    first, second, *unhealed = captures
    ids, keep = first.ids, first.keep
    if not torch.equal(ids, second.ids):
        raise NotApplicable("A and B cut this text into different tokens, so there is no token to compare at; choose two models with one tokenizer.")
    with ExitStack() as open_models, torch.inference_mode():
        a, b, *before = (open_models.enter_context(c.model()) for c in (first, second, *unhealed))
        if a.config.vocab_size != b.config.vocab_size:
            raise NotApplicable(f"A predicts {a.config.vocab_size:,} tokens and B {b.config.vocab_size:,}; their predictions cannot be compared.")
        alike = _alike(a, b)
        control = noisy(a, b, params.seed) if alike and params.control == "noise" else None
        tokens = _per_token(a, b, {"noise": control, "before": before[0] if before else None}, ids, keep, progress)
        labels = first.tokens.labels.get("strand", np.full(len(ids), ""))
        damage = [row for row in matrix_damage(a, b) if (row.layer, row.kind) not in b.removed] if alike else []
        used = np.unique(np.concatenate([tokens[k] for k in ("token", "target", "top_a", "top_b")]))
        used = used[used >= 0]
        return Result(
            **tokens, **_summaries(tokens, labels, params), ids=used, texts=np.array([a.tokenizer.decode([int(i)]) for i in used], dtype=str),
            n_layers=a.n_layers, weight_layer=np.array([r.layer for r in damage], np.int64), weight_name=np.array([r.name for r in damage], dtype=str),
            weight_kind=np.array([r.kind for r in damage], dtype=str), weight_error=np.array([r.weight_error for r in damage], np.float64),
            removed=tuple(sorted(b.removed - a.removed)), bits_a=model_bits(a), bits_b=model_bits(b), n_weights=n_weights(a),
        )


def _alike(a: Model, b: Model) -> bool:
    """Whether every matrix of A has its counterpart in B."""
    shapes = [{(i, name): m.matrix(i, name).shape for i in range(m.n_layers) for name in m.layout.matrices()} for m in (a, b)]
    return shapes[0] == shapes[1]


def _per_token(a: Model, b: Model, beside: dict[str, Model | None], ids: torch.Tensor, keep: torch.Tensor, progress) -> dict[str, np.ndarray]:
    n = int(keep.sum())
    sequence, position = (x.numpy() for x in keep.nonzero(as_tuple=True))
    real = {name: np.full(n, np.nan, np.float32) for name in ("kl", "noise", "before", "log_a", "log_b")}
    whole = {name: np.full(n, -1, np.int64) for name in ("top_a", "top_b")}
    targets = next_tokens(ids, keep)
    saved = progress.saved()
    start = 0
    if saved:
        start = int(saved["start"])
        real, whole = ({name: np.array(saved[name]) for name in part} for part in (real, whole))
    batches = by_length(ids, keep, batch_size(ids.shape[1], a.config.vocab_size))
    counts = np.concatenate([[0], np.cumsum(keep.sum(1).numpy())])
    for at in range(start, len(batches)):
        part = batches[at]
        done = sum(len(b.rows) for b in batches[:at])
        progress.step(done, len(ids), f"{done} of {len(ids)} sequences")
        kept, here = part.keep, np.concatenate([np.arange(counts[row], counts[row + 1]) for row in part.rows.tolist()])
        wanted = targets[part.rows, : kept.shape[1]][kept]
        logits_a, logits_b = (_logits(m, part.ids, kept) for m in (a, b))
        each = token_divergence(logits_a, logits_b, wanted).numpy()
        real["kl"][here], real["log_a"][here], real["log_b"][here] = each[:, KL], each[:, LOG_P], each[:, LOG_Q]
        whole["top_a"][here], whole["top_b"][here] = logits_a.argmax(-1).numpy(), logits_b.argmax(-1).numpy()
        for name, other in beside.items():
            if other is not None:
                real[name][here] = token_divergence(logits_a, _logits(other, part.ids, kept), wanted).numpy()[:, KL]
        progress.save({"start": at + 1, **real, **whole})
    progress.step(len(ids), len(ids), "intervals")
    return {**real, **whole, "sequence": sequence, "position": position, "token": ids[keep].numpy(), "target": targets[keep].numpy()}


def _logits(model: Model, ids: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """float32 [token, vocab] of the kept tokens, on the CPU."""
    mask = attention_mask(keep)
    return model.logits(ids, None if mask is None else mask.to(model.device))[keep.to(model.device)].float().cpu()


def _summaries(t: dict[str, np.ndarray], labels: np.ndarray, params) -> dict:
    n_sequences = len(labels)
    names = sorted(set(labels.tolist()) - {""})
    names = names if len(names) > 1 else []
    strand = np.array([names.index(x) + 1 if x in names else 0 for x in labels.tolist()], np.int64)
    members = [np.arange(n_sequences), *[np.flatnonzero(strand == g + 1) for g in range(len(names))]]
    known = t["target"] >= 0
    right_a, right_b = known & (t["top_a"] == t["target"]), known & (t["top_b"] == t["target"])

    def per_group(values: np.ndarray, over: np.ndarray) -> np.ndarray:
        """[group, 3] mean of values [token] over the tokens in `over`."""
        sums = np.bincount(t["sequence"][over], np.asarray(values, np.float64)[over], n_sequences)
        counts = np.bincount(t["sequence"][over], minlength=n_sequences)
        rows = []
        for own in members:
            own = own[counts[own] > 0]
            rows.append(ratio_interval(sums[own], counts[own], params.resamples, params.seed) if len(own) else [np.nan] * 3)
        return np.array(rows, np.float64)

    every = np.ones(len(known), bool)
    four = np.stack([right_a & right_b, right_a & ~right_b, ~right_a & right_b, known & ~right_a & ~right_b], 1)
    flips = np.stack([four[np.isin(t["sequence"], own)].sum(0) for own in members])
    tests = [mcnemar(int(row[1]), int(row[2])) for row in flips]
    width = -(-(int(t["position"].max()) + 1) // BINS)
    bins = np.arange(0, int(t["position"].max()) + 1, width)
    group_kl = per_group(t["kl"], every)
    return {
        "groups": ("all", *names), "strand": strand, "group_sequences": np.array([len(own) for own in members]),
        "group_tokens": np.array([np.isin(t["sequence"], own).sum() for own in members]),
        "kl_summary": _summary(t["kl"], group_kl[0], t, n_sequences, params),
        "before_summary": _summary(t["before"], per_group(t["before"], every)[0], t, n_sequences, params),
        "noise_summary": _summary(t["noise"], per_group(t["noise"], every)[0], t, n_sequences, params),
        "group_kl": group_kl, "nll_a": per_group(-t["log_a"], known), "nll_b": per_group(-t["log_b"], known),
        "nll_change": per_group(t["log_a"].astype(np.float64) - t["log_b"], known), "agreement": per_group(t["top_a"] == t["top_b"], every),
        "only_a": per_group(four[:, 1], known), "only_b": per_group(four[:, 2], known), "flips": flips,
        "accuracy_change": per_group(right_b.astype(float) - right_a, known),
        "mcnemar": np.array([[m.share, m.low, m.high, m.p] for m in tests]), "bin_start": bins, "bin_width": width,
        "position_kl": np.stack([per_group(t["kl"], (t["position"] >= s) & (t["position"] < s + width)) for s in bins], 1),
    }


def _summary(values: np.ndarray, mean: np.ndarray, t: dict[str, np.ndarray], n_sequences: int, params) -> np.ndarray:
    """[mean, median, p95, p99; 3]."""
    if np.isnan(values).any():
        return np.full((1 + len(QUANTILES), 3), np.nan)
    return np.concatenate([mean[None], quantiles(values, t["sequence"], n_sequences, QUANTILES, params.resamples, params.seed)])
