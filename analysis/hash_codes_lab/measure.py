"""From parameters to a Result: train the grid, take its nulls, keep one network's codes and weights for the closer looks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pyarrow as pa
import torch

from analysis.hash_codes_lab.grid import BASE_DECAY, MEASURES, Cell, Grid, code_measures, coded, grid_of, looker, recipe_of, slow_measures
from metrics import code_probes, codes, regions
from models.home import home
from models.refusal import Refused
from models.small_nets import shelf
from models.small_nets.data import Images
from models.small_nets.nets import Stack, folded, initial
from models.small_nets.training import LOOP_FROM, train
from models.threads import one_thread

PAIRS = 2_000  # for the histogram of distances, within a class and between
LINES = 60  # pairs of test images whose line is cut into regions, of either kind
GROUPS, MEMBERS = 12, 8  # of images that share a code: how many are kept to be shown
SHOWN_TEST = 1_000  # test images kept, so that any three of them may span a plane
STATES = ("untrained", "trained")


@dataclass(frozen=True, eq=False)
class Result:
    """cells: one row per network, null and epoch, columns as in `_network_rows`. focus: the width looked at closely.

    pairs       int64 [code (untrained, trained, hyperplanes), within or between classes, distance]: pairs of test images
    on_fraction float64 [state, unit]: share of training images a unit is on for, first network of the focus
    lines       rows (state, repeat, kind, a, b, hamming, regions): regions along a line between two test images
    layers      state -> ((W [out, in], b [out]) of each layer), float64, batch norm folded in; empty for convolutions
    x_test, y_test  float32 [image, channel, height, width] and int64: the first test images
    shared, shared_images  rows (group, size, majority, purity, images) of training images that share a code in the trained
                network, and float32 [group, member, height, width] of the largest, NaN where a group has fewer
    """

    cells: pa.Table
    focus: int
    n_bits: int
    n_classes: int
    n_train: int
    n_test: int
    n_nets: int
    pairs: np.ndarray
    on_fraction: np.ndarray
    lines: pa.Table
    layers: dict
    x_test: np.ndarray
    y_test: np.ndarray
    shared: pa.Table
    shared_images: np.ndarray
    shared_null: tuple  # purity with shuffled labels: mean, 2.5 and 97.5 % points

    @property
    def n_sequences(self) -> int:
        return self.n_train + self.n_test

    @property
    def n_inputs(self) -> int:
        return self.n_train + self.n_test


def compute(captures: tuple, params, progress) -> Result:
    """Train every network of the grid with codes taken on the way; then the nulls and the closer looks."""
    images = shelf.load(params.images, params.train_images, params.test_images, params.seed, home())
    grid = grid_of(params, len(images.y))
    with one_thread(grid.widths[-1] < LOOP_FROM):
        return _measured(grid, images, params, progress)


def _measured(grid: Grid, images: Images, params, progress) -> Result:
    recipe = recipe_of(params)
    nets = [grid.net(cell, images) for cell in grid.cells]
    trained = train(nets, recipe, images, look=looker(grid, images), at=grid.epochs, progress=progress)
    if not np.isfinite(trained.losses).all():
        raise Refused(f"Training with a learning rate of {params.lr:g} diverged: the loss is no longer a number. Ask for a smaller one.")
    rows = _network_rows(grid, trained)
    rows += _null_rows(grid, images, {row["width"]: row["bits"] for row in rows}, params.repeats, progress)
    first = [i for i, cell in enumerate(grid.cells) if cell == Cell(grid.focus, grid.total, cell.repeat)]
    stacks = {"untrained": [initial(nets, (i,), recipe, images.shape, images.n_classes, images.x.dtype) for i in first], "trained": [trained.stack(i) for i in first]}
    of_train, of_test = ({state: coded(stacks[state][0], x) for state in STATES} for x in (images.x, images.x_test))
    plain = params.family == "mlp"
    shared, shown, null = _shared(of_train["trained"].packed[0], images, params.seed)
    n_bits = of_test["trained"].n_bits
    return Result(
        _table(rows), grid.focus, n_bits, images.n_classes, len(images.y), len(images.y_test), len(nets), _pairs(of_test, images, n_bits, params.seed),
        np.stack([codes.unpack(of_train[s].packed[0], n_bits).mean(0) for s in STATES]), _lines(stacks, images, params.seed, progress) if plain else pa.table({}),
        {s: tuple(folded(stacks[s][0], first[0])) for s in STATES} if plain else {}, images.x_test[:SHOWN_TEST].numpy(), images.y_test[:SHOWN_TEST].numpy(),
        shared, shown, null,
    )


def _network_rows(grid: Grid, trained) -> list[dict]:
    rows = []
    for look in trained.looks:
        for i, place in enumerate(look.nets):
            rows.append({"source": "network", **_labels(grid.cells[place]), "bits": int(look.value["bits"]), "epoch": look.epoch,
                         **{name: _value(look.value[name][i]) for name in MEASURES}, "loss": float(trained.losses[place, look.epoch - 1]) if look.epoch else None})
    return rows


def _labels(cell: Cell) -> dict:
    return {"width": cell.width, "samples": cell.samples, "repeat": cell.repeat, "weight_decay": cell.decay, "wrong_labels_percent": cell.noise}


def _value(x: float) -> float | None:
    return None if np.isnan(x) else float(x)


def _table(rows: list[dict]) -> pa.Table:
    names = {name: None for row in rows for name in row}
    return pa.Table.from_pylist([{**names, **row} for row in rows])


def _null_rows(grid: Grid, images: Images, bits: dict[int, int], repeats: int, progress) -> list[dict]:
    """Random hyperplanes with the bits of each width, and the raw pixels; on the training samples that the networks saw."""
    x, x_test, y, y_test = images.x.flatten(1).numpy(), images.x_test.flatten(1).numpy(), images.y.numpy(), images.y_test.numpy()
    rows, centre = [], x.mean(0)
    wanted = list(product(grid.widths, grid.samples, range(repeats)))
    for done, (width, n, repeat) in enumerate(wanted):
        progress.step(done, len(wanted), f"random hyperplanes, {bits[width]} bits")
        cell = Cell(width, n, repeat)
        chosen = grid.rows(cell)
        train, test = (codes.hyperplanes(z, bits[width], grid.seed + 7_919 * (repeat + 1), centre) for z in (x, x_test))
        read = code_measures(train[chosen], y[chosen], test, y_test, images.n_classes, bits[width], grid.seed, grid.thorough(cell, grid.epochs[-1]))
        rows.append({"source": "hyperplanes", **_labels(cell), "bits": bits[width], **{k: _value(v) for k, v in read.items()}})
    for n, repeat in product(grid.samples, range(repeats)):
        progress.step(len(wanted), len(wanted), f"raw pixels, {n} images")
        chosen = grid.rows(Cell(grid.focus, n, repeat))
        read = {"knn": code_probes.raw_nearest_accuracy(x[chosen], y[chosen], x_test, y_test, images.n_classes)}
        if repeat == 0:
            read |= slow_measures(x[chosen], y[chosen], x_test, y_test, images.n_classes, grid.seed)
        rows.append({"source": "raw", "samples": n, "repeat": repeat, "weight_decay": BASE_DECAY, "wrong_labels_percent": 0, **{k: _value(v) for k, v in read.items()}})
    return rows


def _pairs(of_test: dict, images: Images, n_bits: int, seed: int) -> np.ndarray:
    centre = images.x.flatten(1).numpy().mean(0)
    packed = [*(of_test[s].packed[0] for s in STATES), codes.hyperplanes(images.x_test.flatten(1).numpy(), n_bits, seed + 7_919, centre)]
    counted = [[np.bincount(d, minlength=n_bits + 1) for d in codes.pair_distances(p, images.y_test.numpy(), PAIRS, seed)] for p in packed]
    return np.array(counted, np.int64)


def _lines(stacks: dict[str, list[Stack]], images: Images, seed: int, progress) -> pa.Table:
    """Regions along the line between two test images, of one class or of two."""
    x, y = images.x_test.flatten(1).double().numpy(), images.y_test.numpy()
    i, j = np.random.default_rng(seed).integers(0, len(y), (2, 100 * LINES))
    same, rows = y[i] == y[j], []
    for state, (repeat, stack) in ((s, pair) for s in STATES for pair in enumerate(stacks[s])):
        progress.step(0, 0, f"regions along lines, {state} network {repeat + 1}")
        layers = folded(stack, stack.nets[0])
        on = regions.code(layers, x)
        for kind, chosen in (("one class", same & (i != j)), ("two classes", ~same)):
            for a, b in zip(i[chosen][:LINES], j[chosen][:LINES]):
                rows.append({"state": state, "repeat": repeat, "kind": kind, "a": int(a), "b": int(b), "hamming": int((on[a] != on[b]).sum()),
                             "regions": len(regions.along_line(layers, x[a], x[b])) + 1})
    return pa.Table.from_pylist(rows)


def _shared(packed: np.ndarray, images: Images, seed: int) -> tuple[pa.Table, np.ndarray, tuple]:
    """Training images that share a code: every group, images of the largest, and what purity shuffled labels would have."""
    groups, y = codes.shared_groups(packed), images.y.numpy()
    counts = [np.bincount(y[g], minlength=images.n_classes) for g in groups]
    table = pa.table({"group": list(range(len(groups))), "size": [len(g) for g in groups], "majority": [int(c.argmax()) for c in counts],
                      "purity": [float(c.max() / c.sum()) for c in counts], "images": pa.array([g.tolist() for g in groups], pa.list_(pa.int64()))})
    shown = np.full((min(GROUPS, len(groups)), MEMBERS, *images.shape[1:]), np.nan, np.float32)
    for i, group in enumerate(groups[:GROUPS]):
        members = torch.from_numpy(group[:MEMBERS])
        shown[i, : len(members)] = images.x[members].mean(1).numpy()
    generator = np.random.default_rng(seed)
    drawn = [_purity(groups, generator.permutation(y), images.n_classes) for _ in range(200)] if groups else [np.nan]
    return table, shown, (float(np.mean(drawn)), *map(float, np.quantile(drawn, (0.025, 0.975))))


def _purity(groups: list[np.ndarray], y: np.ndarray, n_classes: int) -> float:
    return float(sum(np.bincount(y[g], minlength=n_classes).max() for g in groups) / sum(map(len, groups)))
