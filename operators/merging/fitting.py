"""Least squares, matrix by matrix: what the merged weights must be so that they give the parents' mean outputs from their mean inputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from metrics.permutation.activations import unit_activations
from models.layout import is_conv1d
from models.loaded import Model
from models.shape import Matrix, row_parts, shape_of
from operators.merging.parents import State

SEEN = ("attn_in", "q", "k", "v", "z", "attn_out", "mlp_in", "mlp_pre", "mlp_up", "mlp", "mlp_out")


class Regression:
    """Σ x xᵀ, Σ z xᵀ, Σ x, Σ z over tokens, float64: inputs x [token, in], wanted outputs z [token, out]."""

    def __init__(self):
        self.n, self.xx, self.zx, self.x, self.z = 0, 0.0, 0.0, 0.0, 0.0

    def add(self, x: torch.Tensor, z: torch.Tensor) -> None:
        x, z = x.double(), z.double()
        self.n += len(x)
        self.xx, self.zx, self.x, self.z = self.xx + x.T @ x, self.zx + z.T @ x, self.x + x.sum(0), self.z + z.sum(0)

    def solve(self, weight: torch.Tensor, bias: torch.Tensor | None, damping: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(weight [out, in], bias [out]) nearest to the wanted outputs, drawn to the given ones; the bias takes what the means leave."""
        xx, zx = self.xx / self.n, self.zx / self.n
        mean_x, mean_z = self.x / self.n, self.z / self.n
        if bias is not None:
            xx, zx = xx - torch.outer(mean_x, mean_x), zx - torch.outer(mean_z, mean_x)
        damped = xx + (damping * xx.diagonal().mean() + 1e-30) * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
        new = weight + torch.linalg.solve(damped, (zx - weight @ xx).T).T
        return new, None if bias is None else mean_z - new @ mean_x


def fitted(a: Model, b: Model, orders: list, merged: State, damping: float, ids: torch.Tensor, keep: torch.Tensor, progress) -> State:
    """The merged matrices and biases of all blocks, fitted; b is in a's order, `orders` says which MLP units stand apart (see pleas)."""
    places = dict(_places(a))
    sums = {key: Regression() for key in places}
    done, n = 0, int(keep.sum())
    for one, other in zip(unit_activations(a, ids, keep, SEEN), unit_activations(b, ids, keep, SEEN)):
        progress.step(done, n, "least squares on the text")
        for (layer, name, part), (inputs, outputs) in places.items():
            widened = lambda kind: _spread(kind, layer, one, other, orders[layer])
            sums[layer, name, part].add(widened(inputs), widened(outputs))
        done += len(next(iter(one.values())))
    return _solved(a, merged, sums, damping)


def _places(model: Model) -> Iterator:
    """((layer, matrix, part), (kind of input, kind of output)) of every matrix of every block that is left."""
    layout, shape = model.layout, shape_of(model)
    for m in shape.matrices:
        if m.name in layout.attn_inputs:
            for part in row_parts(shape, m):
                yield (m.layer, m.name, part), ("attn_in", part or m.name.rpartition(".")[2][0])
        else:
            yield (m.layer, m.name, ""), {layout.attn_output: ("z", "attn_out"), layout.mlp_input: ("mlp_in", "mlp_pre"),
                                          layout.mlp_gated: ("mlp_in", "mlp_up"), layout.mlp_output: ("mlp", "mlp_out")}[m.name]


def _spread(kind: str, layer: int, one: dict, other: dict, order: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The parents' mean of an activation [token, channel]; of MLP units the mean of pairs, then A's and B's own."""
    x, y = one[kind, layer], other[kind, layer]
    if kind not in ("mlp", "mlp_pre", "mlp_up"):
        return (x + y) / 2
    pairs, both = order
    kept = both[: len(both) // 2]
    return torch.cat([(x[:, pairs] + y[:, pairs]) / 2, x[:, kept], y[:, kept]], 1)


def _solved(model: Model, merged: State, sums: dict, damping: float) -> State:
    layout, shape, out = model.layout, shape_of(model), {}
    for (layer, name, part), regression in sums.items():
        module = model.blocks[layer].get_submodule(name)
        path = f"{layout.blocks}.{layer}.{name}"
        weight = out.get(f"{path}.weight", merged[f"{path}.weight"]).clone()
        bias = out.get(f"{path}.bias", merged.get(f"{path}.bias"))
        view = weight.T if is_conv1d(module) else weight
        rows = row_parts(shape, Matrix(layer, name, "attn", *model.matrix(layer, name).shape, None))[part] if part else torch.arange(len(view))
        new, shift = regression.solve(view[rows], None if bias is None else bias[rows], damping)
        view[rows] = new
        out[f"{path}.weight"] = weight
        if bias is not None:
            out[f"{path}.bias"] = bias.clone().index_copy(0, rows.to(bias.device), shift)
    return out
