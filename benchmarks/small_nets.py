"""Sixty-four small networks at once against a loop in torch: nn.Module, its batch norm, its fused Adam, one network after another.

    python -m benchmarks.small_nets [--widths 8.16.32.64.128.256.512] [--nets 64] [--updates 40] [--rounds 5]

Both make the same number of updates on batches of 64 from a training set in memory, with one thread; CPU seconds of this process,
median and range of interleaved rounds. Target: ≥ 5 times at width ≤ 64. The ratio also says from which width on the loop wins.
*Products alone* is the ratio that would be left if an update were nothing but its matrix products, at the speed of torch's batched
ones: where that is below 5, no way of batching reaches the target on this machine.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch

from models.small_nets.data import Images, tiled
from models.small_nets.nets import Net, Recipe
from models.small_nets.training import train

TARGET = 5.0


def loop(nets: list[Net], recipe: Recipe, images: Images) -> None:
    """What one would write: a module, an optimiser, an epoch loop."""
    x, nn = images.x.flatten(1), torch.nn
    for net in nets:
        torch.manual_seed(net.seed)
        sizes = [x.shape[1], *[net.width] * recipe.hidden]
        layers = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
        model = nn.Sequential(*layers, nn.Linear(sizes[-1], images.n_classes))
        optimizer = torch.optim.Adam(model.parameters(), recipe.lr, fused=True)
        for _ in range(recipe.epochs):
            for rows in torch.from_numpy(np.random.permutation(net.rows)).split(recipe.batch):
                loss = nn.functional.cross_entropy(model(x[rows]), images.y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def products(width: int, hidden: int, n_inputs: int, n_nets: int, updates: int) -> None:
    """Only the matrix products that the updates cannot do without: forward, by weights, and by inputs above the first layer."""
    sizes = [n_inputs, *[width] * hidden, 10]
    layers = [(torch.randn(n_nets, b, a), torch.randn(n_nets, a, 64), torch.randn(n_nets, b, 64)) for a, b in zip(sizes, sizes[1:])]
    for _ in range(updates):
        for i, (w, h, z) in enumerate(layers):
            torch.bmm(w, h, out=z)
            torch.bmm(z, h.mT, out=w)
            if i:
                torch.bmm(w.mT, z, out=h)
        for w, h, z in layers:  # numbers must not grow out of range
            w.fill_(0.01), h.fill_(0.5)


def seconds(run) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def random_images(n: int, side: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, 1, side, side, generator=generator), torch.randint(10, (n,), generator=generator)
    return Images("random", x, y, x[:8], y[:8], 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="8.16.32.64.128.256.512")
    parser.add_argument("--nets", type=int, default=64)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    n, few = 64 * arguments.updates, max(4, arguments.nets // 8)
    for side, hidden in ((8, 1), (8, 2), (8, 3), (28, 1), (28, 2)):
        images = random_images(n, side)
        print(f"{side} × {side} pixels, {hidden} hidden layer{'s' * (hidden > 1)} with batch norm, {arguments.nets} networks, {arguments.updates} updates of 64, load {os.getloadavg()[0]:.1f}")
        for width in map(int, arguments.widths.split(".")):
            nets = [Net(width, seed, tiled(n, n, n)) for seed in range(arguments.nets)]
            recipe = Recipe(hidden=hidden, epochs=1)
            rounds = []
            for _ in range(arguments.rounds):
                one = seconds(lambda: loop(nets[:few], recipe, images)) / few * len(nets)
                ours = seconds(lambda: train(nets, recipe, images))
                rounds.append((one, ours, one / ours, one / seconds(lambda: products(width, hidden, side * side, len(nets), arguments.updates))))
            one, ours, ratio, bound = np.median(rounds, 0)
            low, high = (sorted(r[2] for r in rounds)[i] for i in (0, -1))
            said = "" if width > 64 else " met" if ratio >= TARGET else " NOT met"
            print(f"  width {width:4d}   loop {one:6.2f} s   at once {ours:6.2f} s   ratio {ratio:5.1f} ({low:.1f}–{high:.1f}){said:8s}   products alone would give {bound:5.1f}", flush=True)


if __name__ == "__main__":
    main()
