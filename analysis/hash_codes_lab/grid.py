"""Which networks are trained, and what is read off their codes while they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics import code_probes, codes
from models.small_nets.data import Images, noisy, tiled
from models.small_nets.nets import Net, Recipe, Stack, as_inputs, forward

BASE_DECAY = 1e-6
EPOCHS = (0, 1, 3, 6, 10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400)  # at which codes are taken
CHUNK = 4096  # images in one forward
MEASURES = ("r_train", "r_test", "r_noise_input", "knn", "logistic", "purity", "hungarian", "accuracy", "train_accuracy")


def default_widths(family: str) -> tuple[int, ...]:
    return (3, 8, 12, 16, 24, 48, 100) if family == "mlp" else (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Cell:
    """One network of the grid."""

    width: int
    samples: int
    repeat: int
    decay: float = BASE_DECAY
    noise: int = 0  # percent of training labels that are wrong


@dataclass(frozen=True)
class Grid:
    """What a set of parameters asks for, on a training set of `total` images. `focus` is the width of the closer looks."""

    cells: tuple[Cell, ...]
    widths: tuple[int, ...]
    samples: tuple[int, ...]
    epochs: tuple[int, ...]
    focus: int
    total: int
    seed: int

    def thorough(self, cell: Cell, epoch: int) -> bool:
        """Whether the slow measures (logistic regression, K-Means) are taken: on the axes through full size, last epoch, focus."""
        last, full, focus = epoch == self.epochs[-1], cell.samples == self.total, cell.width == self.focus
        return last and full or focus and (last or full) and (cell.decay, cell.noise) == (BASE_DECAY, 0)

    def rows(self, cell: Cell) -> np.ndarray:
        """The training images a network of this cell sees, without repeats; int64 [samples]."""
        return tiled(cell.samples, cell.samples, self.total, seed=self.seed + cell.repeat)

    def net(self, cell: Cell, images: Images) -> Net:
        seed = self.seed * 1_000 + cell.repeat
        labels = noisy(images.y.numpy(), cell.noise / 100, images.n_classes, seed) if cell.noise else None
        return Net(cell.width, seed, tiled(cell.samples, self.total, self.total, seed=self.seed + cell.repeat), labels, cell.decay)


def grid_of(params, total: int) -> Grid:
    focus = params.focus or (24 if params.family == "mlp" else 2)
    widths = tuple(sorted({*(params.widths or default_widths(params.family)), focus}))
    samples = tuple(sorted({n for n in params.samples if n < total} | {total}))
    epochs = tuple(sorted({e for e in EPOCHS if e < params.epochs} | {params.epochs}))
    repeats = range(params.repeats)
    cells = [Cell(w, n, r) for w in widths for n in samples for r in repeats]
    cells += [Cell(focus, total, r, decay=10.0**d) for d in sorted(set(params.decays)) if 10.0**d != BASE_DECAY for r in repeats]
    cells += [Cell(focus, total, r, noise=p) for p in sorted(set(params.noises)) for r in repeats]
    return Grid(tuple(cells), widths, samples, epochs, focus, total, params.seed)


def recipe_of(params) -> Recipe:
    return Recipe(params.family, params.hidden, params.batch_norm, params.optimizer, params.lr, batch=params.batch, epochs=params.epochs,
                  milestones=tuple(range(20, params.epochs, 20)))


@dataclass(frozen=True, eq=False)
class Coded:
    """Codes and answers of every network of a stack: packed uint8 [net, image, bytes], classes int64 [net, image]."""

    packed: np.ndarray
    classes: np.ndarray
    n_bits: int


def coded(stack: Stack, x: torch.Tensor) -> Coded:
    """The codes of images x [image, channel, height, width]: bits of all hidden layers side by side, in inference mode."""
    packed, classes, n_bits = [], [], 0
    with torch.no_grad():
        for lo in range(0, len(x), CHUNK):
            bits = []
            logits = forward(stack, as_inputs(x[lo : lo + CHUNK], stack.recipe), see=lambda layer, z: bits.append((z > 0).numpy()))
            on = np.concatenate(bits, 1).swapaxes(1, 2)  # [net, image, bit]
            n_bits = on.shape[2]
            packed.append(codes.pack(on.reshape(-1, n_bits)).reshape(*on.shape[:2], -1))
            classes.append(logits.argmax(1).numpy())
    return Coded(np.concatenate(packed, 1), np.concatenate(classes, 1), n_bits)


def looker(grid: Grid, images: Images):
    """What `train` calls at each epoch of `grid.epochs`: {measure: float64 [net of the stack], "bits": int}."""
    y, y_test = images.y.numpy(), images.y_test.numpy()
    noise = torch.rand(images.x_test.shape, generator=torch.Generator().manual_seed(grid.seed))

    def look(epoch: int, stack: Stack) -> dict:
        train, test, random = (coded(stack, x) for x in (images.x, images.x_test, noise))
        found = {name: np.full(len(stack.nets), np.nan) for name in MEASURES}
        for i, place in enumerate(stack.nets):
            cell = grid.cells[place]
            rows = grid.rows(cell)
            read = code_measures(train.packed[i, rows], y[rows], test.packed[i], y_test, images.n_classes, test.n_bits, grid.seed, grid.thorough(cell, epoch))
            read |= {"r_noise_input": codes.redundancy(random.packed[i]), "accuracy": float((test.classes[i] == y_test).mean()),
                     "train_accuracy": float((train.classes[i, rows] == y[rows]).mean())}
            for name, value in read.items():
                found[name][i] = value
        return {**found, "bits": test.n_bits}

    return look


def code_measures(train: np.ndarray, y: np.ndarray, test: np.ndarray, y_test: np.ndarray, n_classes: int, n_bits: int, seed: int, thorough: bool) -> dict[str, float]:
    """R and k-NN accuracy of packed codes; where `thorough`, logistic regression and K-Means too."""
    out = {"r_train": codes.redundancy(train), "r_test": codes.redundancy(test), "knn": code_probes.nearest_accuracy(train, y, test, y_test, n_classes)}
    return out | (slow_measures(codes.unpack(train, n_bits), y, codes.unpack(test, n_bits), y_test, n_classes, seed) if thorough else {})


def slow_measures(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, n_classes: int, seed: int) -> dict[str, float]:
    """Logistic regression fitted on x, and K-Means on x_test [image, feature], which may be bits or pixels."""
    found = code_probes.clusters(x_test, n_classes, seed)
    return {"logistic": code_probes.logistic_accuracy(x, y, x_test, y_test), "purity": code_probes.purity(found, y_test), "hungarian": code_probes.matched(found, y_test)}
