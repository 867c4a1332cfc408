"""A subnetwork is a model with only some of its weights: the masks, what is in them, and how much two of them share.

Masks are one bool [out, in] per attention and MLP matrix, by the matrix's key; embeddings, unembedding, norms and biases
always stay. A random-matched subnetwork has the same count in every matrix, at shuffled places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.sparsity import unpack
from models.layout import Heads
from models.loaded import Model
from models.shape import Matrix, Shape, row_parts, shape_of

Masks = dict  # matrix key -> bool [out, in]
ATTENTION = ("Q", "K", "V", "O")


def unpacked(kept: dict[str, torch.Tensor], shape: Shape) -> Masks:
    """Masks of a stored plan, for the matrices of `shape`."""
    return {m.key: unpack(kept[m.key], m.n_in) for m in shape.matrices if m.key in kept}


def subnetwork(model: Model, masks: Masks, written: str = "subnetwork") -> Model:
    """The model with every masked-out weight zero; matrices without a mask are left as they are."""
    out = model.copy(written)
    for m in shape_of(model).matrices:
        if m.key in masks:
            weight = model.matrix(m.layer, m.name)
            out.set_matrix(m.layer, m.name, weight * masks[m.key].to(weight.device))
    return out


def complement(masks: Masks) -> Masks:
    return {key: ~mask for key, mask in masks.items()}


def nothing(shape: Shape) -> Masks:
    """The empty subnetwork."""
    return {m.key: torch.zeros(m.n_out, m.n_in, dtype=torch.bool) for m in shape.matrices}


def shuffled(masks: Masks, seed: int, among: Masks | None = None) -> Masks:
    """The same count in every matrix, at random places; `among`: places that may be taken (all, where they are too few)."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for key, mask in masks.items():
        k = int(mask.sum())
        free = among[key].flatten().nonzero()[:, 0] if among is not None and int(among[key].sum()) >= k else torch.arange(mask.numel())
        out[key] = torch.zeros(mask.numel(), dtype=torch.bool)
        out[key][free[torch.randperm(len(free), generator=generator)[:k]]] = True
        out[key] = out[key].view_as(mask)
    return out


def n_active(masks: Masks) -> int:
    return int(sum(int(mask.sum()) for mask in masks.values()))


# ---- where the weights of a subnetwork are


def component(matrix: Matrix, part: str, layout) -> str:
    """The name that figures use: Q, K, V, O, MLP in, MLP up, MLP out."""
    if part:
        return part.upper()
    if matrix.name == layout.attn_output:
        return "O"
    if matrix.kind == "attn":
        return {"q": "Q", "k": "K", "v": "V"}[matrix.name.rsplit(".", 1)[-1][0]]
    return {layout.mlp_input: "MLP in", layout.mlp_gated: "MLP up", layout.mlp_output: "MLP out"}[matrix.name]


def components(model: Model) -> tuple[str, ...]:
    """The components that the model's blocks have, attention first."""
    return (*ATTENTION, "MLP in", *(["MLP up"] if model.layout.mlp_gated else []), "MLP out")


@dataclass(frozen=True, eq=False)
class Where:
    """Counts of active weights: layer [block, component]; head [block, Q K V O, head], NaN beyond the number of K/V heads
    (queries of a group share one K and V, which is counted once, under its own index)."""

    layer: np.ndarray
    head: np.ndarray


def where(model: Model, masks: Masks) -> Where:
    """Blocks by their index in the unmodified checkpoint; a matrix that is gone counts nothing. Fused Q, K, V are taken apart
    as the architecture lays them out: three thirds in GPT-2, head by head (head, QKV, d_head) in GPT-NeoX."""
    shape, names = shape_of(model), components(model)
    h = shape.heads
    layer = np.zeros((model.n_layers, len(names)))
    head = np.full((model.n_layers, 4, h.n_heads), np.nan)
    head[:, [0, 3]], head[:, 1:3, : h.n_kv] = 0, 0
    for m in shape.matrices:
        for part, rows in row_parts(shape, m).items():
            name = component(m, part, model.layout)
            mask = masks[m.key][rows]
            layer[m.layer, names.index(name)] += int(mask.sum())
            if name in ATTENTION:
                each = _by_head(mask, name, h)
                head[m.layer, ATTENTION.index(name), : len(each)] = each
    return Where(layer, head)


def _by_head(mask: torch.Tensor, name: str, heads: Heads) -> np.ndarray:
    """Active weights of each head: rows of Q, K, V, columns of O."""
    if name == "O":
        return mask.sum(0).view(heads.n_heads, -1).sum(1).numpy()
    return mask.sum(1).view(heads.n_heads if name == "Q" else heads.n_kv, -1).sum(1).numpy()


# ---- how much two subnetworks share


@dataclass(frozen=True)
class Overlap:
    """`shared` weights of two masks with a and b active ones among n. Under the null each mask lies at random within each
    matrix: `expected` and `spread` (a standard deviation) are those of the sum of hypergeometric counts, exactly.
    `expected_rows`: only whole rows are shuffled, as the paper's code does, which keeps each column's count."""

    shared: int
    a: int
    b: int
    n: int
    expected: float
    spread: float
    expected_rows: float

    @property
    def z(self) -> float:
        return (self.shared - self.expected) / self.spread if self.spread > 0 else 0.0

    @property
    def ratio(self) -> float:
        return self.shared / self.expected if self.expected > 0 else float("nan")


def overlap(a: Masks, b: Masks) -> Overlap:
    """Over the matrices that both have."""
    shared = count_a = count_b = n = 0
    expected = variance = rows = 0.0
    for key in a.keys() & b.keys():
        x, y = a[key], b[key]
        k, l, size = int(x.sum()), int(y.sum()), x.numel()
        shared, count_a, count_b, n = shared + int((x & y).sum()), count_a + k, count_b + l, n + size
        expected += k * l / size
        variance += k * l * (size - k) * (size - l) / (size**2 * max(size - 1, 1))
        rows += float((x.sum(0).double() * y.sum(0).double()).sum() / len(x))
    return Overlap(shared, count_a, count_b, n, expected, variance**0.5, rows)
