"""Make heads and MLPs narrower by decomposing pairs of matrices that are multiplied with one another.

MLP (Nyström): ridge leverage s_i = [C (C + λI)⁻¹]_ii of its channels, C = Σ h hᵀ before the output matrix; the top k stay, and the output
matrix is refitted to them, W C_:K (C_KK)⁺, the least squares solution. Queries and keys (CR): a channel of a head counts by the root
of E[q_i²] · E[k_i²]; where the positions rotate, both channels of a rotary pair stay or go together. Values and output (SVD): the
product W_O W_V of a head is cut to rank k where it matters for the inputs, ‖ΔW C^½‖. Queries that share a key and a value are taken
together. Ranks are the same everywhere, or a block loses φ ∝ exp(−influence/ε), so that blocks that change the stream most keep most.

Use it to take a quarter of the width away without training, where MLP channels are redundant. Not where queries and keys pass a norm of
their own (Qwen 3, Gemma 3): their queries and keys stay. Not before looking at flap, which removes whole heads and says which.
Source: Lin et al., “MoDeGPT: Modular Decomposition for LLM Compression”, ICLR 2025; its equations after an independent reimplementation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from kernels.similarity import Similarity
from metrics.calibration import BATCH, Inputs, matrix_inputs
from metrics.modular import leverage, query_key_channels, refitted, value_output, widths
from metrics.stored_bits import dtype_bits, note_bits, split_key, total_bits, value_bits
from models.layout import Layout, Site
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import NotApplicable
from models.shape import Matrix, Shape, part_rows, row_parts, shape_of
from models.stream import Request
from operators.contract import Storage

TITLE = "MoDeGPT"


@dataclass(frozen=True)
class Params:
    keep: float = param(0.75, "Share of the width kept", first=True, low=0.05, high=1.0)
    which: Literal["all", "attn", "mlp"] = param("all", "Sublayers", first=True)
    allocation: Literal["uniform", "influence"] = param("uniform", "Ranks", help="The same share everywhere, or more for blocks that change the stream more")
    temperature: float = param(0.1, "Temperature ε", low=0.001, high=10.0, help="Of the allocation by influence; large is uniform")
    ridge: float = param(0.01, "Ridge λ", low=0.0, high=1.0, help="Share of the mean diagonal, for the leverage scores")


NEUTRAL = (Params(keep=1.0), 0.0)
SWEEP = ("keep=0.9", "keep=0.75", "keep=0.5")


@dataclass(frozen=True, eq=False)
class Plan:
    weights: dict[str, torch.Tensor]  # [out, in] as they stand, removed rows and columns zero
    biases: dict[str, torch.Tensor]  # [out], where they change
    leverage: dict[str, torch.Tensor]  # by output matrix of an MLP: one score a channel, 0 … 1, float64
    kept: dict[str, torch.Tensor]  # by matrix that makes channels: bool, a row that stays (MLP; queries and keys)
    dropped: dict[str, torch.Tensor]  # by output matrix: share of its output energy that goes (MLP: after the refit; heads: per group), float64
    width: torch.Tensor  # share kept of each block, float64
    bits: dict[str, torch.Tensor]


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    shape.chosen(params.which)


def kept_of(share: float, n: int, pairs: bool = False) -> int:
    """How many of n channels stay; an even number where they go in pairs."""
    return 2 * max(1, int(share * (n // 2) + 0.5)) if pairs else max(1, int(share * n + 0.5))


def foresee(params: Params, outline: Outline) -> Outline:
    """Unequal ranks are foreseen as equal ones."""
    shape, layout = outline.shape, outline.layout
    normed = any(name.endswith("q_norm.weight") for name in outline.sizes)
    bits = {}
    for m in shape.chosen(params.which):
        n_mlp = next((x.n_in for x in shape.matrices if x.layer == m.layer and x.name == layout.mlp_output), 1)
        refitted = m.name in (layout.attn_output, layout.mlp_output)
        bits[m] = _share(m, shape, layout, params.keep, n_mlp, normed) * m.n_out * m.n_in * (outline.dense if refitted and params.keep < 1 else outline.value_bits(m))
    return replace(outline.storing(bits), sure=outline.sure and params.allocation == "uniform")


def _share(m: Matrix, shape: Shape, layout: Layout, keep: float, n_mlp: int, normed: bool) -> float:
    """Share of a matrix that stays."""
    if m.kind == "mlp":
        return kept_of(keep, n_mlp) / n_mlp
    d_head = shape.heads.d_head
    value, query = kept_of(keep, d_head) / d_head, 1.0 if normed else kept_of(keep, d_head, rotary(shape)) / d_head
    if len(part_rows(m)) == 3:
        return (2 * query + value) / 3
    return value if m.name == layout.attn_output or m.name.endswith("v_proj") else query


def rotary(shape: Shape) -> bool:
    """Whether positions rotate pairs of query and key channels; only GPT-2's are embedded."""
    return shape.family != "gpt2"


def units_of(model: Model, shape: Shape) -> torch.Tensor:
    """int64 [unit, channels]: the channels of a head that stay or go together. Without rotation each for itself; with it the two that
    rotate with one another; channels that a partial rotation leaves out go by twos as well."""
    d_head = shape.heads.d_head
    if not rotary(shape):
        return torch.arange(d_head)[:, None]
    rotated = int(d_head * ((getattr(model.config, "rope_parameters", None) or {}).get("partial_rotary_factor") or 1.0))
    first = torch.arange(rotated // 2)
    return torch.cat([torch.stack([first, first + rotated // 2], 1), torch.arange(rotated, d_head).view(-1, 2)])


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    shape = shape_of(model)
    inputs, chosen = matrix_inputs(calibration, True, progress), shape.chosen(params.which)
    plan = Plan({}, {}, {}, {}, {}, torch.full((len(shape.layers),), params.keep, dtype=torch.float64), {})
    if params.allocation == "influence" and params.keep < 1:
        found = calibration.measure([Request(Similarity, (Site(i, "resid_pre"), Site(i, "resid_post"))) for i in shape.layers], batch=BATCH, progress=progress)
        plan.width.copy_(widths(torch.tensor([float(s.influence) for s in found]), params.keep, params.temperature))
    for i, (layer, share) in enumerate(zip(shape.layers, plan.width.tolist())):
        for kind, narrow in (("attn", _narrow_heads), ("mlp", _narrow_mlp)):
            here = {m.name: m for m in chosen if m.layer == layer and m.kind == kind}
            for m in here.values():
                plan.bits[m.key] = torch.tensor(float(m.n_out * m.n_in * value_bits(model, m)))
            if here and params.keep < 1:
                narrow(model, shape, here, share, inputs, params, plan)
        progress.step(i + 1, len(shape.layers), f"block {layer}")
    return plan


def _bias(model: Model, m: Matrix) -> torch.Tensor | None:
    return model.blocks[m.layer].get_submodule(m.name).bias


def _narrow_mlp(model: Model, shape: Shape, here: dict[str, Matrix], share: float, inputs: Inputs, params: Params, plan: Plan) -> None:
    layout = model.layout
    out = here[layout.mlp_output]
    gram, weight = inputs.of(out).gram, model.matrix(out.layer, out.name).double()
    score = plan.leverage[out.key] = leverage(gram, params.ridge)
    n = kept_of(share, out.n_in)
    kept = torch.zeros(out.n_in, dtype=torch.bool).index_fill_(0, score.argsort(descending=True, stable=True)[:n], True)
    new = refitted(weight, gram, kept)
    lost = ((new - weight) @ gram * (new - weight)).sum() / (weight @ gram * weight).sum().clamp(min=1e-300)
    plan.weights[out.key], plan.dropped[out.key] = new.to(model.matrix(out.layer, out.name)), lost.clamp(min=0).view(1)
    plan.bits[out.key] = torch.tensor(float(out.n_out * n * dtype_bits(model)))
    for name in filter(None, (layout.mlp_input, layout.mlp_gated)):
        _keep_rows(model, here[name], kept, plan)


def _keep_rows(model: Model, m: Matrix, kept: torch.Tensor, plan: Plan) -> None:
    weight, bias = plan.weights.get(m.key, model.matrix(m.layer, m.name)), plan.biases.get(m.key, _bias(model, m))
    plan.kept[m.key], plan.weights[m.key] = kept, torch.where(kept[:, None], weight, 0.0)
    if bias is not None:
        plan.biases[m.key] = torch.where(kept, bias, 0.0)
    plan.bits[m.key] = torch.tensor(float(int(kept.sum()) * m.n_in * value_bits(model, m)))


def head_rows(shape: Shape, here: dict[str, Matrix]) -> dict[str, tuple[Matrix, torch.Tensor]]:
    """"q", "k", "v" → (its matrix, rows int64 [head, d_head])."""
    parts = {part or m.name.rpartition(".")[2][0]: (m, rows) for m in here.values() for part, rows in row_parts(shape, m).items()}
    return {part: (m, rows.view(-1, shape.heads.d_head)) for part, (m, rows) in parts.items() if part in "qkv"}


def _narrow_heads(model: Model, shape: Shape, here: dict[str, Matrix], share: float, inputs: Inputs, params: Params, plan: Plan) -> None:
    heads, rows, out = shape.heads, head_rows(shape, here), here[model.layout.attn_output]
    groups, d_head = heads.n_heads // heads.n_kv, heads.d_head
    kept = {m.key: torch.ones(m.n_out, dtype=torch.bool) for m, _ in rows.values()}
    attention = model.blocks[out.layer].get_submodule(model.layout.attn)
    if getattr(attention, "q_norm", None) is None:
        (query, q_rows), (key, k_rows) = rows["q"], rows["k"]
        q2, k2 = (_second_moments(model, m, inputs)[where] for m, where in (rows["q"], rows["k"]))
        units, n = units_of(model, shape), kept_of(share, d_head, rotary(shape))
        for group in range(heads.n_kv):
            queries = slice(group * groups, (group + 1) * groups)
            stay = query_key_channels(q2[queries].sum(0), k2[group], units, n)
            kept[query.key][q_rows[queries].reshape(-1)] = stay.repeat(groups)
            kept[key.key][k_rows[group]] = stay
    _narrow_values(model, heads.n_kv, rows["v"], out, kept_of(share, d_head), inputs, kept, plan)
    for m in {m.key: m for m, _ in rows.values()}.values():
        _keep_rows(model, m, kept[m.key], plan)


def _second_moments(model: Model, m: Matrix, inputs: Inputs) -> torch.Tensor:
    """E[(w·x + b)²] of every row, [out] float64."""
    seen, weight, bias = inputs.of(m), model.matrix(m.layer, m.name).double(), _bias(model, m)
    plain = (weight @ seen.gram * weight).sum(1) / seen.tokens
    return plain if bias is None else plain + 2 * bias.double() * (weight @ seen.mean.double()) + bias.double().square()


def _narrow_values(model: Model, n_kv: int, values: tuple[Matrix, torch.Tensor], out: Matrix, k: int, inputs: Inputs, kept: dict[str, torch.Tensor], plan: Plan) -> None:
    value, rows = values
    weight, output = model.matrix(value.layer, value.name).double().clone(), model.matrix(out.layer, out.name).double()
    gram, d_head = inputs.of(value).gram, rows.shape[1]
    outputs = output.view(out.n_out, n_kv, -1, d_head)  # a group's columns are its queries', one after the other
    new, lost = torch.zeros_like(outputs), []
    for group, where in enumerate(rows):
        weight[where[:k]], columns, share = value_output(weight[where], outputs[:, group].transpose(0, 1), gram, k)
        new[:, group, :, :k] = columns.transpose(0, 1)
        kept[value.key][where[k:]] = False
        lost.append(share)
    bits = out.n_out * out.n_in * k / d_head * dtype_bits(model)
    bias = _bias(model, value)
    if bias is not None:  # attention's weights add up to one, so a value's bias is a constant of the output
        per_query = bias[rows].double()[:, None].expand(-1, outputs.shape[2], -1)
        own, added = _bias(model, out), (outputs * per_query).flatten(1).sum(1)
        plan.biases[out.key] = (added if own is None else added + own.double()).float()
        plan.biases[value.key] = bias.index_fill(0, rows.reshape(-1), 0.0)
        bits += 0 if own is not None else out.n_out * dtype_bits(model)
    plan.weights[out.key], plan.weights[value.key] = new.reshape(output.shape).to(model.matrix(out.layer, out.name)), weight.to(model.matrix(value.layer, value.name))
    plan.dropped[out.key], plan.bits[out.key] = torch.tensor(lost, dtype=torch.float64), torch.tensor(float(bits))


def apply(model: Model, plan: Plan) -> None:
    for key, weight in plan.weights.items():
        model.set_matrix(*split_key(key), weight, plan.biases.get(key))
    note_bits(model, plan.bits)


def physical(model: Model, plan: Plan) -> torch.nn.Module:
    """MLPs cut to their kept channels; heads stay at their width, masked, as their channels differ from head to head."""
    from models.smaller import narrow_mlp

    variant = model.copy("narrow")
    apply(variant, plan)
    if not plan.leverage:
        raise NotApplicable("Narrower heads are masked here, not cut; only a narrower MLP is really smaller.")
    for layer, _ in map(split_key, plan.leverage):
        narrow_mlp(variant, layer, plan.kept[f"{layer}.{model.layout.mlp_input}"])
    return variant.module


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(model.matrix(*split_key(key)).numel() for key in plan.bits)
    return Storage(total_bits(plan.bits), weights, True, "narrower heads and MLPs; fewer operations once cut out (timed with the MLPs cut, the heads masked)")
