"""Multilayer perceptrons of one width, all at once: samples are columns, so a layer of all networks is one batched product
and batch norm sees the networks' units as channels without a copy."""

from __future__ import annotations

import math

import torch

from models.small_nets.nets import Recipe, Stack, normed


def sizes(width: int, recipe: Recipe, shape: tuple[int, ...], n_classes: int) -> list[tuple[int, int]]:
    """(out, in) of each layer."""
    widths = [math.prod(shape), *[width] * recipe.hidden, n_classes]
    return list(zip(widths[1:], widths))


def forward(stack: Stack, x: torch.Tensor, training: bool, see) -> torch.Tensor:
    """See nets.forward; x [feature, sample] or [net, feature, sample]."""
    if len(stack.nets) == 1:
        return _one(stack, x if x.dim() == 2 else x[0], training, see)
    h = x
    for layer in range(stack.recipe.hidden):
        h = affine(stack, layer, h)
        if stack.recipe.batch_norm:
            h = normed(stack, layer, h.reshape(1, -1, h.shape[-1]), training).view(h.shape)
        if see is not None:
            see(layer, h)
        h = torch.relu_(h) if training else torch.relu(h)
    return affine(stack, stack.recipe.hidden, h)


def affine(stack: Stack, layer: int, h: torch.Tensor) -> torch.Tensor:
    """[net, out, sample] of [net, in, sample], or of [in, sample] shared by all networks as one product."""
    w, b = stack.tensors[f"w{layer}"], stack.tensors[f"b{layer}"]
    if h.dim() == 2:
        return torch.addmm(b.view(-1, 1), w.reshape(-1, w.shape[2]), h).view(*b.shape, -1)
    return torch.baddbmm(b[:, :, None], w, h)


def _one(stack: Stack, x: torch.Tensor, training: bool, see) -> torch.Tensor:
    """One network alone, samples as rows, as one would write it: wide layers are multiplied faster in this order."""
    of = lambda name, layer: stack.tensors[f"{name}{layer}"].squeeze(0)
    h, linear = x.T, torch.nn.functional.linear
    for layer in range(stack.recipe.hidden):
        h = linear(h, of("w", layer), of("b", layer))
        if stack.recipe.batch_norm:
            h = normed(stack, layer, h, training)
        if see is not None:
            see(layer, h.T[None])
        h = torch.relu(h)
    return linear(h, of("w", stack.recipe.hidden), of("b", stack.recipe.hidden)).T[None]
