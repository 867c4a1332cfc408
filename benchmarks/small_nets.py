"""Sixty-four small networks at once against a loop in torch: nn.Module, its batch norm, its fused Adam, one network after another.

    python -m benchmarks.small_nets [--widths 8.16.32.64.128.256.512] [--nets 64] [--updates 40]

Both make the same number of updates on batches of 64 from a training set in memory, with one thread; CPU seconds of this process,
the median of three. Target: ≥ 5 times at width ≤ 64. The ratio also says from which width on the loop wins.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from models.small_nets.data import Images, tiled
from models.small_nets.nets import Net, Recipe
from models.small_nets.training import train


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


def seconds(run) -> float:
    times = []
    for _ in range(3):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return statistics.median(times)


def random_images(n: int, side: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, 1, side, side, generator=generator), torch.randint(10, (n,), generator=generator)
    return Images("random", x, y, x[:8], y[:8], 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="8.16.32.64.128.256.512")
    parser.add_argument("--nets", type=int, default=64)
    parser.add_argument("--updates", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    n = 64 * arguments.updates
    for side, hidden in ((8, 1), (8, 3), (28, 1)):
        images = random_images(n, side)
        print(f"{side} × {side} pixels, {hidden} hidden layer{'s' * (hidden > 1)} with batch norm, {arguments.nets} networks, {arguments.updates} updates of 64")
        for width in map(int, arguments.widths.split(".")):
            nets = [Net(width, seed, tiled(n, n, n)) for seed in range(arguments.nets)]
            recipe = Recipe(hidden=hidden, epochs=1)
            one = seconds(lambda: loop(nets[: max(4, arguments.nets // 8)], recipe, images)) / max(4, arguments.nets // 8) * len(nets)
            ours = seconds(lambda: train(nets, recipe, images))
            print(f"  width {width:4d}   loop {one:6.2f} s   at once {ours:6.2f} s   ratio {one / ours:5.1f}")


if __name__ == "__main__":
    main()
