"""What is stored: every axis named, nothing that a display parameter decides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RULES = ("dropped", "clipped")  # pairs that the table has never seen: left out, or at its largest finite surprisal
ROLES = ("alone", "random alone", "ablated", "random ablated")
BASE = ("full", "empty")
CURVES = ("loss", "active", "r", "undecided")
LENS = ("r with the output", "cross-entropy to the output, bits", "recall of the input at 1", "recall at 5", "recall at 10")


@dataclass(frozen=True, eq=False)
class Result:
    """Axes: mask is every mask looked at, `kind` "bigram", "optimal", "imported" or "before" (trained on the model before its
    compression), with its λ in `penalty`; role as in ROLES, random ones being the mean of the draws with their range; rule as in
    RULES; block is the index in the unmodified checkpoint. A last axis of 3 is (value, low, high), 95 % over sequences.

    active [mask] weights of n_weights                       layer [mask, block, component], head [mask, block, Q K V O, head]
    r [rule, mask, role, 3]   with the table's surprisals    loss, excess [mask, role, 3]   bits: mean surprisal, cross-entropy
    to_model [mask, 3]        with the whole model's                                        to the table above its entropy
    base_r [rule, base, 3], base_loss, base_excess [base, 3]                                base as in BASE
    curves [curve, mask, step]   as in CURVES, NaN after the stop   gap [mask]   nats, hard minus soft mask on the last batch
    pair [pair, 2]   two masks   shared [pair, 7]   shared, a, b, n, expected, spread, expected when whole rows are shuffled
    view_mask [view] (−1: the whole model), view_role   rotation [view, state, 2] degrees   covariance [view, state, state]
    lens [view, state, 5] as in LENS   linear [view]   r with the table of the map from the first state to the output
    pruned [mask, 3]   of a "before" mask: share of its weights that are zero now, that of all weights, z against a random mask
    moved [mask, 2]    root mean square change over root mean square weight, of its weights that are left and of all that are
    along_* [checkpoint, bigram λ …], control_* [control …]   where they were asked for, else empty
    """

    kind: np.ndarray
    penalty: np.ndarray
    active: np.ndarray
    n_weights: int
    n_layers: int
    components: tuple[str, ...]
    n_heads: int
    n_kv: int
    layer: np.ndarray
    layer_total: np.ndarray
    head: np.ndarray
    head_total: np.ndarray
    r: np.ndarray
    loss: np.ndarray
    excess: np.ndarray
    to_model: np.ndarray
    base_r: np.ndarray
    base_loss: np.ndarray
    base_excess: np.ndarray
    curves: np.ndarray
    gap: np.ndarray
    settled: np.ndarray
    stable: np.ndarray
    attempt: np.ndarray
    pair: np.ndarray
    shared: np.ndarray
    view_mask: np.ndarray
    view_role: np.ndarray
    rotation: np.ndarray
    covariance: np.ndarray
    lens: np.ndarray
    linear: np.ndarray
    pruned: np.ndarray
    moved: np.ndarray
    prompt: str
    text_mask: np.ndarray
    text_role: tuple[str, ...]
    texts: tuple[str, ...]
    along: tuple[str, ...]
    along_active: np.ndarray
    along_r: np.ndarray
    along_base: np.ndarray
    along_layer: np.ndarray
    controls: tuple[str, ...]
    control_active: np.ndarray
    control_r: np.ndarray
    schedule: dict
    table: str
    n_pairs: int
    n_unseen: int  # tokens that the table never saw as previous
    table_loss: float  # bits, mean surprisal of the seen pairs
    table_entropy: float  # bits, mean over scored positions: the floor of the cross-entropy
    n_scored: int
    n_dropped: int  # scored tokens whose pair the table has never seen
    n_train: int  # sequences
    n_geometry: int  # tokens
    draws: int

    def of_kind(self, *kinds: str) -> np.ndarray:
        """Positions of masks, in the order of λ."""
        return np.flatnonzero(np.isin(self.kind, kinds))
