"""From a text and a model to a Result: codes, their controls, neighbours of a passage, sparsity, attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from analysis.hash_codes import attention, probing, sparsity
from analysis.hash_codes.coding import Coded, Units, coded, fresh, layers_of, of_units, places_of_bits, planes_of, units_of
from analysis.hash_codes.passage import neighbours_of, query_of
from kernels import hamming
from metrics.code_probes import NEIGHBOURS
from models.progress import Stage
from models.refusal import NotApplicable, Refused
from models.untrained import untrained

LOOKED = 8  # layers that are probed; a deeper model's are evenly spaced
STORED = 48 << 20  # bytes of codes kept to be compared with another model's


@dataclass(frozen=True, eq=False)
class Result:
    """What the codes are of (site, planes, dtype, threshold, activation; `affine` where the activation is ReLU), then the measurements.

    layers int64 [layer] by the index of the unmodified checkpoint; looked: those probed
    on_fraction  float64 [plane, layer, d_mlp]; near float64 [layer], share of pre-activations within 0.001 of the threshold
    redundancy   rows (layer, source, bits, texts, n, r, effective_bits); layer −1 is all that were looked at, side by side
    probes       rows (layer, source, reader, accuracy, low, high, n); empty without labels
    codes        uint8 [unit, layer, bytes] with sequence, position, token int64 [unit]: what a second model is compared on
    nearest      int64 [source (sign codes, hyperplanes), unit, 9]: neighbours among the units
    row_codes    uint8 [position, layer, bytes] of the passage or row looked at; row_ids int64 [position]
    neighbours   the fields of passage.Neighbours
    told, base, small, damage   see sparsity
    recall, mass [method, bits, layer, head], chance, by_sequence   see attention; recall is empty where attention cannot be read
    """

    site: str
    planes: tuple
    dtype: str
    activation: str
    affine: bool
    n_layers: int
    d_mlp: int
    layers: np.ndarray
    looked: np.ndarray
    unit: str
    n_units: int
    n_counted: int
    n_fresh: int
    on_fraction: np.ndarray
    near: np.ndarray
    redundancy: pa.Table
    label: str
    classes: tuple
    probes: pa.Table
    codes: np.ndarray
    sequence: np.ndarray
    position: np.ndarray
    token: np.ndarray
    nearest: np.ndarray
    row_codes: np.ndarray
    row_ids: np.ndarray
    neighbours: dict
    token_ids: np.ndarray
    token_texts: tuple
    told: np.ndarray
    base: np.ndarray
    small: np.ndarray
    damage: pa.Table
    recall: np.ndarray
    mass: np.ndarray
    true_mass: np.ndarray
    chance: float
    by_sequence: np.ndarray
    n_queries: int
    attention_note: str


def compute(captures, params, progress) -> Result:
    (capture,) = captures
    tokens = capture.tokens
    if params.label and params.label not in tokens.labels:
        raise Refused(f"This text has no label “{params.label[:40]}”; it has {', '.join(tokens.labels) or 'none'}.")
    ids, keep = capture.ids, capture.keep
    counted = keep.clone()
    counted[:, 0] = False  # BOS, or the first token: the same for many sequences
    if not bool(counted.any()):
        raise Refused("No token is left to code beyond the first of each sequence; ask for longer sequences.")
    done = progress.saved() or {}

    def once(name: str, work) -> dict:
        """What a stage found, kept for a run that is cut off after it."""
        if name not in done:
            done[name] = work()
            progress.save(done, force=True)
        return done[name]

    with capture.model() as model, torch.no_grad():
        layers = layers_of(model)
        looked = tuple(layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, min(LOOKED, len(layers))).round().astype(int)))
        units = units_of(params.unit, tokens.ids, counted.numpy(), params.units, params.seed)
        label, classes = probing.label_of(tokens.labels, params.label, units.sequence)
        if params.label and not label:
            raise Refused(probing.unusable(tokens.labels, params.label, units.sequence))
        text = _Text(tokens, ids, counted, units, np.where(tokens.keep, tokens.ids, -1), classes, probing.halves(units, classes, params.seed) if label else None, layers, looked)
        query = query_of(model, params, tokens)
        own = once("codes", lambda: _codes(model, params, text, query, Stage(progress, 0, 0.45)))
        bare = once("untrained", lambda: _untrained(model, params, text, Stage(progress, 0.45, 0.6)))
        sparse = once("sparsity", lambda: _sparsity(model, layers, ids, counted, params, Stage(progress, 0.6, 0.9)))
        seen = once("attention", lambda: _attention(model, ids, keep, params, Stage(progress, 0.9, 1)))
        activation = next((getattr(model.config, f) for f in ("activation_function", "hidden_activation", "hidden_act") if getattr(model.config, f, None)), "")
        planes, on, stored = planes_of(model, params.up), own["on"], len(own["kept"])
        used = np.unique(np.concatenate([tokens.ids[tokens.keep], own["neighbours"]["ids"][own["neighbours"]["ids"] >= 0], query.ids]))
        return Result(
            "mlp_pre" if planes == ("pre",) else "mlp_pre (gate)" + (" and mlp_up" if len(planes) > 1 else ""), planes, str(model.module.dtype).removeprefix("torch."), str(activation),
            str(activation) == "relu" and planes == ("pre",), model.n_layers, on.shape[2], np.array(layers), np.array(looked), params.unit, len(units.flat), int(counted.sum()),
            int(fresh(text.read, counted.numpy()).sum()), on, own["near"], probing.table(own["redundancy"] + bare["redundancy"]), label, _names(tokens, label, classes), probing.table(own["probes"] + bare["probes"]),
            own["kept"], units.sequence[:stored], units.position[:stored], tokens.ids.reshape(-1)[units.flat[:stored]], own["nearest"], own["row_codes"], query.ids, own["neighbours"], used,
            tuple(model.tokenizer.decode([int(i)]) for i in used), sparse["told"], sparse["base"], sparse["small"], probing.table(sparse["damage"]), **seen,
        )


@dataclass(frozen=True, eq=False)
class _Text:
    """What is coded: tokens with their labels, ids and counted [sequence, position], the units, ids with −1 on padding, the class of
    each sequence, the split of units for probes (None without a label), all layers and those looked at."""

    tokens: object
    ids: torch.Tensor
    counted: torch.Tensor
    units: Units
    read: np.ndarray
    classes: np.ndarray
    split: tuple | None
    layers: tuple
    looked: tuple


def _codes(model, params, text: _Text, query, progress) -> dict:
    """All that is read off the model's own codes, their hyperplanes and the pre-activations."""
    counted, units = text.counted.numpy(), text.units
    with coded(model, text.ids, text.counted, params, units, text.looked if text.split else (), hyper=True, progress=Stage(progress, 0, 0.67)) as of:
        own = _own_codes(of, units, counted)
        redundancy, probes = _rows(params, of, own, {"sign codes": of.signs, "random hyperplanes": of.hyper}, text, Stage(progress, 0.67, 1))
        neighbours, row_codes = neighbours_of(model, params, of, own, query, units, text.tokens, counted)
        if text.split:
            for i, x in zip(of.layers, of.raw):
                probes += [] if x is None else probing.probe_rows(i, "pre-activations", x, units, text.classes, text.split, params.seed, None)
            probes += _controls(params, own, text)
        nearest = np.stack([_nearest(np.concatenate(own[s], 1)) for s in ("sign codes", "random hyperplanes")])
        stored = max(min(len(units.flat), STORED // max(sum(c.shape[1] for c in own["sign codes"]), 1)), 1)
        return dict(on=of.planes_on, near=of.near, redundancy=redundancy, probes=probes, neighbours=vars(neighbours), row_codes=row_codes, nearest=nearest, kept=np.stack(own["sign codes"], 1)[:stored])


def _untrained(model, params, text: _Text, progress) -> dict:
    """R and probes of an untrained network of the same shape."""
    with coded(untrained(model, params.seed), text.ids, text.counted, params, layers=text.layers, progress=Stage(progress, 0, 0.67)) as of:
        codes = {"untrained network": [of_units(s, text.units, text.counted.numpy()) for s in of.signs]}
        redundancy, probes = _rows(params, of, codes, {"untrained network": of.signs}, text, Stage(progress, 0.67, 1))
    return dict(redundancy=redundancy, probes=probes)


def _own_codes(of: Coded, units, counted: np.ndarray) -> dict[str, list]:
    return {"sign codes": [of_units(s, units, counted) for s in of.signs], "random hyperplanes": [of_units(s, units, counted) for s in of.hyper]}


def _rows(params, of: Coded, own: dict, per_token: dict, text: _Text, progress) -> tuple[list, list]:
    """Redundancy and probes of each source, for every layer looked at and for all of them side by side."""
    counted, units, classes, split, looked = text.counted.numpy(), text.units, text.classes, text.split, text.looked
    new, r_rows, p_rows = fresh(text.read, counted), [], []
    if units.kind == "token":
        groups = {"all": np.flatnonzero(counted.reshape(-1)), "without shared prefixes": np.flatnonzero(new.reshape(-1))}
    else:
        groups = {"without shared prefixes": np.arange(len(units.flat))}
    for source, codes in own.items():
        of_r = per_token[source] if units.kind == "token" else codes
        n_planes = 1 if source == "random hyperplanes" else len(of.planes)
        bits = places_of_bits(of.planes_on.shape[2] * len(of.planes) // n_planes, n_planes)
        for k, i in enumerate(looked):
            progress.step(k, len(looked), f"{source}: what block {i} tells")
            j = of.layers.index(i)
            r_rows += probing.redundancy_rows(i, source, of_r[j], bits, groups, params.seed)
            if split:
                p_rows += probing.probe_rows(i, source, codes[j], units, classes, split, params.seed, len(bits))
        at = [of.layers.index(i) for i in looked]
        width = of_r[0].shape[1] * 8
        together = np.concatenate([n * width + bits for n in range(len(at))])
        r_rows += probing.redundancy_rows(probing.ALL, source, np.concatenate([of_r[j] for j in at], 1), together, groups, params.seed)
        if split:
            p_rows += probing.probe_rows(probing.ALL, source, np.concatenate([codes[j] for j in at], 1), units, classes, split, params.seed, len(together))
    return r_rows, p_rows


def _controls(params, own: dict, text: _Text) -> list[dict]:
    """Chance twice: the most frequent class, and the codes themselves against labels dealt out anew."""
    together = np.concatenate([own["sign codes"][text.layers.index(i)] for i in text.looked], 1)
    dealt = probing.shuffled(text.classes, params.seed)
    rows = probing.probe_rows(probing.ALL, "shuffled labels", together, text.units, dealt, probing.halves(text.units, dealt, params.seed), params.seed, together.shape[1] * 8)
    return rows + probing.chance_rows(text.units, text.classes, text.split, params.seed)


def _nearest(codes: np.ndarray) -> np.ndarray:
    """int64 [unit, 9]: neighbours of each unit among the others."""
    codes = np.ascontiguousarray(codes)
    found, _ = hamming.nearest(codes, codes, NEIGHBOURS + 1)
    own = found == np.arange(len(codes))[:, None]
    own[~own.any(1), -1] = True  # ten others at distance 0: the last is left out instead
    return found[~own].reshape(len(codes), -1)


def _names(tokens, label: str, classes: np.ndarray) -> tuple:
    if not label:
        return ()
    values = tokens.labels[label].astype(str)
    return tuple(str(values[np.flatnonzero(classes == c)[0]]) for c in range(classes.max() + 1))


def _sparsity(model, layers, ids, counted, params, progress) -> dict:
    """Fit on the first half of the sequences, score on the second, mask on the first of those."""
    half = max(len(ids) // 2, 1)
    rest = slice(half, None) if len(ids) > 1 else slice(0, 1)
    if not bool(counted[:half].any() and counted[rest].any()):
        raise Refused("The text is too short to fit the sign predictor on one half and to test it on the other; ask for more sequences.")
    predictor = sparsity.fitted(model, layers, (ids[:half], counted[:half]), (ids[rest], counted[rest]), params, Stage(progress, 0, 0.3))
    few = slice(rest.start, rest.start + params.sparsity_sequences)
    damage = sparsity.damage(model, predictor, ids[few], counted[few], params, Stage(progress, 0.3, 1).part("masking"))
    return dict(told=predictor.told, base=predictor.base, small=predictor.small, damage=damage)


def _attention(model, ids, keep, params, progress) -> dict:
    """On the longest sequences; empty arrays and the reason where attention cannot be read."""
    longest = np.sort(np.argsort(-keep.sum(1).numpy(), kind="stable")[: params.attention_sequences])
    try:
        return dict(attention.recall(model, ids[longest], keep[longest], params.keys, params.seed, progress.part("attention")), attention_note="")
    except NotApplicable as why:
        none = lambda axes: np.zeros((0,) * axes)
        return dict(recall=none(4), mass=none(4), true_mass=none(2), chance=float("nan"), by_sequence=none(3), n_queries=0, attention_note=str(why))
