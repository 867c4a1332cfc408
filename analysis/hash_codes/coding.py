"""Codes of a text, gathered while the model runs: sign codes of the MLPs' pre-activations and random hyperplanes of as many bits."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from kernels.sign_codes import SignCodes
from metrics import codes
from models.layout import Site
from models.loaded import Model
from models.refusal import NotApplicable
from models.stream import Request, stream

MARGIN = 1e-3  # a pre-activation this near to the threshold may flip by rounding alone
SITES = {"pre": "mlp_pre", "gate": "mlp_pre", "up": "mlp_up"}


class Hyperplanes:
    """A statistic: on which side of `n_bits` random hyperplanes each input lies. They go through `centre`, by default the mean of
    the first batch. Planes depend on seed and shape only, so two models of one width share them."""

    def __init__(self, n_channels: int, n_bits: int, seed: int, sink: Path | None = None, centre: torch.Tensor | None = None):
        self.planes = torch.randn(n_channels, n_bits, generator=torch.Generator().manual_seed(seed))
        self.centre, self.signs = centre, SignCodes(n_bits, sink)

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        x = x.float()
        if self.centre is None:
            self.centre = (x if keep is None else x[keep]).mean(0)
        self.signs.add((x - self.centre) @ self.planes.to(x.device), keep, start)


class Near:
    """A statistic: how many values lie within MARGIN of the threshold."""

    def __init__(self, threshold: float):
        self.threshold, self.near, self.count = threshold, 0, 0

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        x = x if keep is None else x[keep]
        self.near, self.count = self.near + int(((x - self.threshold).abs() < MARGIN).sum()), self.count + x.numel()


class Pooled:
    """A statistic: the values themselves, float32 [unit, channel], at chosen tokens, or their mean over each sequence's kept tokens."""

    def __init__(self, n_channels: int, units: Units, length: int):
        self.units, self.length = units, length
        self.sums = torch.zeros(units.n_sequences if units.kind == "sequence" else len(units.flat), n_channels)
        self.counts = torch.zeros(len(self.sums))

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        x = x.float().cpu()
        if self.units.kind == "sequence":
            sequence = (start + torch.arange(len(x))) // self.length
            here = slice(None) if keep is None else keep.cpu()
            self.sums.index_add_(0, sequence[here], x[here])
            self.counts.index_add_(0, sequence[here], torch.ones(len(sequence[here])))
        else:
            lo, hi = np.searchsorted(self.units.flat, (start, start + len(x)))
            self.sums[lo:hi], self.counts[lo:hi] = x[torch.from_numpy(self.units.flat[lo:hi] - start)], 1

    def values(self) -> np.ndarray:
        found = self.sums / self.counts.clamp(min=1)[:, None]
        return (found[torch.from_numpy(self.units.sequence)] if self.units.kind == "sequence" else found).numpy()


@dataclass(frozen=True, eq=False)
class Units:
    """What gets one code each. sequence, position, flat int64 [unit], in the order of the text; the position of a whole sequence is
    that of its last token. `flat` is sequence × length + position."""

    kind: str  # "token", "last token", "sequence"
    sequence: np.ndarray
    position: np.ndarray
    flat: np.ndarray
    n_sequences: int


def fresh(ids: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """bool [sequence, position]: counted tokens whose text from the start of the sequence has not been read in an earlier sequence.
    A causal model gives the others the same code by construction."""
    group, out = np.zeros(len(ids), np.int64), counted.copy()
    for t in range(ids.shape[1]):
        _, first, group = np.unique(np.stack([group, ids[:, t]], 1), axis=0, return_index=True, return_inverse=True)
        group = group.reshape(-1)
        out[:, t] &= first[group] == np.arange(len(ids))
    return out


def units_of(kind: str, ids: np.ndarray, counted: np.ndarray, most: int, seed: int) -> Units:
    """At most `most` units, drawn with `seed`, without texts that stand in the corpus twice (a prefix, or the whole sequence)."""
    n, length = ids.shape
    new = fresh(ids, counted)
    last = length - 1 - counted[:, ::-1].argmax(1)
    if kind == "token":
        flat = np.flatnonzero(new.reshape(-1))
    else:
        flat = np.flatnonzero(new[np.arange(n), last] & counted.any(1)) * length
        flat += last[flat // length]
    if len(flat) > most:
        flat = np.sort(np.random.default_rng(seed).choice(flat, most, replace=False))
    return Units(kind, flat // length, flat % length, flat, n)


@dataclass(frozen=True, eq=False)
class Coded:
    """One model's codes of a text. Lists run over `layers`; planes are ("pre",) or ("gate", "up").

    signs    uint8 [token, bytes] of all planes side by side, by flat token index; tokens that do not count are 0
    planes_on float64 [plane, layer, d_mlp], share of counted tokens a unit is on for
    near     float64 [layer], share of pre-activations within MARGIN of the threshold
    hyper    like signs, of random hyperplanes on the MLP's input; centres: where they go through, for further text
    raw      float32 [unit, d_mlp · planes], the pre-activations themselves, for the layers in `looked` else None
    """

    layers: tuple[int, ...]
    planes: tuple[str, ...]
    signs: list
    planes_on: np.ndarray
    near: np.ndarray
    hyper: list
    centres: list
    raw: list


def planes_of(model: Model, up: bool) -> tuple[str, ...]:
    return ("pre",) if model.layout.mlp_gated is None else ("gate", "up") if up else ("gate",)


def layers_of(model: Model) -> tuple[int, ...]:
    found = tuple(i for i in range(model.n_layers) if (i, "mlp") not in model.removed)
    if not found:
        raise NotApplicable("Every MLP of this model has been removed, so there is no pre-activation to code.")
    return found


def sign_requests(layers: tuple[int, ...], planes: tuple[str, ...], threshold: float, folder: Path | None) -> list[Request]:
    """Sign codes of every plane of every layer; the whole cost of coding a text (benchmarks/hash_codes.py)."""
    sink = lambda i, p: None if folder is None else folder / f"{i}-{p}.bin"
    return [Request(lambda c, i=i, p=p: SignCodes(c, sink(i, p), threshold), (Site(i, SITES[p]),)) for i in layers for p in planes]


@contextmanager
def coded(model: Model, ids: torch.Tensor, counted: torch.Tensor, params, units: Units | None = None, looked: tuple[int, ...] = (), hyper: bool = False,
          centres: list | None = None, progress=None, layers: tuple[int, ...] | None = None):
    """Codes of ids [sequence, position], on disk while the context is open: -> Coded."""
    layers, planes = layers or layers_of(model), planes_of(model, params.up)
    with TemporaryDirectory(prefix="microtome-codes-") as held:
        folder, n = Path(held), len(planes)
        requests = sign_requests(layers, planes, params.threshold, folder)
        requests += [Request(Near(params.threshold), (Site(i, "mlp_pre"),)) for i in layers]
        if hyper:
            d_mlp = model.matrix(layers[0], model.layout.mlp_input).shape[0]
            requests += [Request(lambda c, j=j, i=i: Hyperplanes(c, n * d_mlp, 1000 * params.seed + i, folder / f"{i}-h.bin", centres and centres[j]),
                                 (Site(i, "mlp_in"),)) for j, i in enumerate(layers)]
        at = len(requests)
        requests += [Request(lambda c: Pooled(c, units, ids.shape[1]), (Site(i, SITES[p]),)) for i in looked for p in planes]
        found = stream(model, ids, counted, requests, progress=progress)
        each, near = found[: n * len(layers)], found[n * len(layers) :][: len(layers)]
        planed = found[(n + 1) * len(layers) : at]
        rows = {i: np.concatenate([s.values() for s in found[at + n * k :][:n]], 1) for k, i in enumerate(looked)}
        signs = [each[n * j].codes() if n == 1 else np.concatenate([s.codes() for s in each[n * j :][:n]], 1) for j in range(len(layers))]
        on = np.stack([np.stack([each[n * j + p].on_fraction.numpy() for j in range(len(layers))]) for p in range(n)])
        yield Coded(layers, planes, signs, on, np.array([s.near / max(s.count, 1) for s in near]), [s.signs.codes() for s in planed],
                    [s.centre for s in planed], [rows.get(i) for i in layers])


def of_units(per_token: np.ndarray, units: Units, counted: np.ndarray) -> np.ndarray:
    """uint8 [unit, bytes]: a token's own code; of a sequence, the bits that are on for more than half of its counted tokens."""
    if units.kind != "sequence":
        return np.ascontiguousarray(per_token[units.flat])
    length, out = counted.shape[1], []
    for s in units.sequence:
        bits = codes.unpack(np.ascontiguousarray(per_token[s * length : (s + 1) * length][counted[s]]), per_token.shape[1] * 8)
        out.append(codes.pack((2 * bits.sum(0, keepdims=True) > len(bits)))[0])
    return np.array(out)


def picked(packed: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """uint8 [code, bytes] of chosen bits of packed codes."""
    return codes.pack((packed[:, bits // 8] >> (bits % 8).astype(np.uint8)) & 1 > 0)


def places_of_bits(d_mlp: int, n_planes: int) -> np.ndarray:
    """Where the bits of a layer's code stand among its padded bytes, int64 [n_planes · d_mlp]."""
    padded = 64 * -(-d_mlp // 64)
    return np.concatenate([p * padded + np.arange(d_mlp) for p in range(n_planes)])
