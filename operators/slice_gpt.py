"""Keep only the leading directions of the residual stream.

V [d, d'] are the leading principal axes of the stream, taken over all its sites after normalisation (LayerNorm: centred too),
the sum of x xᵀ over calibration tokens and sites. Everything that writes to the stream is projected on V, W_out' = V Vᵀ W_out
(embeddings and biases too); what reads it then sees only V. At 0 % nothing changes, with RMSNorm and with LayerNorm.

SliceGPT uses one basis per site and joins them with shortcut matrices Q_ℓᵀQ_ℓ₊₁ on every residual branch. Here one basis
serves all sites: it cuts a little worse at the same width, but needs no shortcuts (2 d'² a block), and a sliced Llama is then
again a plain Llama of width d', with norms of weight √(d/d') and eps·d/d' because a norm must go on dividing by the old d. In
the app the matrices keep their shapes, multiplied by the projection: same function, every site keeps its name and basis.

Use it where memory and speed must really fall without special kernels. Not at a few percent off when input and output
embeddings are tied: they must be untied first, which costs more than is saved.
Source: Ashkboos et al., “SliceGPT”, ICLR 2024; mean subtraction only where the model has it (their code does it always).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch

from kernels.gram import Gram
from metrics.calibration import BATCH, require_text
from metrics.solvers import principal_axes
from metrics.stored_bits import dtype_bits, parameter_name
from models.layout import Layout, Site
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import NotApplicable, Refused
from models.shape import Shape, shape_of
from models.stream import Request
from operators.contract import Storage

TITLE = "SliceGPT (one basis)"
NARROWER = ("llama", "mistral", "qwen2", "qwen3")  # RMSNorm of weight w (not 1 + w), head width set apart from the stream's


@dataclass(frozen=True)
class Params:
    slice: float = param(0.25, "Share of the width cut off", first=True, low=0.0, high=0.95)


NEUTRAL = (Params(slice=0.0), 0.0)
SWEEP = ("slice=0.1", "slice=0.2", "slice=0.3")


@dataclass(frozen=True, eq=False)
class Plan:
    basis: torch.Tensor  # V [d, d'] float64, orthonormal columns
    energy: torch.Tensor  # eigenvalues [d] float64, descending: how much of the normalised stream each axis carries


def calibrated(params: Params) -> bool:
    return True


def kept_width(params: Params, shape: Shape) -> int:
    """d': a multiple of 8 and of the number of heads (what configs and fast kernels accept), or the whole width."""
    step = math.lcm(8, shape.heads.n_heads)
    return shape.width if params.slice == 0 else int((1 - params.slice) * shape.width + 1e-6) // step * step


def check(params: Params, shape: Shape) -> None:
    if shape.family.startswith(("gemma2", "gemma3")):
        raise NotApplicable("This architecture normalises what a sublayer adds to the stream, so its outputs cannot be projected by their weights.")
    width = kept_width(params, shape)
    if width < 1:
        raise Refused(f"A slice of {params.slice} leaves nothing of a stream of {shape.width} channels in steps of {math.lcm(8, shape.heads.n_heads)}.")


def foresee(params: Params, outline: Outline) -> Outline:
    kept, width = kept_width(params, outline.shape), outline.shape.width
    if kept == width:
        return outline
    sizes = {outline.name(m): kept * (m.n_in if m.site.name in ("z", "mlp_post") else m.n_out) for m in outline.shape.matrices}
    layout = outline.layout
    for name, size in outline.sizes.items():
        if not name.startswith(f"{layout.blocks}.") and len(size) == 2 and size[1] == width:
            sizes[name] = kept * size[0]
    sizes.setdefault(f"{layout.unembed}.weight", sizes[f"{layout.embed}.weight"])  # a tied head is untied
    return replace(outline, bits={**outline.bits, **{name: float(n * outline.dense) for name, n in sizes.items()}})


class _StreamGram:
    """Σ x xᵀ over normalised residual streams, whatever the site; centred for LayerNorm."""

    def __init__(self, width: int, centred: bool):
        self.gram, self.centred = Gram(width, double=True), centred

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0, impl: str | None = None) -> None:
        x = x.double()
        if self.centred:
            x = x - x.mean(1, keepdim=True)
        self.gram.add(x / x.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12), keep, start, impl)


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    require_text(calibration)
    shape = shape_of(model)
    centred = shape.norm == "LayerNorm"
    sites = [Site(layer, name) for layer in model.layers for name in ("resid_pre", *(() if model.layout.parallel else ("resid_mid",)))]
    sites.append(Site(model.layers[-1], "resid_post"))
    statistics = calibration.measure([Request(lambda n: _StreamGram(n, centred), (site,)) for site in sites], batch=BATCH, progress=progress)
    total = sum((s.gram.matrix for s in statistics), torch.zeros(shape.width, shape.width, dtype=torch.float64))
    energy, axes = principal_axes(total, damping=0.0)
    if centred:  # the mean direction carries nothing and must be cut first, also among other empty ones
        ones = torch.full((shape.width, 1), shape.width**-0.5, dtype=torch.float64)
        inside = axes - ones @ (ones.T @ axes)
        axes = torch.linalg.qr(torch.cat([inside[:, : shape.width - 1], ones], 1)).Q
    return Plan(axes[:, : kept_width(params, shape)].contiguous(), energy)


def apply(model: Model, plan: Plan) -> None:
    width, kept = plan.basis.shape
    if kept == width:
        return
    projection = (plan.basis @ plan.basis.T).to(model.device)
    _untie(model)
    for table in _tables(model):
        table.weight = torch.nn.Parameter((table.weight.double() @ projection).to(table.weight), requires_grad=False)
    for m in shape_of(model).matrices:
        if m.site.name in ("z", "mlp_post"):
            module = model.blocks[m.layer].get_submodule(m.name)
            bias = None if module.bias is None else projection @ module.bias.double()
            model.set_matrix(m.layer, m.name, (projection @ model.matrix(m.layer, m.name).double()).float(), bias)
    for name, count in _sizes(model, kept).items():
        model.bits[name] = float(count * dtype_bits(model))


def _untie(model: Model) -> None:
    """The head keeps its weights while the embedding is projected."""
    if getattr(model.config, "tie_word_embeddings", False):
        model.config.tie_word_embeddings = False


def _tables(model: Model) -> list[torch.nn.Embedding]:
    """Token embedding, and learned positions where there are any."""
    base = model.module.get_submodule(model.layout.base)
    return [m for m in base.children() if isinstance(m, torch.nn.Embedding)]


def _sizes(model: Model, kept: int) -> dict[str, int]:
    """Numbers stored for every weight that touches the stream: one side shrinks to `kept`."""
    sizes = {}
    for m in shape_of(model).matrices:
        sizes[parameter_name(model, m.layer, m.name)] = kept * (m.n_in if m.site.name in ("z", "mlp_post") else m.n_out)
    for name, module in model.module.named_modules():
        if isinstance(module, torch.nn.Embedding) or name == model.layout.unembed:
            sizes[f"{name}.weight"] = kept * module.weight.shape[0]
    return sizes


def storage(model: Model, plan: Plan) -> Storage:
    """Block matrices, embeddings and head; a tied head is counted in the bits (it is untied) but not in the weights."""
    width, kept = plan.basis.shape
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    parameters = dict(model.module.named_parameters())
    names = _sizes(model, kept)
    weights = sum(parameters[name].numel() for name in names if name in parameters)
    numbers = weights if kept == width else sum(names.values())
    how = "narrower matrices, embeddings and norms at the model's dtype" + ("; input and output embeddings stored apart" if tied else "")
    return Storage(float(numbers * dtype_bits(model)), weights, kept < width, how)


def physical(model: Model, plan: Plan) -> torch.nn.Module:
    """The sliced model as a smaller plain one of the same class; `model` is the unsliced parent.

    Norm weights are folded into the matrices that follow and replaced by √(d/d'), eps by eps·d/d': dividing by the old width.
    """
    if model.config.model_type not in NARROWER:
        raise Refused(
            f"{type(model.module).__name__} has no place for a stream narrower than its heads, so the sliced model can only be saved in full "
            f"shape (same logits); narrower files are written for {', '.join(NARROWER)}.")
    width, kept = plan.basis.shape
    config = copy.deepcopy(model.config)
    heads = shape_of(model).heads
    config.hidden_size, config.head_dim, config.rms_norm_eps = kept, heads.d_head, config.rms_norm_eps * width / kept
    config.tie_word_embeddings = False
    smaller = type(model.module)(config).eval()
    target = Model(smaller, model.tokenizer, model.layout, model.written, model.removed)
    v = plan.basis.to(model.device)
    layout, scale = model.layout, (width / kept) ** 0.5
    _fill(smaller, layout.embed, model.module.get_submodule(layout.embed).weight.double() @ v)
    final = model.module.get_submodule(layout.final_norm).weight.double()
    _fill(smaller, layout.unembed, (model.module.get_submodule(layout.unembed).weight.double() * final) @ v)
    _fill(smaller, layout.final_norm, torch.full((kept,), scale))
    for layer, block in enumerate(model.blocks):
        for name in layout.matrices():
            weight = model.matrix(layer, name).double()
            bias = block.get_submodule(name).bias
            if name in (layout.attn_output, layout.mlp_output):
                weight, bias = v.T @ weight, None if bias is None else v.T @ bias.double()
            else:
                norm = block.get_submodule(layout.attn_norm if name in layout.attn_inputs else layout.mlp_norm).weight.double()
                weight = (weight * norm) @ v
            target.set_matrix(layer, name, weight.float(), None if bias is None else bias.float())
        for norm in (layout.attn_norm, layout.mlp_norm):
            _fill(smaller, f"{layout.blocks}.{layer}.{norm}", torch.full((kept,), scale))
        _copy_rest(block, smaller.get_submodule(f"{layout.blocks}.{layer}"), layout)
    return smaller


def _fill(module: torch.nn.Module, path: str, value: torch.Tensor) -> None:
    part = module.get_submodule(path)
    part.weight = torch.nn.Parameter(value.float().contiguous().to(part.weight), requires_grad=False)


def _copy_rest(block: torch.nn.Module, narrow: torch.nn.Module, layout: Layout) -> None:
    """Parameters that do not touch the stream, such as Qwen 3's norms of queries and keys."""
    touched = {f"{path}.{kind}" for path in (*layout.matrices(), layout.attn_norm, layout.mlp_norm) for kind in ("weight", "bias")}
    wanted = dict(narrow.named_parameters())
    for name, value in block.named_parameters():
        if name not in touched:
            wanted[name].data.copy_(value)
