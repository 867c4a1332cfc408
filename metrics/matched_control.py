"""The control of a compression that uses the same means without its wit: as many zeros at random, or as few bits by plain rounding."""

from __future__ import annotations

import torch

from metrics.grid import grid_of, grouped
from metrics.noise import noisy
from metrics.stored_bits import parameter_name
from models.loaded import Model

GROUP = 32  # weights that share a scale in the rounding control
WORDS = {"pruned": "as many random zeros", "rounded": "plain rounding to as many bits", "noise": "random noise of the same size"}


def comparable(a: Model, b: Model) -> bool:
    """Whether every matrix of A has its counterpart in B."""
    shapes = [{(i, name): m.matrix(i, name).shape for i in range(m.n_layers) for name in m.layout.matrices()} for m in (a, b)]
    return shapes[0] == shapes[1]


def matched(a: Model, b: Model, seed: int) -> tuple[Model, tuple[str, ...]]:
    """(A treated bluntly to B's size, which of WORDS was done). By matrix: rounded to nearest at B's whole number of bits where its
    recipe stores 2 to 8 (groups of 32); then as many weights zeroed at random as B has zeros beyond that; where neither applies,
    Gaussian noise of the change's norm."""
    out, noise = a.copy("matched control"), noisy(a, b, seed)
    generator = torch.Generator().manual_seed(seed)
    done = set()
    for layer, name, weight in a.matrices():
        other = b.matrix(layer, name)
        if torch.equal(weight, other):
            continue
        bits = b.bits.get(parameter_name(b, layer, name), 0.0) / weight.numel()
        value, kinds = weight.float(), []
        if 2 <= bits < 9 and a.bits.get(parameter_name(a, layer, name)) is None:
            w = grouped(value, GROUP if weight.shape[1] % GROUP == 0 else 0)
            value, kinds = grid_of(w, int(bits), False).snap(w).reshape(weight.shape), ["rounded"]
        zeros, least = int((other == 0).sum()), 0.25 if kinds else 0.01  # rounding makes some by itself, more on some grids
        if zeros < weight.numel() and zeros - int((value == 0).sum()) > least * weight.numel():
            value, kinds = _pruned(value, zeros, generator), ["pruned", *kinds]
        if not kinds:
            value, kinds = noise.matrix(layer, name).float(), ["noise"]
        out.set_matrix(layer, name, value)
        done |= set(kinds)
    return out, tuple(kind for kind in WORDS if kind in done)


def _pruned(weight: torch.Tensor, zeros: int, generator: torch.Generator) -> torch.Tensor:
    """The weight with exactly that many zeros: its own, and others at random."""
    flat = weight.float().flatten().clone()
    alive = (flat != 0).nonzero()[:, 0].cpu()
    gone = alive[torch.randperm(len(alive), generator=generator)[: zeros - (flat.numel() - len(alive))]]
    flat[gone.to(flat.device)] = 0
    return flat.reshape(weight.shape)
