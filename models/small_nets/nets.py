"""What is trained: one small network as a value, how all of them are trained, and a stack of equal shapes in memory.

Every tensor of a stack has the networks as its first axis, so that one product serves all of them. Each network's numbers
come from its own seeds: it is the same network whichever others it is trained with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Net:
    """One network. `seed` draws the initial weights, `order` (None: the seed) the order of samples.

    rows    int64 [n]: rows of the training set that make an epoch, repeats allowed; None: all. All networks of one call need
            the same n, so that they make the same number of updates
    labels  int64 [training set]: labels in place of the data's own
    """

    width: int
    seed: int = 0
    rows: np.ndarray | None = None
    labels: np.ndarray | None = None
    weight_decay: float = 0.0
    order: int | None = None


@dataclass(frozen=True)
class Recipe:
    """How all networks of one call are trained.

    family        "mlp": `hidden` layers of `width` units. "conv": `hidden` layers of `width` channels, 3 × 3, each followed by
                  2 × 2 max-pooling. Each layer: affine, batch norm if asked, ReLU; then one affine layer to the classes
    weight decay  of "adam" and "sgd" is L2 added to the gradient, of "adamw" it shrinks the weights apart from it; on all
                  parameters, as torch's optimisers have it
    batch         samples per update; 0: the whole epoch in one
    schedule      "steps": × `factor` at each epoch of `milestones`. "cosine": to zero at the last update. Both after `warmup`
                  updates of linear rise
    """

    family: Literal["mlp", "conv"] = "mlp"
    hidden: int = 1
    batch_norm: bool = True
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-2
    momentum: float = 0.9
    batch: int = 64
    epochs: int = 40
    schedule: Literal["constant", "steps", "cosine"] = "steps"
    milestones: tuple[int, ...] = (20, 40, 60, 80, 100, 120, 140, 160, 180)
    factor: float = 0.1
    warmup: int = 0


@dataclass(frozen=True, eq=False)
class Stack:
    """Networks of one width. `nets` are their places in the list that was asked for.

    tensors, for each layer l: w{l} [net, out, in] ("conv": [net, out, in, 3, 3]), b{l}, and with batch norm gamma{l}, beta{l},
    the running mean{l} and var{l} (biased by nothing, as torch keeps them), all [net, out]; the last layer is w{hidden}, b{hidden}
    """

    nets: tuple[int, ...]
    recipe: Recipe
    tensors: dict[str, torch.Tensor] = field(repr=False)

    @property
    def trained(self) -> list[torch.Tensor]:
        """The tensors that training changes by gradient."""
        return [t for name, t in self.tensors.items() if not name.startswith(("mean", "var"))]

    def net(self, place: int) -> dict[str, np.ndarray]:
        """The arrays of one network, by its place in the list that was asked for; without the networks' axis, copied."""
        i = self.nets.index(place)
        return {name: t[i].detach().cpu().numpy().copy() for name, t in self.tensors.items()}

    def only(self, place: int) -> Stack:
        """A stack of one of the networks; shares memory."""
        i = self.nets.index(place)
        return Stack((place,), self.recipe, {name: t[i : i + 1].detach() for name, t in self.tensors.items()})


def forward(stack: Stack, x: torch.Tensor, training: bool = False, see=None) -> torch.Tensor:
    """Logits [net, class, sample] of x [channel, height, width, sample] ("conv") or [feature, sample] ("mlp"), read by every
    network; with the networks' axis in front, each reads its own. `see(layer, z)` is given every layer's pre-activations
    [net, unit, sample], after batch norm and before ReLU. Without `training` the running statistics of batch norm are used."""
    from models.small_nets import conv, mlp

    return (conv if stack.recipe.family == "conv" else mlp).forward(stack, x, training, see)


def initial(nets: list[Net], places: tuple[int, ...], recipe: Recipe, shape: tuple[int, ...], n_classes: int, dtype, device="cpu") -> Stack:
    """Untrained networks of one width for inputs of this shape (channel, height, width). Weights and biases are uniform within
    ± 1 / √(inputs of a unit), torch's default."""
    from models.small_nets import conv, mlp

    sizes = (conv if recipe.family == "conv" else mlp).sizes(nets[places[0]].width, recipe, shape, n_classes)
    drawn = [_drawn(sizes, recipe, nets[i].seed, dtype) for i in places]
    return Stack(places, recipe, {name: torch.stack([d[name] for d in drawn]).to(device) for name in drawn[0]})


def _drawn(sizes: list[tuple[int, ...]], recipe: Recipe, seed: int, dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    uniform = lambda shape, bound: (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1).mul(bound).to(dtype)
    tensors = {}
    for layer, shape in enumerate(sizes):
        out, bound = shape[0], float(np.prod(shape[1:])) ** -0.5
        tensors |= {f"w{layer}": uniform(shape, bound), f"b{layer}": uniform((out,), bound)}
        if recipe.batch_norm and layer < recipe.hidden:
            one, zero = torch.ones(out, dtype=dtype), torch.zeros(out, dtype=dtype)
            tensors |= {f"gamma{layer}": one, f"beta{layer}": zero, f"mean{layer}": zero.clone(), f"var{layer}": one.clone()}
    return tensors


def as_inputs(x: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """What `forward` reads, samples last: [feature, sample] ("mlp") or [channel, height, width, sample] ("conv") of images
    [sample, channel, height, width]; with axes of networks in front, they stay in front."""
    return (x.flatten(-3) if recipe.family == "mlp" else x).movedim(-2 if recipe.family == "mlp" else -4, -1)


def folded(stack: Stack, place: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Affine layers (W [out, in], b [out]), float64, of one "mlp" network: ReLU between them, batch norm folded in with its
    running statistics, so that the pre-activations are those that `forward` shows."""
    of, layers = stack.net(place), []
    for layer in range(stack.recipe.hidden + 1):
        w, b = of[f"w{layer}"].astype(np.float64), of[f"b{layer}"].astype(np.float64)
        if f"gamma{layer}" in of:
            scale = of[f"gamma{layer}"] / np.sqrt(of[f"var{layer}"].astype(np.float64) + 1e-5)
            w, b = w * scale[:, None], (b - of[f"mean{layer}"]) * scale + of[f"beta{layer}"]
        layers.append((w, b))
    return layers


def normed(stack: Stack, layer: int, flat: torch.Tensor, training: bool) -> torch.Tensor:
    """Batch norm of [batch, net · unit, …] with the statistics of each network's unit; momentum 0.1, ε 1e-5."""
    mean, var, gamma, beta = (stack.tensors[f"{name}{layer}"].view(-1) for name in ("mean", "var", "gamma", "beta"))
    return torch.nn.functional.batch_norm(flat, mean, var, gamma, beta, training, 0.1, 1e-5)
