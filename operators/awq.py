"""Scale up the input channels that fire most before rounding, and scale them back after.

Ŵ = Q(W · diag(s)) · diag(1/s) with s_j = (mean|x_j|)^α, divided by √(max s · min s); Q rounds to nearest, asymmetric, by group. α is the
best of 20 points in [0, 1) by the output error Σ tr(ΔW C ΔWᵀ) of all matrices that read the same input (the paper inspects the
whole sublayer); α = 0 is plain rounding, so the result is never worse there. Then each group's range is cut, down to half, where
that lowers the error of its own inputs; not for queries and keys. 1/s folds into the norm before; where nothing before can take
it (attention's output under grouped heads, an MLP's output behind a nonlinearity), 16 bits a channel are counted.

Use it at 4 and 3 bits where a few channels dominate, as in large models; it needs no factorisation. Where channels are alike, as in
small models, it nearly equals rounding: GPTQ then gives more.
Source: Lin et al., “AWQ: Activation-aware Weight Quantization”, MLSys 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.calibration import Channels, matrix_inputs
from metrics.grid import Grid, dequantised, grid_bits, grid_of, grouped
from metrics.stored_bits import note_bits, quantised_bits, split_key, total_bits
from models.layout import Layout
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Matrix, Shape, row_parts, shape_of
from operators.contract import Storage, quantised_storage, require_group_size

TITLE = "AWQ"
POINTS = 20  # of α in [0, 1)
CUTS = tuple(1 - i / 20 for i in range(11))  # share of a group's range that is kept, 1 … 0.5


@dataclass(frozen=True)
class Params:
    bits: Literal[8, 4, 3, 2] = param(4, "Bits", first=True)
    group: int = param(32, "Group size", first=True, low=0, high=4096, help="Inputs that share a scale; 0 is the whole row")
    clip: bool = param(True, "Cut ranges", help="Search each group's range down to half of it")
    scale_bits: Literal[16, 32] = param(16, "Bits of a scale")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")


NEUTRAL = None  # with α = 0 and no cut it is rounding to nearest, whose identity is on the grid


@dataclass(frozen=True, eq=False)
class Plan:
    codes: dict[str, torch.Tensor]  # uint8 [out, in]
    scale: dict[str, torch.Tensor]  # [out, groups]
    zero: dict[str, torch.Tensor]  # uint8 [out, groups]
    channels: dict[str, torch.Tensor]  # s [in] float32, by matrix
    loss: dict[str, torch.Tensor]  # output error over α, [20] float64, by site
    bits: dict[str, torch.Tensor]


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    require_group_size(shape.chosen(params.which), params.group)


def foresee(params: Params, outline: Outline) -> Outline:
    bits = {}
    for m in outline.shape.chosen(params.which):
        stored = outline.quantised(m, grid_bits(m.n_out, m.n_in, params.bits, params.group, False, params.scale_bits), params.bits)
        bits[m] = stored + (0 if not stored or folds(outline.shape, outline.layout, m) else 16 * m.n_in)
    return outline.storing(bits)


def channel_scale(abs_mean: torch.Tensor, alpha: float) -> torch.Tensor:
    """s [in] float64."""
    s = (abs_mean.to(torch.float64).clamp(min=1e-8) ** alpha).clamp(min=1e-4)
    return s / (s.max() * s.min()).sqrt()


def snapped(w: torch.Tensor, params: Params) -> torch.Tensor:
    parts = grouped(w, params.group)
    return grid_of(parts, params.bits, False, params.scale_bits).snap(parts).reshape(w.shape)


def output_error(change: torch.Tensor, gram: torch.Tensor) -> float:
    """tr(ΔW C ΔWᵀ)."""
    change = change.to(torch.float64)
    return float(((change @ gram) * change).sum())


def losses(weights: list[torch.Tensor], inputs: Channels, params: Params) -> torch.Tensor:
    """Output error of the matrices that read one input, for each α, float64 [20]."""
    out = []
    for i in range(POINTS):
        s = channel_scale(inputs.abs_mean, i / POINTS).to(weights[0])
        out.append(sum(output_error(snapped(w * s, params) / s - w, inputs.gram) for w in weights))
    return torch.tensor(out, dtype=torch.float64)


def cut_grid(w: torch.Tensor, gram: torch.Tensor, params: Params) -> Grid:
    """The grid of each row and group of w [out, groups, group] with the best cut of its range; `gram` [in, in] of these inputs."""
    n_groups, size = w.shape[1:]
    blocks = torch.stack([gram[g * size : (g + 1) * size, g * size : (g + 1) * size] for g in range(n_groups)]).to(torch.float64)
    best = torch.full(w.shape[:2], torch.inf, dtype=torch.float64, device=w.device)
    found: Grid | None = None
    for cut in CUTS:
        low, high = cut * w.amin(-1, keepdim=True), cut * w.amax(-1, keepdim=True)
        grid = grid_of(torch.maximum(torch.minimum(w, high), low), params.bits, False, params.scale_bits)
        change = (grid.snap(w) - w).to(torch.float64)
        error = (torch.einsum("ogi,gij->ogj", change, blocks) * change).sum(-1)
        take = (error < best)[..., None]
        found = grid if found is None else Grid(*(torch.where(take, new, old) for new, old in zip((grid.scale, grid.zero, grid.stored), (found.scale, found.zero, found.stored))), grid.low, grid.high)
        best = torch.minimum(best, error)
    return found


def folds(shape: Shape, layout: Layout, m: Matrix) -> bool:
    """Whether 1/s can be absorbed by what stands before this matrix, so that s costs nothing to keep."""
    if m.site.name in ("attn_in", "mlp_in"):
        return True
    if m.site.name == "z":
        return shape.heads.n_heads == shape.heads.n_kv
    return layout.mlp_gated is not None  # the up projection takes it


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    shape, plan = shape_of(model), Plan({}, {}, {}, {}, {}, {})
    inputs, chosen = matrix_inputs(calibration, True, progress), shape.chosen(params.which)
    sites = list(dict.fromkeys(m.site for m in chosen))
    for i, site in enumerate(sites):
        here = [m for m in chosen if m.site == site]
        channels = inputs.of(here[0])
        weights = [model.matrix(m.layer, m.name).float() for m in here]
        loss = plan.loss[site.written] = losses(weights, channels, params)
        s = channel_scale(channels.abs_mean, int(loss.argmin()) / POINTS)
        for m, w in zip(here, weights):
            _keep(plan, model, shape, m, w, s, channels, params)
        progress.step(i + 1, len(sites), f"inputs {site.written}")
    return plan


def _keep(plan: Plan, model: Model, shape: Shape, m: Matrix, w: torch.Tensor, s: torch.Tensor, channels: Channels, params: Params) -> None:
    scaled = grouped(w * s.to(w), params.group)
    grid = grid_of(scaled, params.bits, False, params.scale_bits)
    if params.clip:
        cut = cut_grid(scaled, channels.gram / (s[:, None] * s[None]), params)
        query_key = torch.zeros(m.n_out, dtype=torch.bool, device=w.device)
        for part, rows in row_parts(shape, m).items():
            query_key[rows] = part in ("q", "k") or m.name.endswith(("q_proj", "k_proj"))
        keep = query_key[:, None, None]
        grid = Grid(*(torch.where(keep, a, b) for a, b in zip((grid.scale, grid.zero, grid.stored), (cut.scale, cut.zero, cut.stored))), grid.low, grid.high)
    plan.codes[m.key] = grid.codes(scaled).reshape(w.shape).to(torch.uint8)
    plan.scale[m.key] = grid.stored[..., 0].to(torch.float16 if params.scale_bits == 16 else torch.float32)
    plan.zero[m.key] = grid.zero[..., 0].to(torch.uint8)
    plan.channels[m.key] = s.float()
    dense = grid_bits(m.n_out, m.n_in, params.bits, params.group, False, params.scale_bits)
    own = 0 if folds(shape, model.layout, m) else 16 * m.n_in
    stored = quantised_bits(model, m, dense, params.bits)
    plan.bits[m.key] = torch.tensor(float(stored + own if stored else 0.0))


def rebuilt(plan: Plan, key: str) -> torch.Tensor:
    """The quantised matrix [out, in] in float32, scaled back."""
    return dequantised(plan.codes[key], plan.scale[key], plan.zero[key]) / plan.channels[key]


def apply(model: Model, plan: Plan) -> None:
    for key in plan.codes:
        model.set_matrix(*split_key(key), rebuilt(plan, key))
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    return quantised_storage(total_bits(plan.bits), sum(codes.numel() for codes in plan.codes.values()))
