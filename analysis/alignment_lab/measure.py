"""The numbers: pairs trained at once, their orders by each method, and what each order does to loss, distance and singular vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from analysis.alignment_lab import pairs, triple
from analysis.alignment_lab.pairs import methods_of
from metrics.permutation.mixture import grid
from models.home import home
from models.progress import Stage
from models.refusal import Refused
from models.small_nets import shelf
from models.small_nets.nets import Net, Recipe
from models.small_nets.training import LOOP_FROM, train
from models.threads import one_thread

EPOCHS = (0, 1, 2, 5, 10, 20, 40, 60, 100, 200, 400)  # at which pairs are matched on the way


@dataclass(frozen=True, eq=False)
class Result:
    """Axes: pair; method as in `methods`, "random order" last; few are the first three methods; point runs along the path from B (share 0 of A) to A (1);
    set is train, test; piece are the weight matrices; γ as in metrics.permutation.singular.GAMMAS; vector runs over singular vectors, NaN beyond the rank.

    path          [pair, method, point, set, (loss in nats, accuracy)]
    barrier       [pair, method, (largest, middle), set] nats
    taylor        [pair, method] nats, on training images
    reduction     [pair, method] % of ‖a − b‖
    r, merged     [pair, method, γ] R of A with π(b), and with the midpoint; r_piece [pair, method, piece, γ]; null [pair, draw, γ] of random orders;
                  search_null [pair, draw, γ] of weight matching between A and strangers to B
    ranks         [pair, (a, b), piece, γ]
    spectra       [(a, b), piece, vector] singular values of the first pair; along [piece, vector] E|v · x| / ‖x‖ of A, chance [piece]
    cut_barrier, cut_agreement [pair, (large, small)], cut_r [pair, (large, small), γ]
    units         [space, (before, after), unit, unit] cosine of the weights of units in the first pair
    width_barrier [width, pair, few] test barrier at the midpoint, width_r [width, pair, few, γ], width_accuracy [width, pair]; epoch_… alike [epoch, …]
    corner_weights [point, 3], corner_loss [order, point], pair_barrier [order, 3, 3], cycle: share of units sent elsewhere round three networks
    """

    methods: tuple
    share: np.ndarray
    path: np.ndarray
    barrier: np.ndarray
    taylor: np.ndarray
    reduction: np.ndarray
    r: np.ndarray
    r_piece: np.ndarray
    merged: np.ndarray
    null: np.ndarray
    search_null: np.ndarray
    ranks: np.ndarray
    spectra: np.ndarray
    along: np.ndarray
    chance: np.ndarray
    cut_barrier: np.ndarray
    cut_agreement: np.ndarray
    cut_r: np.ndarray
    units: np.ndarray
    widths: np.ndarray
    width_barrier: np.ndarray
    width_r: np.ndarray
    width_accuracy: np.ndarray
    epochs: np.ndarray
    epoch_barrier: np.ndarray
    epoch_r: np.ndarray
    epoch_accuracy: np.ndarray
    corner_weights: np.ndarray
    corner_loss: np.ndarray
    pair_barrier: np.ndarray
    cycle: float
    n_train: int
    n_test: int

    @property
    def n_sequences(self) -> int:
        return self.n_train + self.n_test

    @property
    def n_inputs(self) -> int:
        return self.n_train + self.n_test


def compute(captures: tuple, params, progress) -> Result:
    images = shelf.load(params.images, params.train_images, params.test_images, params.seed, home())
    widths = tuple(sorted({*params.widths, params.width}))
    recipe = Recipe("mlp", params.hidden, False, params.optimizer, params.lr, batch=params.batch, epochs=params.epochs, schedule="constant")
    decay = 10.0**params.decay if params.decay else 0.0
    nets = [Net(w, params.seed * 1000 + i, weight_decay=decay) for w in widths for i in range(2 * params.repeats)]
    at = tuple(sorted({e for e in EPOCHS if e < params.epochs} | {params.epochs}))
    keep = lambda epoch, stack: {"tensors": {name: t.detach().numpy().copy() for name, t in stack.tensors.items()}} if nets[stack.nets[0]].width == params.width or epoch == params.epochs else {}
    with one_thread(widths[-1] < LOOP_FROM):
        trained = train(nets, recipe, images, look=keep, at=at, progress=Stage(progress, 0.0, 0.5))
        if not np.isfinite(trained.losses).all():
            raise Refused(f"Training with a learning rate of {params.lr:g} diverged: the loss is no longer a number. Ask for a smaller one.")
        found = {}
        for look in trained.looks:
            for row, place in enumerate(look.nets):
                if look.value:
                    found[look.epoch, nets[place].width, place % (2 * params.repeats)] = {name: torch.from_numpy(t[row]) for name, t in look.value["tensors"].items()}
        data = pairs.Data.of(images)
        return _measured(found, data, widths, at, params, Stage(progress, 0.5, 1.0))


def _measured(found: dict, data, widths: tuple, at: tuple, params, progress) -> Result:
    pair = lambda epoch, width, k: (found[epoch, width, 2 * k], found[epoch, width, 2 * k + 1])
    repeats, rows = range(params.repeats), []
    for k in repeats:
        rows.append(pairs.measured(*pair(params.epochs, params.width, k), data, params, params.seed + k, Stage(progress, 0.6 * k / params.repeats, 0.6 * (k + 1) / params.repeats)))
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    swept = {}
    for name, places in (("width", [(params.epochs, w) for w in widths]), ("epoch", [(e, params.width) for e in at])):
        cells = []
        for i, (epoch, width) in enumerate(places):
            progress.step(60 + (20 if name == "epoch" else 0) + 20 * i // len(places), 100, f"pairs of width {width} after {epoch} epochs")
            cells.append([pairs.briefly(*pair(epoch, width, k), data, params.seed + k) for k in repeats])
        swept |= {f"{name}_{what}": np.array([[cell[j] for cell in row] for row in cells]) for j, what in enumerate(("barrier", "r", "accuracy"))}
    three = triple.measured([found[params.epochs, params.width, i] for i in (0, 1, 2)], data, params.seed, Stage(progress, 0.98, 1.0))
    first = pairs.closely(*pair(params.epochs, params.width, 0), data, params.seed)
    return Result(methods_of(params), grid(params.points)[:, 0], **stacked, **first, widths=np.array(widths), epochs=np.array(at), **swept, **three, n_train=len(data.y), n_test=len(data.y_test))
