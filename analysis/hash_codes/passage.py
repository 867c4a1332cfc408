"""A passage and the places of the corpus whose codes lie nearest to its own, compared token by token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from analysis.hash_codes.coding import Coded, coded, of_units
from kernels import hamming
from metrics import codes
from models.refusal import Refused

SHOWN, WINDOW = 8, 12  # neighbours, and tokens of each up to the one that was found


@dataclass(frozen=True, eq=False)
class Query:
    """ids int64 [position]; at: the token whose neighbours are sought; sequence: its row of the corpus, −1 for a text of one's own."""

    ids: np.ndarray
    at: int
    sequence: int


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Axes: source (sign codes, hyperplanes), row (the passage itself, then its neighbours, nearest first), place (WINDOW tokens, the
    last is the one found; of a whole sequence, its first tokens).

    ids int64, −1 outside the text; share float64: share of bits that differ from the passage's code at the same place (of a whole
    sequence: from its code); sequence, position, distance int64 [source, row]; median float64 [source]: share of bits differing
    between the passage and the median text.
    """

    ids: np.ndarray
    share: np.ndarray
    sequence: np.ndarray
    position: np.ndarray
    distance: np.ndarray
    median: np.ndarray
    n_bits: int
    n_searched: int


def query_of(model, params, tokens) -> Query:
    """The passage typed, else the row chosen, up to the token chosen."""
    if params.passage.strip():
        tokenizer = model.tokenizer
        text = tokenizer(params.passage, add_special_tokens=False)["input_ids"]
        front = [tokenizer.bos_token_id] if len(tokens.ids) and tokenizer.bos_token_id is not None and (tokens.ids[:, 0] == tokenizer.bos_token_id).all() else []
        ids = np.array(front + text, np.int64)
        limit = getattr(model.config, "max_position_embeddings", None) or len(ids)
        if len(ids) < 2 or len(ids) > limit:
            raise Refused(f"The passage has {len(text)} tokens; expected {2 - len(front)} to {limit - len(front)}.")
        return Query(ids, len(ids) - 1, -1)
    if params.row >= len(tokens.ids):
        raise Refused(f"Row {params.row} does not exist; the text has rows 0–{len(tokens.ids) - 1}.")
    n = int(tokens.keep[params.row].nonzero()[0].max(initial=-1)) + 1
    at = n - 1 if params.position < 0 else params.position
    if not 1 <= at < n:
        raise Refused(f"Position {params.position} is not in row {params.row}, which has positions 1–{n - 1}.")
    return Query(tokens.ids[params.row, :n].copy(), at, params.row)


def neighbours_of(model, params, of: Coded, own: dict, query: Query, units, tokens, counted: np.ndarray) -> tuple[Neighbours, np.ndarray]:
    """(neighbours in both codes, the passage's own sign codes uint8 [position, layer, bytes])."""
    if params.layer >= 0 and params.layer not in of.layers:
        raise Refused(f"Block {params.layer} has no MLP to take codes from; known: {', '.join(map(str, of.layers))}, or −1 for all.")
    chosen = [of.layers.index(params.layer)] if params.layer >= 0 else list(range(len(of.layers)))
    ids = torch.from_numpy(query.ids)[None]
    here = torch.ones_like(ids, dtype=torch.bool)
    here[:, 0] = False
    with coded(model, ids, here, params, hyper=True, centres=of.centres) as asked:
        mine = {"sign codes": np.concatenate([asked.signs[j] for j in chosen], 1), "random hyperplanes": np.concatenate([asked.hyper[j] for j in chosen], 1)}
        row_codes = np.stack(asked.signs, 1)
    length, parts = tokens.ids.shape[1], []
    for source, every in (("sign codes", of.signs), ("random hyperplanes", of.hyper)):
        per_token = np.concatenate([every[j] for j in chosen], 1)
        if units.kind == "sequence":
            from analysis.hash_codes.coding import Units

            one = Units("sequence", np.array([0]), np.array([query.at]), np.array([query.at]), 1)
            asked_code = of_units(mine[source], one, here.numpy())
        else:
            asked_code = np.ascontiguousarray(mine[source][query.at : query.at + 1])
        flat = units.flat[units.sequence != query.sequence]
        searched = np.concatenate([own[source][j] for j in chosen], 1)[units.sequence != query.sequence]
        if not len(flat):
            raise Refused("There is nothing to search: the text has no other sequence than the one chosen.")
        order, distance = hamming.nearest(np.ascontiguousarray(searched), asked_code, SHOWN)
        every_distance = codes.distances(searched, np.repeat(asked_code, len(searched), 0))
        parts.append(_windows(query, mine[source], asked_code, per_token, flat[order[0]], distance[0], units.kind, tokens, length, np.median(every_distance)))
    n_bits = len(chosen) * len(of.planes) * of.planes_on.shape[2]
    stack = [np.stack(each) for each in zip(*parts)]
    ids_, share, sequence, position, distance, median = stack
    return Neighbours(ids_, share / n_bits, sequence, position, distance, median / n_bits, n_bits, len(flat)), row_codes


def _windows(query: Query, mine, whole, per_token, flat, distance, kind: str, tokens, length: int, median: float) -> tuple:
    """One source's arrays [row, place]; bits differing, −1 outside the text and at position 0."""
    n = 1 + len(flat)
    ids, bits = np.full((1 + SHOWN, WINDOW), -1, np.int64), np.full((1 + SHOWN, WINDOW), np.nan)
    sequence, position, far = (np.full(1 + SHOWN, -1, np.int64) for _ in range(3))
    sequence[0], position[0], far[0] = query.sequence, query.at, 0
    sequence[1:n], position[1:n], far[1:n] = flat // length, flat % length, distance
    for r in range(n):
        end = min(WINDOW, len(query.ids) if r == 0 else int(tokens.keep[sequence[r]].sum())) - 1 if kind == "sequence" else position[r]
        for w in range(WINDOW):
            p = end - (WINDOW - 1 - w)
            mate = query.at - (WINDOW - 1 - w)
            if p < 0:
                continue
            ids[r, w] = query.ids[p] if r == 0 else tokens.ids[sequence[r], p]
            code = mine[p] if r == 0 else per_token[sequence[r] * length + p]
            against = whole[0] if kind == "sequence" else mine[mate] if mate > 0 else None
            if p > 0 and against is not None:
                bits[r, w] = codes.distances(np.ascontiguousarray(code)[None], np.ascontiguousarray(against)[None])[0]
    return ids, bits, sequence, position, far, np.float64(median)
