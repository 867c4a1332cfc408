"""A model's outline, read from its config and file headers: enough to refuse a recipe and to say how small it will be, with
nothing loaded.

An operator may supply `foresee(params, outline) -> Outline`: what it will leave and how many bits it will store. One that does
not is still checked at the door; only the size is then known first when it has been made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from types import SimpleNamespace

from models.layout import Layout, heads, layout_for
from models.refusal import Refused
from models.shape import Matrix, Shape, site_of

_OLD_NAMES = {"hidden_size": ("n_embd",), "num_hidden_layers": ("n_layer",), "num_attention_heads": ("n_head",), "max_position_embeddings": ("n_positions", "n_ctx")}
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
_TIED = ("gpt2", "gemma", "gemma2", "gemma3_text")  # families whose head is the embedding where the config does not say


@dataclass(frozen=True, eq=False)
class Outline:
    """`sizes` are the shapes of all parameters by name (a tied head is none of its own); `bits` what steps will store, as
    Model.bits; `zeros` the share of exact zeros in a block matrix; `sure` False once a size is only about right."""

    shape: Shape
    layout: Layout
    sizes: Mapping[str, tuple[int, ...]]
    dense: int
    context: int | None
    bits: Mapping[str, float] = field(default_factory=dict)
    zeros: Mapping[str, float] = field(default_factory=dict)
    removed: frozenset[tuple[int, str]] = frozenset()
    known: bool = True
    sure: bool = True

    @property
    def layers(self) -> tuple[int, ...]:
        return self.shape.layers

    @property
    def n_parameters(self) -> int:
        return sum(prod(s) for s in self.sizes.values())

    def name(self, matrix: Matrix) -> str:
        """The matrix among the parameters."""
        return f"{self.layout.blocks}.{matrix.layer}.{matrix.name}.weight"

    def value_bits(self, matrix: Matrix) -> float:
        """Bits of one weight as it stands before a step."""
        known = self.bits.get(self.name(matrix))
        return self.dense if known is None else known / (matrix.n_out * matrix.n_in)

    def storing(self, bits: Mapping[Matrix, float], zeros: Mapping[Matrix, float] | None = None) -> Outline:
        """The outline with these matrices stored in so many bits."""
        return replace(self, bits={**self.bits, **{self.name(m): float(b) for m, b in bits.items()}},
                       zeros={**self.zeros, **{self.name(m): float(z) for m, z in (zeros or {}).items()}})

    def quantised(self, matrix: Matrix, dense: float, per_code: float) -> float:
        """Bits of a quantised matrix, as metrics.stored_bits.quantised_bits counts them."""
        known = self.bits.get(self.name(matrix))
        if not known:
            return dense if known is None else 0.0
        size = matrix.n_out * matrix.n_in
        return dense - self.zeros.get(self.name(matrix), 0.0) * size * per_code + size

    def without(self, sublayers: frozenset[tuple[int, str]], sure: bool = True) -> Outline:
        """The outline with these (layer, kind) removed."""
        gone = self.removed | sublayers
        layers = tuple(i for i in self.shape.layers if not {(i, "attn"), (i, "mlp")} <= gone)
        shape = replace(self.shape, layers=layers, matrices=tuple(m for m in self.shape.matrices if (m.layer, m.kind) not in gone))
        return replace(self, shape=shape, removed=gone, sure=self.sure and sure)


def outline_of(config: Mapping, tensors: Mapping, dtype_bits: int = 32) -> Outline:
    """From a believed config and the tensors' headers (name → something with .shape); Refused where there is no module map."""
    named = SimpleNamespace(**{**{new: next((config[o] for o in old if config.get(o)), None) for new, old in _OLD_NAMES.items()}, **config})
    if not hasattr(named, "use_parallel_residual"):
        named.use_parallel_residual = True
    layout = layout_for(named)
    sizes = _sizes(layout, named, tensors)
    matrices = []
    for layer in range(named.num_hidden_layers):
        for name in layout.matrices():
            size = sizes.get(f"{layout.blocks}.{layer}.{name}.weight")
            if size is None or len(size) != 2:
                raise Refused(f"Found no matrix {name} in block {layer} of this checkpoint; it cannot be compressed as a {layout.family} model.")
            kind, site = site_of(layout, layer, name)
            matrices.append(Matrix(layer, name, kind, *(size[::-1] if layout.family == "gpt2" else size), site))
    norm = "LayerNorm" if any(k in config for k in ("layer_norm_epsilon", "layer_norm_eps")) or layout.family in ("gpt2", "gpt_neox") else "RMSNorm"
    layers = tuple(range(named.num_hidden_layers))
    shape = Shape(layout.family, named.hidden_size, len(layers), layers, heads(named), norm, tuple(matrices))
    return Outline(shape, layout, sizes, dtype_bits, named.max_position_embeddings)


def _sizes(layout: Layout, config, tensors: Mapping) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters under the names they have in memory: the base model's prefix added where a file lacks it."""
    own = {name: tuple(t.shape) for name, t in tensors.items() if not name.endswith(_BUFFERS)}
    if not any(name.startswith(f"{layout.base}.") for name in own):
        own = {name if name.startswith(layout.unembed) else f"{layout.base}.{name}": s for name, s in own.items()}
    head = f"{layout.unembed}.weight"
    if getattr(config, "tie_word_embeddings", layout.family in _TIED):
        own.pop(head, None)
    return own
