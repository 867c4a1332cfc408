"""From a text and a model to a Result: codes, their controls, neighbours of a passage, sparsity, attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from analysis.hash_codes import attention, probing, sparsity
from analysis.hash_codes.coding import Coded, coded, layers_of, of_units, places_of_bits, units_of
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
    with capture.model() as model, torch.no_grad():
        layers = layers_of(model)
        looked = tuple(layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, min(LOOKED, len(layers))).round().astype(int)))
        units = units_of(params.unit, tokens.ids, counted.numpy(), params.units, params.seed)
        text = np.where(tokens.keep, tokens.ids, -1)
        label, classes = probing.label_of(tokens.labels, params.label, units.sequence)
        split = probing.halves(units, classes, params.seed) if label else None
        query = query_of(model, params, tokens)
        with coded(model, ids, counted, params, units, looked if split else (), hyper=True, progress=Stage(progress, 0, 0.3)) as of:
            own = _own_codes(of, units, counted.numpy())
            found = _rows(params, of, own, {"sign codes": of.signs, "random hyperplanes": of.hyper}, units, text, counted.numpy(), classes, split, looked, Stage(progress, 0.3, 0.45))
            neighbours, row_codes = neighbours_of(model, params, of, own, query, units, tokens, counted.numpy())
            raw = {i: r for i, r in zip(of.layers, of.raw) if r is not None}
            for i, x in raw.items():
                found[1].extend(probing.probe_rows(i, "pre-activations", x, units, classes, split, params.seed, None))
            on, near, planes = of.planes_on, of.near, of.planes
            nearest = np.stack([_nearest(np.concatenate(own[s], 1)) for s in ("sign codes", "random hyperplanes")])
            stored = max(min(len(units.flat), STORED // max(sum(c.shape[1] for c in own["sign codes"]), 1)), 1)
            kept = np.stack(own["sign codes"], 1)[:stored]
        with coded(untrained(model, params.seed), ids, counted, params, layers=layers, progress=Stage(progress, 0.45, 0.55)) as of:
            more = _rows(params, of, {"untrained network": [of_units(s, units, counted.numpy()) for s in of.signs]}, {"untrained network": of.signs}, units, text, counted.numpy(), classes, split, looked, Stage(progress, 0.55, 0.6))
        if split:
            found[1].extend(_controls(params, own, units, classes, split, looked, layers))
        predictor, damage = _sparsity(model, layers, ids, counted, params, Stage(progress, 0.6, 0.9))
        seen, note = _attention(model, ids, keep, params, Stage(progress, 0.9, 1))
        activation = next((getattr(model.config, f) for f in ("activation_function", "hidden_activation", "hidden_act") if getattr(model.config, f, None)), "")
        used = np.unique(np.concatenate([tokens.ids[tokens.keep], neighbours.ids[neighbours.ids >= 0], query.ids]))
        texts = tuple(model.tokenizer.decode([int(i)]) for i in used)
        return Result(
            "mlp_pre" if planes == ("pre",) else "mlp_pre (gate)" + (" and mlp_up" if len(planes) > 1 else ""), planes, str(model.module.dtype).removeprefix("torch."), str(activation),
            str(activation) == "relu" and len(planes) == 1 and planes[0] == "pre", model.n_layers, on.shape[2], np.array(layers), np.array(looked), params.unit, len(units.flat), int(counted.sum()),
            int(_fresh_rows(text, counted.numpy()).sum()), on, near, probing.table(found[0] + more[0]), label, _names(tokens, label, classes), probing.table(found[1] + more[1]),
            kept, units.sequence[:stored], units.position[:stored], tokens.ids.reshape(-1)[units.flat[:stored]], nearest, row_codes, query.ids, vars(neighbours), used, texts,
            predictor.told, predictor.base, predictor.small, probing.table(damage), **seen, attention_note=note,
        )


def _own_codes(of: Coded, units, counted: np.ndarray) -> dict[str, list]:
    return {"sign codes": [of_units(s, units, counted) for s in of.signs], "random hyperplanes": [of_units(s, units, counted) for s in of.hyper]}


def _fresh_rows(text: np.ndarray, counted: np.ndarray) -> np.ndarray:
    from analysis.hash_codes.coding import fresh

    return fresh(text, counted)


def _rows(params, of: Coded, own: dict, per_token: dict, units, text, counted, classes, split, looked, progress) -> tuple[list, list]:
    """Redundancy and probes of each source, for every layer looked at and for all of them side by side."""
    new, r_rows, p_rows = _fresh_rows(text, counted), [], []
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


def _controls(params, own: dict, units, classes, split, looked, layers) -> list[dict]:
    """Chance twice: the most frequent class, and the codes themselves against labels dealt out anew."""
    together = np.concatenate([own["sign codes"][layers.index(i)] for i in looked], 1)
    dealt = probing.shuffled(classes, params.seed)
    rows = probing.probe_rows(probing.ALL, "shuffled labels", together, units, dealt, probing.halves(units, dealt, params.seed), params.seed, together.shape[1] * 8)
    return rows + probing.chance_rows(units, classes, split, params.seed)


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


def _sparsity(model, layers, ids, counted, params, progress):
    """Fit on the first half of the sequences, score on the second, mask on the first of those."""
    half = max(len(ids) // 2, 1)
    rest = slice(half, None) if len(ids) > 1 else slice(0, 1)
    if not bool(counted[:half].any() and counted[rest].any()):
        raise Refused("The text is too short to fit the sign predictor on one half and to test it on the other; ask for more sequences.")
    predictor = sparsity.fitted(model, layers, (ids[:half], counted[:half]), (ids[rest], counted[rest]), params, Stage(progress, 0, 0.3))
    few = slice(rest.start, rest.start + params.sparsity_sequences)
    return predictor, sparsity.damage(model, predictor, ids[few], counted[few], params, progress, 300, 1000)


def _attention(model, ids, keep, params, progress) -> tuple[dict, str]:
    """On the longest sequences; empty arrays and the reason where attention cannot be read."""
    longest = np.sort(np.argsort(-keep.sum(1).numpy(), kind="stable")[: params.attention_sequences])
    try:
        return attention.recall(model, ids[longest], keep[longest], params.keys, params.seed, progress), ""
    except NotApplicable as why:
        return dict(recall=np.zeros((0, 0, 0, 0)), mass=np.zeros((0, 0, 0, 0)), true_mass=np.zeros((0, 0)), chance=float("nan"), by_sequence=np.zeros((0, 0, 0)), n_queries=0), str(why)
