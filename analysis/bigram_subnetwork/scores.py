"""What one model, whole or masked, scores on the measured text: surprisals against the table, and its states along the depth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from metrics.bootstrap import pair_sums, pearson_interval, ratio_interval
from metrics.removal import batch_size
from metrics.residuals import head, record
from metrics.rotation import LinearMaps, Streams
from models.loaded import Model

LN2 = float(np.log(2))
RECALL = (1, 5, 10)



@dataclass(frozen=True, eq=False)
class Yardstick:
    """The table on the measured text, [sequence, position] at positions whose next token is scored.

    surprisal in bits, infinite for unseen pairs; entropy of the row; here: scored at all; seen: scored, with a finite surprisal.
    """

    ids: torch.Tensor
    surprisal: np.ndarray
    entropy: np.ndarray
    here: np.ndarray
    table: object
    resamples: int
    seed: int

    @staticmethod
    def of(text, params) -> Yardstick:
        ids = text.ids.numpy()
        following = np.concatenate([ids[:, 1:], ids[:, :1]], 1)
        return Yardstick(text.ids, text.table.surprisal(ids, following), text.table.entropy(ids), text.scored.numpy(), text.table, params.resamples, params.seed)

    def first(self, n: int) -> Yardstick:
        """Of the first n sequences."""
        return replace(self, ids=self.ids[:n], surprisal=self.surprisal[:n], entropy=self.entropy[:n], here=self.here[:n])

    @property
    def seen(self) -> np.ndarray:
        return self.here & np.isfinite(self.surprisal)

    @property
    def clipped(self) -> np.ndarray:
        """Unseen pairs at the largest finite surprisal."""
        return np.where(np.isfinite(self.surprisal), self.surprisal, self.surprisal[self.seen].max(initial=0.0))


@dataclass(frozen=True, eq=False)
class Score:
    """r [rule] with the table and `to_model` with the whole model, each (value, low, high); loss: mean surprisal of the text in
    bits; excess: bits of cross-entropy to the table above the table's own entropy. surprisal [sequence, position]."""

    r: np.ndarray
    to_model: np.ndarray
    loss: np.ndarray
    excess: np.ndarray
    surprisal: np.ndarray


def score(model: Model, yardstick: Yardstick, whole: Score | None = None) -> Score:
    ids, n_vocab = yardstick.ids, yardstick.table.n_vocab
    surprisal, cross = np.zeros(ids.shape), np.zeros(ids.shape)
    size = batch_size(ids.shape[1], model.config.vocab_size)
    for lo in range(0, len(ids), size):
        part = ids[lo : lo + size].to(model.device)
        log_p = model.logits(part)[..., :n_vocab].float().log_softmax(-1)
        surprisal[lo : lo + size, :-1] = -log_p[:, :-1].gather(2, part[:, 1:, None])[..., 0].cpu().double().numpy() / LN2
        row, column, p = yardstick.table.rows(part.reshape(-1))
        flat = log_p.reshape(-1, n_vocab)
        each = torch.zeros(len(flat), dtype=torch.float64).index_add_(0, row.cpu(), -(p * flat[row, column]).cpu().double())
        cross[lo : lo + size] = each.view(part.shape).numpy() / LN2
    return _scored(surprisal, cross, yardstick, whole)


def _scored(surprisal: np.ndarray, cross: np.ndarray, y: Yardstick, whole: Score | None) -> Score:
    counts = y.here.sum(1)
    pairs = (pair_sums(surprisal, np.where(y.seen, y.surprisal, 0.0), y.seen), pair_sums(surprisal, y.clipped, y.here))
    r = np.array([pearson_interval(sums, y.resamples, y.seed) for sums in pairs])
    to_model = pearson_interval(pair_sums(surprisal, whole.surprisal if whole else surprisal, y.here), y.resamples, y.seed)
    mean = lambda values: np.array(ratio_interval(np.where(y.here, values, 0.0).sum(1), counts, y.resamples, y.seed))
    return Score(r, np.array(to_model), mean(surprisal), mean(cross - y.entropy), surprisal)


# ---- along the depth


@dataclass(frozen=True, eq=False)
class Depth:
    """rotation [state, (to the input, to the output)] in degrees; covariance [state, state]; lens [state, (r with the output's
    surprisals, cross-entropy to the output's distribution in bits, recall of the input token at 1, 5, 10)]; `linear` r with the
    table of the model that is only the map from the first state to the output."""

    rotation: np.ndarray
    covariance: np.ndarray
    lens: np.ndarray
    linear: float


def depth(model: Model, yardstick: Yardstick, n_sequences: int) -> Depth:
    """Two passes over the first sequences: the maps, then what the maps predict."""
    yardstick = yardstick.first(n_sequences)
    ids, here = yardstick.ids, yardstick.here
    embed = model.module.get_submodule(model.layout.embed).weight
    streams = None
    size = batch_size(ids.shape[1], model.config.vocab_size)
    for lo in range(0, len(ids), size):
        states, tokens = _states(model, ids[lo : lo + size], here[lo : lo + size])
        streams = streams or Streams.empty(len(states), states[0].shape[1], embed.shape[1])
        streams.add(states, embed[tokens])
    to_input, to_output = streams.maps()
    lens, linear = _lens(model, yardstick, size, to_input, to_output)
    return Depth(np.stack([to_input.rotations(), to_output.rotations()], 1), streams.covariance_similarity(), lens, linear)


def _states(model: Model, ids: torch.Tensor, here: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
    """(states [token, d], token ids) of the positions that are scored."""
    chosen = torch.from_numpy(here)
    seen = record(model, ids)
    return [state[chosen.to(state.device)] for state in seen.states], ids[chosen].to(model.device)


def _lens(model: Model, y: Yardstick, size: int, to_input: LinearMaps, to_output: LinearMaps) -> tuple[np.ndarray, float]:
    ids, n_states = y.ids, len(to_output.weight)
    unembed, embed = head(model), model.module.get_submodule(model.layout.embed).weight
    sums = np.zeros((n_states, len(RECALL) + 1))
    own, lensed, expected, n = [], [[] for _ in range(n_states)], [], 0
    with torch.inference_mode():
        for lo in range(0, len(ids), size):
            here = y.here[lo : lo + size]
            states, tokens = _states(model, ids[lo : lo + size], here)
            following = torch.from_numpy(np.roll(ids[lo : lo + size].numpy(), -1, 1)[here]).to(model.device)
            final = unembed(states[-1]).float().log_softmax(-1)
            own.append(_of(final, following))
            expected.append(y.surprisal[lo : lo + size][here])
            n += len(tokens)
            for i, state in enumerate(states):
                mapped = (state.double() @ to_output.weight[i].to(state.device) + to_output.bias[i].to(state.device)).to(state.dtype)
                log_p = unembed(mapped).float().log_softmax(-1)
                lensed[i].append(_of(log_p, following))
                sums[i, 0] -= float((final.exp() * log_p).sum()) / LN2
                back = (state.double() @ to_input.weight[i].to(state.device) + to_input.bias[i].to(state.device)).to(embed.dtype) @ embed.T
                rank = (back > back.gather(1, tokens[:, None])).sum(1)
                sums[i, 1:] += [float((rank < k).sum()) for k in RECALL]
    own, expected, lensed = np.concatenate(own), np.concatenate(expected), [np.concatenate(x) for x in lensed]
    seen = np.isfinite(expected)
    r = [_r(x, own) for x in lensed]
    return np.concatenate([np.array(r)[:, None], sums / n], 1), _r(lensed[0][seen], expected[seen])


def _of(log_p: torch.Tensor, following: torch.Tensor) -> np.ndarray:
    return -log_p.gather(1, following[:, None])[:, 0].cpu().double().numpy() / LN2


def _r(x: np.ndarray, y: np.ndarray) -> float:
    return pearson_interval(pair_sums(x[None], y[None], np.ones((1, len(x)), bool)))[0]
