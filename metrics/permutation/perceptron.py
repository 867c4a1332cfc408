"""Multilayer perceptrons as pieces: which units may be reordered, their outputs and loss as functions of the weights, matching by activations.

Pieces of layer l are w{l} [out, in] and b{l} [out]; hidden layer l is the space mlp.{l}; inputs and classes are fixed. ReLU between layers.
"""

from __future__ import annotations

import numpy as np
import torch

from metrics.permutation.activations import CrossMoments
from metrics.permutation.matching import assign
from metrics.permutation.singular import Along, Singular
from metrics.permutation.spec import Maps, Pieces, Spec


def spec_of(pieces: Pieces) -> Spec:
    """The symmetry of a perceptron: every hidden layer in any order."""
    depth = sum(name.startswith("w") for name in pieces)
    space = lambda layer: f"mlp.{layer}" if 0 <= layer < depth - 1 else None
    axes = {}
    for layer in range(depth):
        axes |= {f"w{layer}": (space(layer), space(layer - 1)), f"b{layer}": (space(layer),)}
    return Spec(axes, {space(layer): len(pieces[f"b{layer}"]) for layer in range(depth - 1)})


def hidden(pieces: Pieces, x: torch.Tensor) -> list[torch.Tensor]:
    """What each layer reads, [sample, in] of every layer, and last the logits [sample, class]; x [sample, feature]."""
    depth, out = sum(name.startswith("w") for name in pieces), [x]
    for layer in range(depth):
        x = torch.nn.functional.linear(x, pieces[f"w{layer}"], pieces[f"b{layer}"])
        x = torch.relu(x) if layer < depth - 1 else x
        out.append(x)
    return out


def mean_loss(pieces: Pieces, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats; differentiable."""
    return torch.nn.functional.cross_entropy(hidden(pieces, x)[-1], y)


def mixture(networks: list[Pieces], weights: np.ndarray) -> dict[str, torch.Tensor]:
    """Σ weights[m] · networks[m]."""
    return {name: sum(float(w) * n[name] for w, n in zip(weights, networks)) for name in networks[0]}


def mixture_losses(networks: list[Pieces], weights: np.ndarray, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """[point, (loss in nats, accuracy)] of the mixtures at each row of weights [point, network]."""
    out = np.zeros((len(weights), 2))
    with torch.no_grad():
        for i, w in enumerate(weights):
            logits = hidden(mixture(networks, w), x)[-1]
            out[i] = float(torch.nn.functional.cross_entropy(logits, y)), float((logits.argmax(1) == y).double().mean())
    return out


def activation_matching(spec: Spec, a: Pieces, b: Pieces, x: torch.Tensor) -> Maps:
    """The order of B's units that fire most alike on x: one assignment a layer, on correlations after ReLU; a still unit correlates with none."""
    with torch.no_grad():
        of_a, of_b = hidden(a, x), hidden(b, x)
    maps = {}
    for layer, space in enumerate(spec.sizes):
        moments = CrossMoments()
        moments.add(of_a[layer + 1], of_b[layer + 1])
        maps[space] = assign(moments.correlation())
    return maps


def along(pieces: Pieces, vectors: dict[str, Singular], x: torch.Tensor) -> dict[str, np.ndarray]:
    """E|v · x| / ‖x‖ of every matrix's right singular vectors over what it reads; inputs that are all zero are left out."""
    out = {}
    with torch.no_grad():
        read = hidden(pieces, x)
    for name, found in vectors.items():
        statistic, inputs = Along(found.v), read[int(name[1:])]
        statistic.add(inputs[inputs.norm(dim=1) > 0])
        out[name] = statistic.mean()
    return out
