"""What may be reordered in a transformer: MLP units, heads with their inner units, and the channels of the residual stream.

Read from the architecture's map; every parameter must be accounted for, and `checked` proves the result on the model itself: a
random legal reordering may not change its logits. Rotary positions tie the units of Q and K to frequencies, so those keep
their order inside a head (also where only part of a head rotates); units of V may move. With grouped queries a query head stays
with its group's K and V. Tied embeddings are one piece.

The stream may be rotated instead of reordered once norm scales are folded into the matrices after them (`folded`): any rotation
under RMSNorm, under LayerNorm those that leave the all-ones direction alone. Theus et al., NeurIPS 2025.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metrics.permutation.spec import Attention, Maps, Spec, apply, random_maps
from models.layout import Site, heads, is_conv1d
from models.loaded import Model
from models.refusal import NotApplicable, Refused
from models.shape import Matrix, row_parts, shape_of

RESID = "resid"
FOLDABLE = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")  # norms of scale w (not 1 + w), nothing normalised on its way into the stream
MOST_UNITS = 16_384  # in one assignment: 2 GB of float64 gains, many minutes of SciPy


@dataclass(frozen=True, eq=False)
class Piece:
    """Where a piece lies: the rows (outputs) of a parameter, which GPT-2's Conv1D stores transposed; `kind` is a word for tables."""

    parameter: str
    kind: str
    layer: int | None = None
    rows: torch.Tensor | None = None
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A model's Spec and where its pieces lie."""

    spec: Spec
    places: dict[str, Piece]
    n_layers: int

    def pieces(self, model: Model) -> dict[str, torch.Tensor]:
        parameters = dict(model.module.named_parameters())
        return {name: _read(parameters[place.parameter], place) for name, place in self.places.items()}

    def permuted(self, model: Model, maps: Maps, written: str = "permuted") -> Model:
        """A copy of the model with its units moved: the same function."""
        out = model.copy(written)
        self.write(out, apply(self.spec, self.pieces(model), maps))
        return out

    def write(self, model: Model, pieces: dict[str, torch.Tensor]) -> None:
        """Put pieces into the model; tensors shared with another model stay untouched."""
        model.set_parameters(self.joined(pieces))

    def joined(self, pieces: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Pieces put together to parameters, by name."""
        whole: dict[str, torch.Tensor] = {}
        for name, piece in pieces.items():
            place = self.places[name]
            if place.rows is not None:
                if place.parameter not in whole:
                    n = sum(len(p.rows) for p in self.places.values() if p.parameter == place.parameter)
                    shape = (n, *piece.shape[1:])
                    whole[place.parameter] = piece.new_empty(shape[::-1] if place.transposed else shape)
                target = whole[place.parameter]
                (target.T if place.transposed else target)[place.rows] = piece
            else:
                whole[place.parameter] = piece.T.contiguous() if place.transposed else piece
        return whole


def _read(parameter: torch.Tensor, place: Piece) -> torch.Tensor:
    x = parameter.detach()
    x = x.T if place.transposed else x
    return x if place.rows is None else x[place.rows.to(x.device)]


def symmetry_of(model: Model, rotate: bool = False) -> Symmetry:
    """The symmetry of a model's architecture; with `rotate` (a folded model) its stream may be rotated."""
    layout, shape, config = model.layout, shape_of(model), model.config
    n = heads(config)
    places: dict[str, Piece] = {}
    axes: dict[str, tuple[str | None, ...]] = {}
    sizes = {RESID: config.hidden_size}
    attention = []

    def add(path: str, word: str, out: str | None, inner: str | None, layer: int | None = None, rows: torch.Tensor | None = None, part: str = "") -> None:
        """A linear or embedding module: its weight and bias."""
        module = model.module.get_submodule(path)
        flipped = is_conv1d(module)
        for kind, own in (("weight", (out, inner)), ("bias", (out,))):
            if getattr(module, kind, None) is not None:
                name = f"{path}.{kind}" + (f":{part}" if part else "")
                places[name], axes[name] = Piece(f"{path}.{kind}", word, layer, rows, flipped and kind == "weight"), own

    def norm(path: str, layer: int | None = None) -> None:
        for kind, _ in model.module.get_submodule(path).named_parameters():
            places[f"{path}.{kind}"], axes[f"{path}.{kind}"] = Piece(f"{path}.{kind}", "norm", layer), (None if rotate and kind == "weight" else RESID,)

    base = model.module.get_submodule(layout.base)
    for name, module in base.named_children():
        if isinstance(module, torch.nn.Embedding):
            add(f"{layout.base}.{name}", "embed" if f"{layout.base}.{name}" == layout.embed else "position", None, RESID)
    for layer in range(model.n_layers):
        block = f"{layout.blocks}.{layer}"
        q, k, v, z, units = (f"{s}.{layer}" for s in ("q", "k", "v", "z", "mlp"))
        sizes |= {q: n.n_heads * n.d_head, k: n.n_kv * n.d_head, v: n.n_kv * n.d_head, z: n.n_heads * n.d_head}
        sizes[units] = model.matrix(layer, layout.mlp_output).shape[1]
        attention.append(Attention(q, k, v, z, n.n_kv, n.n_heads // n.n_kv, n.d_head, layout.family == "gpt2"))
        for name in layout.attn_inputs:
            matrix = Matrix(layer, name, "attn", *model.matrix(layer, name).shape, Site(layer, "attn_in"))
            for part, rows in row_parts(shape, matrix).items():
                letter = part or name.rpartition(".")[2][0]
                add(f"{block}.{name}", letter, f"{letter}.{layer}", RESID, layer, rows if part else None, part)
        add(f"{block}.{layout.attn_output}", "o", RESID, z, layer)
        add(f"{block}.{layout.mlp_input}", "gate" if layout.mlp_gated else "mlp in", units, RESID, layer)
        if layout.mlp_gated:
            add(f"{block}.{layout.mlp_gated}", "up", units, RESID, layer)
        add(f"{block}.{layout.mlp_output}", "down" if layout.mlp_gated else "mlp out", RESID, units, layer)
        for name in dict.fromkeys(filter(None, (layout.attn_norm, layout.mlp_norm, layout.attn_post, layout.mlp_post_norm))):
            norm(f"{block}.{name}", layer)
    norm(layout.final_norm)
    if not tied(model):
        add(layout.unembed, "unembed", None, RESID)
    _require_all(model, places)
    if max(sizes.values()) > MOST_UNITS:
        raise Refused(f"{max(sizes.values()):,} units would have to be matched at once; more than {MOST_UNITS:,} take gigabytes and hours.")
    rotates = {RESID: type(base.get_submodule(layout.final_norm.removeprefix(layout.base + "."))).__name__ == "LayerNorm"} if rotate else {}
    return Symmetry(Spec(axes, sizes, tuple(attention), rotates), places, model.n_layers)


def _require_all(model: Model, places: dict[str, Piece]) -> None:
    """Every parameter is a piece, or lies inside a head whose units keep their order (Qwen 3's norms of queries and keys)."""
    known = {place.parameter for place in places.values()}
    width = heads(model.config).d_head
    for name, parameter in model.module.named_parameters():
        inner = parameter.shape == (width,) and f".{model.layout.attn}." in name and model.layout.family != "gpt2"
        if name not in known and not inner:
            raise Refused(f"{name} {tuple(parameter.shape)} has no place in the map of {model.layout.family}, so its units cannot be reordered safely.")


def checked(model: Model, symmetry: Symmetry, seed: int = 0) -> Symmetry:
    """The symmetry itself, once a random legal reordering has left the logits of random tokens as they were; else Refused."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.config.vocab_size, (2, min(16, getattr(model.config, "max_position_embeddings", 16))), generator=generator)
    before = model.logits(ids).float()
    after = symmetry.permuted(model, random_maps(symmetry.spec, generator)).logits(ids).float()
    change = float((after - before).abs().max() / (1 + before.abs().max()))
    limit = 1e-4 if next(model.module.parameters()).dtype == torch.float32 else 0.1
    if not change <= limit:
        raise Refused(f"Reordering units by the map of {model.layout.family} changes {model.written}: a logit moves by {change:.2g} of its size "
                      f"(expected below {limit:g}). This architecture has something the map does not know; it cannot be aligned here.")
    return symmetry


def folded(model: Model) -> Model:
    """The same function with the scale of every norm in the matrices that read it, and the head apart from the embedding.

    Under LayerNorm the shift b becomes b / w: W (w ∘ x + b) = (W ∘ w)(x + b / w). Refused where a scale is zero.
    """
    layout = model.layout
    if model.config.model_type not in FOLDABLE:
        raise NotApplicable(f"The norms of {model.config.model_type} cannot be folded into the matrices after them; align its stream by permutation.")
    out = model.copy(f"{model.written}, norms folded")
    new: dict[str, torch.Tensor] = {}

    def fold(path: str, readers: list[torch.nn.Module]) -> list[torch.Tensor]:
        norm = model.module.get_submodule(path)
        w = norm.weight.detach().double()
        if bool((w == 0).any()):
            raise NotApplicable(f"{path} switches channels off (scale 0), so it cannot be folded; align the stream by permutation.")
        new[f"{path}.weight"] = torch.ones_like(w)
        if getattr(norm, "bias", None) is not None:
            new[f"{path}.bias"] = norm.bias.detach().double() / w
        return [m.weight.detach().double() * (w[:, None] if is_conv1d(m) else w) for m in readers]

    for layer, block in enumerate(model.blocks):
        path = f"{layout.blocks}.{layer}"
        for norm, readers in ((layout.attn_norm, layout.attn_inputs), (layout.mlp_norm, tuple(filter(None, (layout.mlp_input, layout.mlp_gated))))):
            weights = fold(f"{path}.{norm}", [block.get_submodule(name) for name in readers])
            new |= {f"{path}.{name}.weight": w for name, w in zip(readers, weights)}
    unembed = out.module.get_submodule(layout.unembed)
    (head,) = fold(layout.final_norm, [model.module.get_submodule(layout.unembed)])
    out.config.tie_word_embeddings = False
    unembed.weight = torch.nn.Parameter(head.to(unembed.weight), requires_grad=False)
    out.set_parameters(new)
    return out


def tied(model: Model) -> bool:
    head, embed = (model.module.get_submodule(path) for path in (model.layout.unembed, model.layout.embed))
    return head.weight is embed.weight


def untied(model: Model) -> Model:
    """The same function with a head of its own, where it was tied to the embedding."""
    if not tied(model):
        return model
    out = model.copy(model.written)
    head = out.module.get_submodule(out.layout.unembed)
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    out.config.tie_word_embeddings = False
    return out


def require_one_shape(a: Model, b: Model) -> None:
    """NotApplicable where units of one have no counterpart in the other."""
    if a.layout.family != b.layout.family:
        raise NotApplicable(f"{a.written} is a {a.layout.family} model and {b.written} a {b.layout.family} one: their units do the same job in different equations and cannot be matched.")
    shapes = [{name: tuple(p.shape) for name, p in m.module.named_parameters()} for m in (a, b)]
    for name in {**shapes[0], **shapes[1]}:
        left, right = (s.get(name, "absent") for s in shapes)
        if left != right:
            raise NotApplicable(f"{name} is {left} in {a.written} and {right} in {b.written}; only models of one shape can be matched unit by unit.")
