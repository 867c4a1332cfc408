"""Remove the attention heads and MLP channels whose inputs fluctuate least, and put their mean into a bias.

Score of an input channel of an attention or MLP output matrix: S_j = Var(x_j) · ‖W_:,j‖², the variance over calibration tokens
(Welford). Attention's scores are squared; each layer's are standardised to mean 0 and spread 1; a head's is the mean of its
channels. All heads and channels of the model are ranked together and leave in that order until `share` of the parameters they
stand for is gone. What a removed channel gave on average stays as a bias, W_:,removed · x̄, so the mean output is exactly kept.
Under grouped-query attention whole groups (one key, one value, all their queries) leave together.

Use it to take whole heads and channels away without any training, up to about a third. Not for a GPU's 2:4 cores, nor where
a head matters only on text that the calibration lacks: it looks constant there.
Source: An, Zhao, Yu, Tang & Wang, “Fluctuation-based Adaptive Structured Pruning for LLMs”, AAAI 2024 (WIFV, AL-AM).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from kernels.moments import Moments
from metrics.calibration import BATCH, require_text
from metrics.stored_bits import dtype_bits, note_bits, split_key, total_bits, value_bits
from models.layout import Site
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import NotApplicable, Refused
from models.shape import Matrix, Shape, row_parts, shape_of
from models.stream import Request
from operators.contract import Storage

TITLE = "FLAP"


@dataclass(frozen=True)
class Params:
    share: float = param(0.2, "Share of parameters removed", first=True, low=0.0, high=0.9, help="Of the heads and MLP channels")
    compensate: bool = param(True, "Mean into a bias", first=True, help="Keep what removed channels gave on average")


NEUTRAL = (Params(share=0.0), 0.0)


@dataclass(frozen=True, eq=False)
class Plan:
    removed: dict[str, torch.Tensor]  # by output matrix: bool [in], its input channels that are gone
    bias: dict[str, torch.Tensor]  # by output matrix: its new bias [out] float32; only where something is added
    score: dict[str, torch.Tensor]  # by output matrix: one score a unit (head group or channel), float64, standardised
    bits: dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Units:
    """The removable units of one sublayer: `score` [unit], `cost` parameters each, `width` input channels each."""

    matrix: Matrix
    score: torch.Tensor
    cost: float
    width: int


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    kinds = {m.kind for m in shape.chosen("all")}
    if params.share > 0 and len(shape.layers) == 0 or not kinds:
        raise Refused("There is no sublayer left from which heads or channels could be removed.")


def foresee(params: Params, outline: Outline) -> Outline:
    """Which units go is decided by the text; as large a share, here of every matrix."""
    chosen = outline.shape.chosen("all")
    return replace(outline.storing({m: (1 - params.share) * m.n_out * m.n_in * outline.value_bits(m) for m in chosen}), sure=outline.sure and params.share == 0)


def outputs(model: Model, shape: Shape) -> list[Matrix]:
    """The matrices whose input channels are ranked: attention's and the MLP's output."""
    return [m for m in shape.matrices if m.name in (model.layout.attn_output, model.layout.mlp_output)]


def channel_scores(variance: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Var(x_j) · ‖W_:,j‖² [in], float64."""
    return variance.to(torch.float64) * weight.to(torch.float64).square().sum(0)


def units_of(model: Model, shape: Shape, m: Matrix, variance: torch.Tensor) -> Units:
    score = channel_scores(variance, model.matrix(m.layer, m.name))
    attention = m.name == model.layout.attn_output
    if attention:
        score = score.square()
    score = (score - score.mean()) / score.std(unbiased=False).clamp(min=1e-300)
    if not attention:
        return Units(m, score, float(shape.width * (3 if model.layout.mlp_gated else 2)), 1)
    heads = shape.heads
    queries = heads.n_heads // heads.n_kv
    width = queries * heads.d_head
    return Units(m, score.view(heads.n_kv, width).mean(1), float(shape.width * heads.d_head * (2 * queries + 2)), width)


def removed_units(units: list[Units], share: float) -> list[torch.Tensor]:
    """bool [unit] for each sublayer: the lowest scores overall, as many as fit into `share` of all parameters. The last unit of
    a sublayer may go too: an empty sublayer is a bias."""
    flat = torch.cat([u.score for u in units])
    cost = torch.cat([torch.full_like(u.score, u.cost) for u in units])
    budget = share * float(cost.sum()) * (1 + 1e-12)
    order = flat.argsort(stable=True)
    gone = torch.zeros_like(flat, dtype=torch.bool)
    gone[order[cost[order].cumsum(0) <= budget]] = True
    return list(gone.split([len(u.score) for u in units]))


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    require_text(calibration)
    shape, plan = shape_of(model), Plan({}, {}, {}, {})
    chosen = outputs(model, shape)
    moments = calibration.measure([Request(Moments, (Site(m.layer, m.site.name),)) for m in chosen], batch=BATCH, progress=progress)
    units = [units_of(model, shape, m, s.m2 / max(s.count - 1, 1)) for m, s in zip(chosen, moments)]
    for u, gone, s in zip(units, removed_units(units, params.share), moments):
        key, channels = u.matrix.key, gone.repeat_interleave(u.width)
        plan.removed[key], plan.score[key] = channels, u.score
        if params.compensate and bool(channels.any()):
            weight = model.matrix(u.matrix.layer, u.matrix.name).to(torch.float64)
            own = _bias(model, u.matrix)
            added = weight[:, channels] @ s.mean[channels].to(weight)
            plan.bias[key] = (added if own is None else added + own.to(added)).float()
    plan.bits.update(_bits(model, shape, plan))
    return plan


def _bias(model: Model, m: Matrix) -> torch.Tensor | None:
    return model.blocks[m.layer].get_submodule(m.name).bias


def _feeding(model: Model, shape: Shape, m: Matrix) -> list[tuple[Matrix, torch.Tensor]]:
    """(matrix, for each of its rows the input channel of `m` that it makes; −1 for none): what leaves with a channel."""
    layout, heads = model.layout, shape.heads
    here = {x.name: x for x in shape.matrices if x.layer == m.layer}
    if m.name == layout.mlp_output:
        return [(here[n], torch.arange(m.n_in)) for n in filter(None, (layout.mlp_input, layout.mlp_gated))]
    queries, found = heads.n_heads // heads.n_kv, []
    shared = torch.arange(heads.n_kv * heads.d_head) // heads.d_head * queries * heads.d_head  # a key or value row: first channel of its group
    for name in layout.attn_inputs:
        rows = torch.full((here[name].n_out,), -1)
        for part, where in row_parts(shape, here[name]).items():
            is_query = part == "q" or name.endswith("q_proj")
            rows[where] = torch.arange(len(where)) if is_query else shared[: len(where)]
        found.append((here[name], rows))
    return found


def gone_rows(model: Model, shape: Shape, plan: Plan, m: Matrix) -> list[tuple[Matrix, torch.Tensor]]:
    """(matrix, bool [out]) of the rows that only made removed channels of `m`."""
    channels = plan.removed[m.key]
    return [(fed, (rows >= 0) & channels[rows.clamp(min=0)]) for fed, rows in _feeding(model, shape, m)]


def _bits(model: Model, shape: Shape, plan: Plan) -> dict[str, torch.Tensor]:
    bits = {}
    for m in outputs(model, shape):
        kept = int((~plan.removed[m.key]).sum())
        bits[m.key] = m.n_out * kept * value_bits(model, m) + (m.n_out * dtype_bits(model) if m.key in plan.bias and _bias(model, m) is None else 0)
        for fed, rows in gone_rows(model, shape, plan, m):
            bits[fed.key] = int((~rows).sum()) * fed.n_in * value_bits(model, fed)
    return {key: torch.tensor(float(value)) for key, value in bits.items()}


def apply(model: Model, plan: Plan) -> None:
    shape = shape_of(model)
    for m in outputs(model, shape):
        if m.key not in plan.removed or not bool(plan.removed[m.key].any()):
            continue
        model.set_matrix(m.layer, m.name, torch.where(plan.removed[m.key], 0.0, model.matrix(m.layer, m.name)), plan.bias.get(m.key))
        for fed, rows in gone_rows(model, shape, plan, m):
            bias = _bias(model, fed)
            model.set_matrix(fed.layer, fed.name, torch.where(rows[:, None], 0.0, model.matrix(fed.layer, fed.name)), None if bias is None else torch.where(rows, 0.0, bias))
    note_bits(model, plan.bits)


def physical(model: Model, plan: Plan) -> torch.nn.Module:
    """Heads and channels cut out, each block with its own widths: no plain config has a place for them. A sublayer that lost everything is its bias.
    `model` is the parent."""
    from models.smaller import Nothing, cut

    if not any(bool(gone.any()) for gone in plan.removed.values()):
        raise NotApplicable("No head or channel was removed, so nothing is smaller.")
    variant, shape, layout = model.copy("narrow"), shape_of(model), model.layout
    apply(variant, plan)
    for m in outputs(model, shape):
        gone = plan.removed.get(m.key)
        if gone is None or not bool(gone.any()):
            continue
        path = layout.attn if m.kind == "attn" else layout.mlp
        if bool(gone.all()):
            bias = _bias(variant, m)
            setattr(variant.blocks[m.layer], path, Nothing(m.kind, None if bias is None else bias.detach()))
            continue
        for fed, rows in gone_rows(model, shape, plan, m):
            cut(variant, m.layer, fed.name, (~rows).nonzero()[:, 0], None)
        cut(variant, m.layer, m.name, None, (~gone).nonzero()[:, 0])
        sublayer = variant.blocks[m.layer].get_submodule(path)
        if m.kind == "attn" and hasattr(sublayer, "split_size"):  # where GPT-2 parts queries, keys and values
            sublayer.split_size = int((~gone).sum())
    return variant.module


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(model.matrix(*split_key(key)).numel() for key in plan.bits)
    return Storage(total_bits(plan.bits), weights, True, "smaller matrices and a bias where there was none; fewer operations once the heads and channels are cut out (timed so, masked in the app)")
