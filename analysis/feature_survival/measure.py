"""The numbers: one SAE, trained on the original and frozen, read on the same tokens of A, of B and of a control."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from kernels.top_k import TopK
from metrics.feature_contexts import feature_activations, promoted, windows
from metrics.matched_control import comparable, matched
from metrics.noise import noisy
from metrics.sae_quality import Quality, quality, recovered
from models.home import home
from models.loaded import Model
from models.progress import Stage
from models.refusal import NotApplicable, Refused
from models.saes import Sae, load_sae
from models.saes.inside import activations, require_fit
from models.saes.shelf import choose

GROUPS = 32  # of sequences, at most: what is drawn in the bootstrap of per-feature numbers
WORST, EXAMPLES = 16, 5  # features looked at, and places of each model where they fire most
N, X, Y, XX, YY, XY = range(6)
FATES = ("kept", "distorted", "dead", "born")


@dataclass(frozen=True, eq=False)
class Result:
    """Axis `model` is A, B and, where there is one, the control; `3` is value, 95 % low and high, bootstrapped over sequences; features
    run over the whole dictionary. Activations are the SAE's, loss in nats per token.

    fired [model, feature] tokens at which it fires; mean [model, feature] activation over all tokens
    correlation [model, feature] Pearson's r of its activations on A and on that model over the same tokens; NaN where one never varies
    fate [pair, feature] index in FATES, −1 where it does not count; pair is A with B, and A with the control
    damaged [pair, 3] share of A's active features that are dead or distorted
    explained, mse, l0, loss, spliced, zeroed, recovered [model, 3]
    worst [feature′] the most damaged ones, worst_correlation [pair, feature′, 3]; window [feature′, side, example, width] flat token indices around
    where they fire most on A (side 0) and on B (side 1), −1 outside; seen [model, feature′, side, example, width] activations there
    up, down [feature′, token] promoted and suppressed tokens; `texts` belongs to the sorted `ids`, `token` [token] are all tokens read
    """

    sae: str
    site: str
    sae_model: str
    control: str
    d_sae: int
    n_tokens: int
    n_sequences: int
    least: int
    fired: np.ndarray
    mean: np.ndarray
    correlation: np.ndarray
    fate: np.ndarray
    damaged: np.ndarray
    explained: np.ndarray
    mse: np.ndarray
    l0: np.ndarray
    loss: np.ndarray
    spliced: np.ndarray
    zeroed: np.ndarray
    recovered: np.ndarray
    worst: np.ndarray
    worst_correlation: np.ndarray
    window: np.ndarray
    seen: np.ndarray
    up: np.ndarray
    down: np.ndarray
    token: np.ndarray
    ids: np.ndarray
    texts: np.ndarray


def compute(captures, params, progress) -> Result:
    first, second = captures
    ids, keep = first.ids, first.keep
    if not torch.equal(ids, second.ids):
        raise NotApplicable("A and B cut this text into different tokens, so no feature can be followed from one to the other; choose two models with one tokenizer.")
    sae = load_sae(choose(params.sae, first.variant, home()), home())
    with ExitStack() as opened, torch.no_grad():
        a, b = (opened.enter_context(c.model()) for c in captures)
        for model in (a, b):
            require_fit(sae, model)
        control, words = _control(a, b, params)
        models = [a, b, *([control] if control is not None else [])]
        counted = keep.clone()
        counted[:, 0] = False
        if int(counted.sum()) < 2:
            raise Refused(f"Found {int(counted.sum())} tokens after the first of each sequence; a correlation needs at least 2. Take a longer text.")
        fired, sums, tops = _read(models, sae, ids, counted, Stage(progress, 0.0, 0.4))
        qualities = [quality(m, sae, ids, keep, progress=Stage(progress, 0.4 + 0.55 * i / len(models), 0.4 + 0.55 * (i + 1) / len(models))) for i, m in enumerate(models)]
        r = correlations(sums.sum(1))
        correlation = np.concatenate([np.where(fired[:1] > 0, 1.0, np.nan), r])
        fate = np.stack([fates(fired[[0, pair + 1]], r[pair], params.least, params.below) for pair in range(len(r))])
        worst = most_damaged(fired, correlation[1], params.least)
        progress.step(98, 100, "the most damaged features")
        more = _closer(models, sae, ids, keep, worst, tops)
        means = np.concatenate([sums[:1, :, :, X].sum(1), sums[..., Y].sum(1)]) / counted.sum().item()
        used = np.unique(np.concatenate([ids[keep].numpy(), more["up"].ravel(), more["down"].ravel()]))
        return Result(
            sae=sae.name, site=sae.site.written, sae_model=sae.model, control=words, d_sae=sae.d_sae, n_tokens=int(counted.sum()), n_sequences=len(ids),
            least=params.least, fired=fired, mean=means, correlation=correlation, fate=fate, damaged=damaged(sums, fate, params), **_summaries(qualities, params),
            worst=worst, worst_correlation=_intervals(sums[:, :, worst], params), **more,
            token=ids.numpy().ravel(), ids=used, texts=np.array([a.tokenizer.decode([int(i)]) for i in used], dtype=str))


def _control(a: Model, b: Model, params) -> tuple[Model | None, str]:
    from metrics.matched_control import WORDS

    if params.control == "none" or not comparable(a, b) or all(torch.equal(w, b.matrix(layer, name)) for layer, name, w in a.matrices()):
        return None, ""
    if params.control == "noise":
        return noisy(a, b, params.seed), WORDS["noise"]
    model, kinds = matched(a, b, params.seed)
    return model, " and ".join(WORDS[kind] for kind in kinds)


def _read(models: list[Model], sae: Sae, ids: torch.Tensor, counted: torch.Tensor, progress, batch: int = 16):
    """(fired [model, feature], sums [pair, group, feature, 6], the places where each feature is largest in A and in B)."""
    n = len(ids)
    group = np.arange(n) * min(GROUPS, n) // n
    fired = np.zeros((len(models), sae.d_sae), np.int64)
    sums = np.zeros((len(models) - 1, min(GROUPS, n), sae.d_sae, 6))
    tops = [TopK(sae.d_sae, EXAMPLES) for _ in models[:2]]
    for lo in range(0, n, batch):
        here = counted[lo : lo + batch]
        codes = [sae.encode(activations(m, sae.site, ids[lo : lo + batch]).cpu()) for m in models]
        for i, z in enumerate(codes):
            fired[i] += ((z > 0) & here[..., None]).sum((0, 1)).numpy()
        for top, z in zip(tops, codes):
            top.add(z.flatten(0, 1), keep=here.flatten(), start=lo * ids.shape[1])
        for row in range(len(here)):
            x = codes[0][row][here[row]].double()
            for pair, z in enumerate(codes[1:]):
                y = z[row][here[row]].double()
                sums[pair, group[lo + row]] += torch.stack([torch.full_like(x[:1].sum(0), len(x)), x.sum(0), y.sum(0), (x * x).sum(0), (y * y).sum(0), (x * y).sum(0)], 1).numpy()
        progress.step(min(lo + batch, n), n, f"features of {min(lo + batch, n)} of {n} sequences")
    return fired, sums, tops


def correlations(sums: np.ndarray) -> np.ndarray:
    """Pearson's r [...] from sums [..., 6]; NaN where one side does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = n * xx - x * x, n * yy - y * y
        good = (a > 1e-12 * n * xx) & (b > 1e-12 * n * yy)
        return np.where(good, np.clip((n * xy - x * y) / np.sqrt(np.where(good, a * b, 1.0)), -1, 1), np.nan)


def fates(fired: np.ndarray, correlation: np.ndarray, least: int, below: float) -> np.ndarray:
    """For each feature its index in FATES, −1 where neither side fires at `least` tokens. fired [2, feature]: A and the other.

    dead: A has it at `least` tokens or more, the other never. born: the other way round. distorted: there in A, still there in
    the other, with a correlation below `below`. kept: the rest of what A has."""
    x, y = fired
    out = np.full(len(x), -1)
    out[x >= least] = FATES.index("kept")
    out[(x >= least) & (np.nan_to_num(correlation, nan=-1.0) < below)] = FATES.index("distorted")
    out[(x >= least) & (y == 0)] = FATES.index("dead")
    out[(x == 0) & (y >= least)] = FATES.index("born")
    return out


def most_damaged(fired: np.ndarray, correlation: np.ndarray, least: int) -> np.ndarray:
    """The features of A with the lowest correlation, dead ones counted as 0; of equals, those that fire most often first."""
    active = np.flatnonzero(fired[0] >= least)
    score = np.where(fired[1][active] == 0, 0.0, np.nan_to_num(correlation[active], nan=0.0))
    return active[np.lexsort((-fired[0][active], score.round(9)))][:WORST]


def _closer(models: list[Model], sae: Sae, ids: torch.Tensor, keep: torch.Tensor, worst: np.ndarray, tops: list[TopK]) -> dict[str, np.ndarray]:
    places = np.stack([np.where(top.values[worst].numpy() > 0, top.positions[worst].numpy(), -1) for top in tops], 1)  # [feature′, side, example]
    window = windows(ids.numpy(), keep.numpy(), places)
    rows = np.unique(window[window >= 0] // ids.shape[1])
    seen = np.zeros((len(models), *window.shape), np.float32)
    if len(rows):
        at = np.searchsorted(rows, np.maximum(window, 0) // ids.shape[1]).clip(max=len(rows) - 1), np.maximum(window, 0) % ids.shape[1]
        index = np.arange(len(worst))[:, None, None, None]
        for i, model in enumerate(models):
            seen[i] = np.where(window >= 0, feature_activations(model, sae, ids[rows], worst)[(*at, index)], 0.0)
    try:
        up, _, down, _ = promoted(models[0], sae, worst, 8)
    except NotApplicable:
        up = down = np.zeros((len(worst), 0), np.int64)
    return {"window": window, "seen": seen, "up": up, "down": down}


def _summaries(qualities: list[Quality], params) -> dict[str, np.ndarray]:
    n = len(qualities[0].tokens)
    weights = np.random.default_rng(params.seed).multinomial(n, np.full(n, 1 / n), params.resamples).astype(np.float64) if n > 1 else np.zeros((0, n))

    def three(form) -> np.ndarray:
        """[model, 3] of form(quality, sum over sequences)."""
        rows = []
        for q in qualities:
            with np.errstate(invalid="ignore", divide="ignore"):
                drawn = np.asarray(form(q, lambda v: weights @ v))
                ends = np.nanquantile(drawn, [0.025, 0.975]) if len(drawn) and np.isfinite(drawn).any() else [np.nan, np.nan]
            rows.append([float(form(q, np.sum)), *ends])
        return np.array(rows)

    return {
        "explained": three(lambda q, s: 1 - s(q.error) / s(q.spread)), "mse": three(lambda q, s: s(q.error) / s(q.tokens)), "l0": three(lambda q, s: s(q.active) / s(q.tokens)),
        "loss": three(lambda q, s: s(q.clean) / s(q.predicted)), "spliced": three(lambda q, s: s(q.spliced) / s(q.predicted)),
        "zeroed": three(lambda q, s: s(q.zeroed) / s(q.predicted)), "recovered": three(lambda q, s: recovered(s(q.clean), s(q.spliced), s(q.zeroed))),
    }


def damaged(sums: np.ndarray, fate: np.ndarray, params) -> np.ndarray:
    """[pair, 3] share of A's active features that are dead or distorted, with its interval over groups of sequences; which features
    are active and which are dead is decided on all tokens, so only the correlations vary."""
    out = []
    for own, kind in zip(sums, fate):
        alive = np.isin(kind, (FATES.index("kept"), FATES.index("distorted")))
        dead = int((kind == FATES.index("dead")).sum())
        total = max(int(alive.sum()) + dead, 1)
        value = (dead + int((kind == FATES.index("distorted")).sum())) / total
        shares = [(dead + int((np.nan_to_num(each, nan=-1.0) < params.below).sum())) / total for each in _drawn(own[:, alive], params)]
        out.append([value, *(np.quantile(shares, [0.025, 0.975]) if shares else (np.nan, np.nan))])
    return np.array(out, np.float64)


def _intervals(sums: np.ndarray, params) -> np.ndarray:
    """[pair, feature, 3] correlation with its interval, from sums [pair, group, feature, 6]."""
    rows = []
    for own in sums:
        drawn = np.array(list(_drawn(own, params))).reshape(-1, own.shape[1])
        known = np.isfinite(drawn).any(0) if len(drawn) else np.zeros(own.shape[1], bool)
        ends = np.full((2, own.shape[1]), np.nan)
        if known.any():
            ends[:, known] = np.nanquantile(drawn[:, known], [0.025, 0.975], axis=0)
        rows.append(np.stack([correlations(own.sum(0)), *ends], 1))
    return np.array(rows)


def _drawn(sums: np.ndarray, params):
    """Correlations [feature] of each resample of the groups of sums [group, feature, 6]; none where there is one group."""
    n = len(sums)
    if n > 1:
        flat = np.ascontiguousarray(sums).reshape(n, -1)
        for weights in np.random.default_rng(params.seed).multinomial(n, np.full(n, 1 / n), params.resamples):
            yield correlations((weights @ flat).reshape(sums.shape[1:]))
