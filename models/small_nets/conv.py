"""Small convolutional networks of one width, all at once: the networks are groups of channels of one convolution."""

from __future__ import annotations

import torch

from models.refusal import Refused
from models.small_nets.mlp import affine
from models.small_nets.nets import Recipe, Stack, normed


def sizes(width: int, recipe: Recipe, shape: tuple[int, int, int], n_classes: int) -> list[tuple[int, ...]]:
    """Shapes of the weights: (out, in, 3, 3) of each convolution, (out, in) of the last layer."""
    channels, height, across = shape
    layers = []
    for layer in range(recipe.hidden):
        if min(height, across) < 2:
            raise Refused(f"{recipe.hidden} convolutions, each halving the image, are too many for {shape[1]} × {shape[2]} pixels; ask for at most {layer}.")
        layers.append((width, channels, 3, 3))
        channels, height, across = width, height // 2, across // 2
    return [*layers, (n_classes, channels * height * across)]


def forward(stack: Stack, x: torch.Tensor, training: bool, see) -> torch.Tensor:
    """See nets.forward; x [channel, height, width, sample] or [net, channel, height, width, sample]."""
    n_nets = len(stack.nets)
    groups = 1 if x.dim() == 4 else n_nets  # a shared image is read by all filters at once
    h = x.movedim(-1, 0).flatten(1, -3)
    for layer in range(stack.recipe.hidden):
        w, b = stack.tensors[f"w{layer}"], stack.tensors[f"b{layer}"]
        h = torch.nn.functional.conv2d(h, w.flatten(0, 1), b.view(-1), padding=1, groups=groups)
        if stack.recipe.batch_norm:
            h = normed(stack, layer, h, training)
        if see is not None:
            see(layer, h.view(len(h), n_nets, -1).permute(1, 2, 0))
        h = torch.nn.functional.max_pool2d(torch.relu(h), 2)
        groups = n_nets
    return affine(stack, stack.recipe.hidden, h.reshape(len(h), n_nets, -1).permute(1, 2, 0))
