"""What can be said of a matrix without running the rest: its error, its output's error, its zeros, its singular values."""

from __future__ import annotations

import numpy as np
import torch

from metrics.damage import relative
from models.loaded import Model

SQUARES = 24  # of a mask's density map, a side


class Watch:
    """Inputs and outputs of every matrix while a model runs, [sequence, position, channel]; blocks that are removed leave nothing."""

    def __init__(self, model: Model, units: list):
        self.model, self.units, self.seen = model, units, {}

    def __enter__(self) -> Watch:
        self.handles = [self.model.blocks[layer].get_submodule(name).register_forward_hook(self._hook((layer, name))) for layer, name in self.units]
        return self

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, unit):
        def hook(module, args, output):
            self.seen[unit] = (args[0], output)

        return hook

    def take(self) -> dict:
        return self.seen


def energies(b: Model, units: list, changed: list, of_a: dict, of_b: dict, keep: torch.Tensor) -> np.ndarray:
    """[matrix, 3] sums over tokens of ‖f(x)‖², ‖f′(x) − f(x)‖² on A's inputs, ‖f′(x′) − f(x)‖² on what B feeds it."""
    out = np.zeros((len(units), 3))
    for u, (layer, name) in enumerate(units):
        if (layer, name) not in of_a:
            continue
        x, y = of_a[layer, name]
        y = y[keep]
        out[u, 0] = _square(y)
        if changed[u]:
            out[u, 1] = _square(b.blocks[layer].get_submodule(name)(x[keep]) - y)
        there = of_b.get((layer, name))
        out[u, 2] = _square(there[1][keep] - y) if there is not None else _square(y)  # a removed block gives nothing
    return out


def _square(x: torch.Tensor) -> float:
    return float(x.double().square().sum())


def of(a: Model, b: Model, units: list, changed: list, spectra: bool, progress) -> dict:
    """weight_error, zeros_a, zeros_b [matrix], density [matrix, square, square], spectrum_a, spectrum_b [matrix, rank]."""
    rank = max(min(a.matrix(*unit).shape) for unit in units) if spectra else 0
    error, zeros, density = np.zeros(len(units)), np.zeros((2, len(units))), np.zeros((len(units), SQUARES, SQUARES))
    spectrum = np.full((2, len(units), rank), np.nan)
    for u, unit in enumerate(units):
        progress.step(u, len(units), f"weights of {unit[1]}, block {unit[0]}")
        before, after = a.matrix(*unit), b.matrix(*unit)
        if changed[u]:
            error[u] = relative((after - before).double(), before.double())
        zeros[:, u] = [float((w == 0).double().mean()) for w in (before, after)]
        density[u] = squares(after != 0)
        if spectra:
            for k, w in enumerate((before, after)):
                values = singular_values(w) if k == 0 or changed[u] else spectrum[0, u, : min(w.shape)]
                spectrum[k, u, : len(values)] = values
    return {"weight_error": error, "zeros_a": zeros[0], "zeros_b": zeros[1], "density": density, "spectrum_a": spectrum[0], "spectrum_b": spectrum[1]}


def squares(kept: torch.Tensor, side: int = SQUARES) -> np.ndarray:
    """Share of True over a matrix [out, in] in side × side squares as equal as they can be; fewer rows or columns repeat."""
    table = torch.nn.functional.pad(kept.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    edges = [torch.linspace(0, n, side + 1).round().long() for n in kept.shape]
    low, high = [e[:-1].clamp(max=n - 1) for e, n in zip(edges, kept.shape)], [torch.maximum(e[1:], e[:-1].clamp(max=n - 1) + 1) for e, n in zip(edges, kept.shape)]
    whole = table[high[0]][:, high[1]] - table[low[0]][:, high[1]] - table[high[0]][:, low[1]] + table[low[0]][:, low[1]]
    return (whole / torch.outer(high[0] - low[0], high[1] - low[1])).cpu().numpy()


def singular_values(w: torch.Tensor) -> np.ndarray:
    """All singular values [min(out, in)], descending, in float64, from the smaller Gram matrix: values below 1e-8 of the largest are
    not exact."""
    w = w.double()
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).sqrt().cpu().numpy()
