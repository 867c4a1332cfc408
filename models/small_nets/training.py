"""Training many small networks at once, grouped by width; one after another where that is faster."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from models.progress import Quiet
from models.refusal import Refused
from models.small_nets.data import Images
from models.small_nets.gradient import Gradient
from models.small_nets.nets import Net, Recipe, Stack, as_inputs, forward, initial
from models.threads import one_thread

LOOP_FROM = 256  # units of a layer: from here on one network fills the machine (benchmarks/small_nets.py)
GROUP_BYTES = 4 << 20  # weights of one group: more fall out of the cache at every update
CHECK_EVERY = 20  # updates between two looks at a wish to cancel


@dataclass(frozen=True, eq=False)
class Look:
    """What `look` said of the networks at these places of the list, after so many epochs."""

    epoch: int
    nets: tuple[int, ...]
    value: dict


@dataclass(frozen=True, eq=False)
class Trained:
    """Networks at the end of training, in stacks of one width; `looks` in the order they were taken; losses float64
    [net, epoch], each the mean over the epoch's updates, in nats."""

    stacks: list[Stack]
    looks: list[Look]
    losses: np.ndarray

    def stack(self, place: int) -> Stack:
        """The network at this place of the list that was asked for, as a stack of one."""
        return next(s.only(place) for s in self.stacks if place in s.nets)


def train(nets: list[Net], recipe: Recipe, images: Images, *, look: Callable[[int, Stack], dict] | None = None, at: tuple[int, ...] = (),
          progress=None, batched: bool = True, device: str = "cpu") -> Trained:
    """Train every network on images.x, images.y; how they are grouped changes nothing but rounding.

    `look(epoch, stack)` is called at the epochs of `at` (0: before training); the arrays and plain values it gives (nested in
    dictionaries, lists and tuples) are kept, also across an interruption. `batched=False` trains one after another.
    Refused where the networks see differing numbers of samples in an epoch.
    """
    if not nets or len({_epoch_length(net, images) for net in nets}) > 1:
        raise Refused("Networks trained together must see equally many samples in an epoch; tile the smaller samples.")
    progress = progress or Quiet()
    x = images.x.to(device)
    losses, stacks, looks, running = np.full((len(nets), recipe.epochs), np.nan), [], [], None
    state = progress.saved()
    if state is not None:
        losses[:], running = state["losses"], state["running"]
        stacks = [Stack(tuple(places), recipe, tensors) for places, tensors in state["stacks"]]
        looks = [Look(epoch, tuple(places), value) for epoch, places, value in state["looks"]]
    total, done = len(nets) * recipe.epochs, sum(len(s.nets) for s in stacks) * recipe.epochs
    for places in groups(nets, recipe, images, batched)[len(stacks) :]:
        group = _Group(nets, places, recipe, images, x)
        if running is not None:
            group.restore(running)
            running = None
        while True:
            if look is not None and group.epoch in at:
                looks.append(Look(group.epoch, places, look(group.epoch, group.stack)))
            if group.epoch == recipe.epochs:
                break
            where = f"width {nets[places[0]].width}, {len(places)} of {len(nets)} networks, epoch {group.epoch + 1} of {recipe.epochs}"
            with one_thread(nets[places[0]].width < LOOP_FROM):
                mean = group.train_epoch(lambda: progress.step(done + group.epoch * len(places), total, where))
            losses[list(places), group.epoch - 1] = mean
            progress.save({"losses": losses, "running": group.state(), "stacks": [(s.nets, s.tensors) for s in stacks],
                           "looks": [(k.epoch, k.nets, k.value) for k in looks]})
            progress.step(done + group.epoch * len(places), total, where, {"loss": float(mean.mean())})
        done += len(places) * recipe.epochs
        stacks.append(Stack(places, recipe, {name: t.detach() for name, t in group.stack.tensors.items()}))
    return Trained(stacks, looks, losses)


def groups(nets: list[Net], recipe: Recipe, images: Images, batched: bool = True) -> list[tuple[int, ...]]:
    """Places of the networks that are trained at once: of one width, narrow enough, and small enough together."""
    by_width: dict[int, list[int]] = {}
    for i, net in enumerate(nets):
        by_width.setdefault(net.width, []).append(i)
    out = []
    for width, places in sorted(by_width.items()):
        one = initial(nets, (places[0],), recipe, images.shape, images.n_classes, torch.float32)
        most = max(1, GROUP_BYTES // sum(4 * t.numel() for t in one.trained)) if batched and width < LOOP_FROM else 1
        parts = math.ceil(len(places) / most)
        out += [tuple(int(i) for i in part) for part in np.array_split(places, parts)]
    return out


def _epoch_length(net: Net, images: Images) -> int:
    return len(images.y) if net.rows is None else len(net.rows)


class _Group:
    """Networks of one width in training, after `epoch` epochs."""

    def __init__(self, nets: list[Net], places: tuple[int, ...], recipe: Recipe, images: Images, x: torch.Tensor):
        self.nets, self.recipe, self.x, self.epoch = [nets[i] for i in places], recipe, x, 0
        self.stack = initial(nets, places, recipe, images.shape, images.n_classes, x.dtype, x.device)
        for tensor in self.stack.trained:
            tensor.requires_grad_()
        own = [images.y if net.labels is None else torch.from_numpy(np.asarray(net.labels, np.int64)) for net in self.nets]
        self.labels = torch.stack(own).to(x.device)  # [net, training sample]
        self.rows = np.stack([np.arange(len(images.y)) if net.rows is None else net.rows for net in self.nets])
        self.decay = torch.tensor([net.weight_decay for net in self.nets], dtype=x.dtype, device=x.device)
        self.decays = any(net.weight_decay for net in self.nets)
        self.optimizer = _optimizer(self.stack.trained, recipe)
        self.gradient = Gradient(self.stack) if recipe.family == "mlp" and len(places) > 1 else None
        self.per_epoch = len(self._batches())
        self.whole = self._whole() if self.per_epoch == 1 else None

    def _batches(self) -> list[tuple[int, int]]:
        """(first, past the last) sample of each update; a single sample left over is dropped, batch norm cannot use it."""
        n, size = self.rows.shape[1], self.recipe.batch or self.rows.shape[1]
        cuts = [(lo, min(lo + size, n)) for lo in range(0, n, size)]
        return cuts[:-1] if len(cuts) > 1 and cuts[-1][1] - cuts[-1][0] == 1 else cuts

    def _whole(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels of an epoch in one update: order does not matter, and inputs equal for all are held once."""
        rows = torch.from_numpy(self.rows).to(self.x.device)
        shared = bool((rows == rows[0]).all())
        return as_inputs(self.x[rows[0] if shared else rows], self.recipe), self.labels.gather(1, rows)

    def train_epoch(self, tick: Callable[[], None]) -> np.ndarray:
        """One pass over every network's samples; mean loss of each, float64 [net], in nats."""
        if self.whole is None:
            shuffled = [np.random.default_rng([net.seed if net.order is None else net.order, self.epoch]).permutation(row)
                        for net, row in zip(self.nets, self.rows)]
            order = torch.from_numpy(np.stack(shuffled)).to(self.x.device)
        cuts, sums = self._batches(), torch.zeros(len(self.nets), dtype=torch.float64, device=self.x.device)
        for i, (lo, hi) in enumerate(cuts):
            if self.whole is None:
                rows = order[:, lo:hi]
                sums += self._update(as_inputs(self.x[rows], self.recipe), self.labels.gather(1, rows), i)
            else:
                sums += self._update(*self.whole, i)
            if i % CHECK_EVERY == CHECK_EVERY - 1:
                tick()
        self.epoch += 1
        return (sums / len(cuts)).cpu().numpy()

    def _update(self, x: torch.Tensor, y: torch.Tensor, i: int) -> torch.Tensor:
        if self.gradient is not None:
            losses, gradients = self.gradient.losses(x, y), self.gradient.of
        else:
            losses = torch.nn.functional.cross_entropy(forward(self.stack, x, training=True), y, reduction="none").mean(1)
            gradients = torch.autograd.grad(losses.sum(), self.stack.trained)
        rate = learning_rate(self.recipe, self.epoch, self.epoch * self.per_epoch + i, self.per_epoch)
        with torch.no_grad():
            for tensor, gradient in zip(self.stack.trained, gradients):
                tensor.grad = gradient
                if self.decays:
                    decay = self.decay.view(-1, *[1] * (tensor.dim() - 1))
                    if self.recipe.optimizer == "adamw":
                        tensor.mul_(1 - rate * decay)
                    else:
                        gradient.addcmul_(tensor, decay)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        return losses.detach().double()

    def state(self) -> dict:
        """All that continuing needs; the order of samples follows from seeds and epoch."""
        moments = [dict(self.optimizer.state[t]) for t in self.stack.trained]
        return {"epoch": self.epoch, "tensors": {n: t.detach() for n, t in self.stack.tensors.items()}, "moments": moments}

    def restore(self, state: dict) -> None:
        self.epoch = state["epoch"]
        with torch.no_grad():
            for name, tensor in self.stack.tensors.items():
                tensor.copy_(state["tensors"][name])
        for tensor, moments in zip(self.stack.trained, state["moments"]):
            self.optimizer.state[tensor] = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in moments.items()}


def _optimizer(tensors: list[torch.Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """torch's own, fused; weight decay differs between networks and is applied by the caller."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(tensors, recipe.lr, momentum=recipe.momentum, fused=True)
    return torch.optim.Adam(tensors, recipe.lr, fused=True)


def learning_rate(recipe: Recipe, epoch: int, update: int, per_epoch: int) -> float:
    """The rate of one update, counted from 0 over the whole training."""
    if update < recipe.warmup:
        return recipe.lr * (update + 1) / recipe.warmup
    if recipe.schedule == "cosine":
        through = (update - recipe.warmup) / max(recipe.epochs * per_epoch - recipe.warmup, 1)
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * through))
    if recipe.schedule == "steps":
        return recipe.lr * recipe.factor ** sum(epoch >= m for m in recipe.milestones)
    return recipe.lr
