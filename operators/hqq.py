"""Round on a grid whose zero point moves to where the many small errors are, without any text.

ŵ = s (q − z) per group of inputs, s from minimum and maximum, z a real number. Half-quadratic splitting lowers Σ|w − ŵ|^p:
the residual is shrunk, e = sign(r) · max(|r| − |r|^(p−1)/β, 0), and z becomes the group's mean of q − (w − e)/s; β grows by κ each
step. Step 0 is rounding with a real zero; the best step so far is kept, so the error Σ|w − ŵ| is never above that of step 0.
Bits are b + (scale + zero) / group with a 16-bit zero: 4 bits in groups of 64 is 4.5.

Use it at 4 bits and fewer when no calibration text is at hand, or none that looks like the model's own. Not to lower the squared
error: it trades it for the mean absolute one. Not after pruning: zero is not on its grid.
Source: Badri & Shaji, “Half-Quadratic Quantization of Large Machine Learning Models”, 2023 (p = 0.7, β = 10, κ = 1.01, 20 steps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.grid import grouped, stored
from metrics.stored_bits import known_bits, note_bits, split_key, total_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.shape import Shape, shape_of
from operators.contract import Storage, quantised_storage, require_group_size

TITLE = "HQQ"
LEAST_RANGE = 1e-4  # of a group; below, its scale is 1


@dataclass(frozen=True)
class Params:
    bits: Literal[8, 4, 3, 2] = param(4, "Bits", first=True)
    group: int = param(32, "Group size", first=True, low=0, high=4096, help="Inputs that share a scale and a zero; 0 is the whole row")
    p: float = param(0.7, "Norm p", low=0.1, high=1.0, help="Σ|error|^p is lowered; below 1, few large errors are preferred to many small ones")
    steps: int = param(20, "Steps", low=0, high=200)
    scale_bits: Literal[16, 32] = param(16, "Bits of a scale", help="The zero takes as many")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")


NEUTRAL = None  # rounding always moves weights that are not on the grid; on it, it is the identity
BETA, KAPPA = 10.0, 1.01


@dataclass(frozen=True, eq=False)
class Plan:
    codes: dict[str, torch.Tensor]  # uint8 [out, in]
    scale: dict[str, torch.Tensor]  # [out, groups], float16 or float32
    zero: dict[str, torch.Tensor]  # the same, a real number
    bits: dict[str, torch.Tensor]
    errors: dict[str, torch.Tensor]  # mean |w − ŵ| of each step, step 0 first, float64


def calibrated(params: Params) -> bool:
    return False


def check(params: Params, shape: Shape) -> None:
    require_group_size(shape.chosen(params.which), params.group)


def foresee(params: Params, outline: Outline) -> Outline:
    chosen = outline.shape.chosen(params.which)
    return outline.storing({m: 0.0 if outline.value_bits(m) == 0 else m.n_out * (m.n_in * params.bits + m.n_in // (params.group or m.n_in) * 2 * params.scale_bits) for m in chosen})


def shrink(r: torch.Tensor, beta: float, p: float) -> torch.Tensor:
    """The residual that the splitting leaves: sign(r) · max(|r| − |r|^(p−1)/β, 0)."""
    size = r.abs()
    return r.sign() * (size - size.clamp(min=1e-12) ** (p - 1) / beta).clamp(min=0)


def quantise(w: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[float]]:
    """(codes, scale, zero, mean |error| of each step) of w [out, groups, group]; the step with the smallest error is returned."""
    high = 2**params.bits - 1
    low, span = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True) - w.amin(-1, keepdim=True)
    scale = stored(torch.where(span > LEAST_RANGE, span / high, torch.ones_like(span)), params.scale_bits)
    zero, beta, errors, best = -low / scale, BETA, [], None
    for _ in range(params.steps + 1):
        kept_zero = zero if params.scale_bits == 32 else zero.to(torch.float16).to(zero)
        codes = (w / scale + kept_zero).round().clamp(0, high)
        residual = w - (codes - kept_zero) * scale
        errors.append(float(residual.abs().mean(dtype=torch.float64)))
        if best is None or errors[-1] < best[0]:
            best = (errors[-1], codes, kept_zero)
        zero = (codes - (w - shrink(residual, beta, params.p)) / scale).mean(-1, keepdim=True)
        beta *= KAPPA
    return best[1], scale, best[2], errors


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    plan = Plan({}, {}, {}, {}, {})
    chosen, kept = shape_of(model).chosen(params.which), torch.float16 if params.scale_bits == 16 else torch.float32
    for i, m in enumerate(chosen):
        codes, scale, zero, errors = quantise(grouped(model.matrix(m.layer, m.name).float(), params.group), params)
        plan.codes[m.key] = codes.reshape(m.n_out, m.n_in).to(torch.uint8)
        plan.scale[m.key], plan.zero[m.key] = scale[..., 0].to(kept), zero[..., 0].to(kept)
        copy = known_bits(model, m) == 0
        plan.bits[m.key] = torch.tensor(0.0 if copy else float(m.n_out * m.n_in * params.bits + scale.numel() * 2 * params.scale_bits))
        plan.errors[m.key] = torch.tensor(errors, dtype=torch.float64)
        progress.step(i + 1, len(chosen), f"block {m.layer}, {m.name}")
    return plan


def rebuilt(plan: Plan, key: str) -> torch.Tensor:
    """The quantised matrix [out, in] in float32."""
    codes = plan.codes[key].float().reshape(plan.codes[key].shape[0], plan.scale[key].shape[1], -1)
    return ((codes - plan.zero[key].float()[..., None]) * plan.scale[key].float()[..., None]).reshape(plan.codes[key].shape)


def apply(model: Model, plan: Plan) -> None:
    for key in plan.codes:
        model.set_matrix(*split_key(key), rebuilt(plan, key))
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    return quantised_storage(total_bits(plan.bits), sum(codes.numel() for codes in plan.codes.values()))
