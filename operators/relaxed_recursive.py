"""Run the first part of the blocks in a loop, and let a thin product beside every shared matrix give each block some of its own back.

With `loops` the L blocks become K = ⌈L / loops⌉ shared ones that run one after another, `loops` times: block l uses shared block l mod K.
The shared block starts from the blocks it stands for: their first (lower), their mean (average), or blocks at even steps through the depth, the
first and the last among them (stepwise). Each block's difference, W_l − W′, is cut to its `rank` leading singular values: W′ + B_l A_l.
Rank 0 is plain tying; where loop and products would store no less than the blocks themselves, those stay as they are, so a high
rank changes nothing. Norms and biases stay each block's own: no rank makes a vector smaller. Fused Q, K, V are split first.

Use it to see what depth shares and what rank buys back, and before healing: the paper trains afterwards, and untrained tying breaks a
model (the demo model most from the mean, which is no block that ever ran). Not for speed: as many blocks run as before.
Source: Bae et al., “Relaxed Recursive Transformers: Effective Parameter Sharing with Layer-wise LoRA”, ICLR 2025, arXiv 2410.20672
(tying in a loop, the three beginnings, the truncated SVD of the difference); which steps stepwise takes when they do not divide is our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch

from metrics.damage import relative
from metrics.solvers import output_subspace
from metrics.stored_bits import dtype_bits, note_bits, split_key, total_bits, value_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import Refused
from models.shape import Matrix, Shape, part_rows, parts_by_key, shape_of
from operators.contract import Storage

TITLE = "Relaxed recursion"


@dataclass(frozen=True)
class Params:
    loops: int = param(2, "Loops", first=True, low=1, high=1024, help="How often the shared blocks run; one changes nothing")
    rank: int = param(16, "Rank of each difference", first=True, low=0, high=65_536, help="0 ties the blocks; a rank that saves nothing leaves them as they are")
    start: Literal["stepwise", "average", "lower"] = param("lower", "Shared block from", first=True)
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")


NEUTRAL = (Params(rank=65_536), 0.0)
TOGETHER = True  # what is stored serves several blocks
SWEEP = ("rank=16", "rank=32", "rank=0", "rank=16,start=average", "rank=32,start=average", "rank=16,start=stepwise")


@dataclass(frozen=True, eq=False)
class Plan:
    """By part of a matrix: layer.name, with :q, :k, :v where it is fused. Parts of groups that stay as they are have no entries but bits."""

    shared: dict[str, torch.Tensor]  # by the group's first part: [rows, in] float32
    user: dict[str, str]  # part → the first part of its group
    left: dict[str, torch.Tensor]  # B [rows, rank] float32; none where the difference is zero
    right: dict[str, torch.Tensor]  # A [rank, in] float32
    error: dict[str, torch.Tensor]  # ‖W′ + BA − W‖ / ‖W‖, float64
    spectrum: dict[str, torch.Tensor]  # singular values of the difference, descending, float64
    bits: dict[str, torch.Tensor]  # by matrix; the shared one is written down at the first block that uses it


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    shape.chosen(params.which)
    if params.loops > len(shape.layers):
        raise Refused(f"{len(shape.layers)} blocks cannot be run as {params.loops} loops; at most {len(shape.layers)}, which is one block over and over.")
    partly = {m.layer for m in shape.matrices if m.kind == "attn"} ^ {m.layer for m in shape.matrices if m.kind == "mlp"}
    if partly and params.loops > 1:
        raise Refused(f"Block {min(partly)} has lost its attention or its MLP, so it cannot run as the block of a loop; remove the whole block, or loop first.")


def sources(params: Params, n_blocks: int) -> list[tuple[list[int], list[int]]]:
    """(positions that use a shared block, positions it starts from as their mean), for each of the K shared blocks."""
    k = ceil(n_blocks / params.loops)
    users = [list(range(j, n_blocks, k)) for j in range(k)]
    if params.start == "stepwise":
        return [(own, [j * (n_blocks - 1) // max(k - 1, 1)]) for j, own in enumerate(users)]
    return [(own, own if params.start == "average" else own[:1]) for own in users]


def groups(params: Params, shape: Shape) -> list[tuple[list[Matrix], list[Matrix]]]:
    """(matrices of one name that share, those they start from)."""
    chosen = shape.chosen(params.which)
    found = []
    for name in dict.fromkeys(m.name for m in chosen):
        same = [m for m in chosen if m.name == name]
        found += [([same[i] for i in users], [same[i] for i in start]) for users, start in sources(params, len(same))]
    return found


def numbers(params: Params, users: list[Matrix], start: list[Matrix]) -> dict[Matrix, int] | None:
    """Numbers stored for each matrix of a group, the shared one at the first; None where that saves nothing. Blocks equal to the start need no product."""
    products = {m: 0 if [m] == start else sum(min(params.rank, rows, m.n_in) * (rows + m.n_in) for rows in part_rows(m)) for m in users}
    products[users[0]] += users[0].n_out * users[0].n_in
    return products if sum(products.values()) < sum(m.n_out * m.n_in for m in users) else None


def group_bits(params: Params, users: list[Matrix], start: list[Matrix], dense: int, before: Callable[[Matrix], float]) -> dict[Matrix, float]:
    stored = numbers(params, users, start)
    return {m: m.n_out * m.n_in * before(m) if stored is None else float(stored[m] * dense) for m in users}


def foresee(params: Params, outline: Outline) -> Outline:
    return outline.storing({m: b for users, start in groups(params, outline.shape) for m, b in group_bits(params, users, start, outline.dense, outline.value_bits).items()})


def product(difference: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B [out, rank], A [rank, in], all singular values) of the nearest matrix of that rank, float64: B orthonormal, A = Bᵀ · difference."""
    values, vectors = output_subspace(difference, None)
    left = vectors[:, :rank]
    return left, left.T @ difference.to(left), values.sqrt()


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    shape, plan = shape_of(model), Plan({}, {}, {}, {}, {}, {}, {})
    found = groups(params, shape)
    for i, (users, start) in enumerate(found):
        plan.bits.update({m.key: torch.tensor(b) for m, b in group_bits(params, users, start, dtype_bits(model), lambda m: value_bits(model, m)).items()})
        if numbers(params, users, start) is not None:
            shared = torch.stack([model.matrix(m.layer, m.name).double() for m in start]).mean(0).float()
            first = list(parts_by_key(shape, users[0]))
            for m in users:
                for where, (key, rows) in zip(first, parts_by_key(shape, m).items()):
                    _fit(plan, where, key, model.matrix(m.layer, m.name)[rows].double(), shared[rows], 0 if [m] == start else params.rank)
        progress.step(i + 1, len(found), users[0].name)
    return plan


def _fit(plan: Plan, where: str, key: str, own: torch.Tensor, shared: torch.Tensor, rank: int) -> None:
    plan.shared.setdefault(where, shared.contiguous())
    plan.user[key] = where
    left, right, plan.spectrum[key] = product(own - shared, rank)
    if rank:
        plan.left[key], plan.right[key] = left.float(), right.float()
    plan.error[key] = torch.tensor(relative(rebuilt(plan, key).double() - own, own), dtype=torch.float64)


def rebuilt(plan: Plan, key: str) -> torch.Tensor:
    """W′ + B A of a part [rows, in], float32."""
    shared = plan.shared[plan.user[key]]
    return shared + plan.left[key] @ plan.right[key] if key in plan.left else shared


def apply(model: Model, plan: Plan) -> None:
    shape, tied = shape_of(model), {}
    for m in shape.matrices:
        parts = {key: rows for key, rows in parts_by_key(shape, m).items() if key in plan.user}
        if not parts:
            continue
        firsts = tuple(plan.user[key] for key in parts)
        alone = not any(key in plan.left for key in parts)  # nothing of its own: the same storage as the others', not a copy
        if alone and firsts in tied:
            model.set_matrix(m.layer, m.name, model.matrix(*tied[firsts]))
            continue
        new = model.matrix(m.layer, m.name).clone()
        for key, rows in parts.items():
            new[rows] = rebuilt(plan, key).to(new)
        model.set_matrix(m.layer, m.name, new)
        if alone:
            tied[firsts] = (m.layer, m.name)
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(model.matrix(*split_key(key)).numel() for key in plan.bits)
    return Storage(total_bits(plan.bits), weights, False, "each shared matrix once and two thin factors a block; only smaller: as many blocks run, their matrices summed up when loaded")
