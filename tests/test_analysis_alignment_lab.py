"""The lab of perceptrons: a planted order is found and costs nothing, the honest trends on digits with three seeds, every figure."""

import dataclasses

import numpy as np
import pytest
import torch

import analysis.alignment_lab as subject
from analysis.alignment_lab import pairs
from analysis.alignment_lab.pairs import Data
from analysis.contract import Run
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics.permutation import perceptron
from metrics.permutation.matching import weight_matching
from metrics.permutation.methods import ACTIVATIONS, NONE, RANDOM, WEIGHTS
from metrics.permutation.singular import alignment, all_singular, searched
from metrics.permutation.spec import apply, inverse, random_maps
from models.home import home
from models.progress import Quiet
from models.refusal import Refused
from models.small_nets.nets import Net, Recipe
from models.small_nets.training import train
from tests.conftest import REPO

MNIST = REPO.parent / "shared" / "data" / "images" / "mnist" / "mnist.npz"
SHAPES = [(5, 7, 3), (64, 256, 10), (2, 64, 64, 2), (10, 33, 20, 12, 4), (6, *[16] * 8, 3)]


def network(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for layer, (n, m) in enumerate(zip(shape, shape[1:])):
        out |= {f"w{layer}": torch.randn(m, n, generator=generator) / n**0.5, f"b{layer}": 0.3 * torch.randn(m, generator=generator)}
    return out


def data_of(shape, n=200):
    generator = torch.Generator().manual_seed(5)
    x, x_test = (torch.rand(n, shape[0], generator=generator) for _ in range(2))
    y, y_test = (torch.randint(0, shape[-1], (n,), generator=generator) for _ in range(2))
    return Data(x, y, x_test, y_test)


@pytest.fixture(scope="module")
def digits():
    params = subject.Params(widths=(8,), learn_steps=20, nulls=10)
    return Run("A", "", subject.compute((), params, Quiet()), params, {})


@pytest.mark.parametrize("shape", SHAPES)
def test_a_planted_order_is_found_whole_and_a_legal_order_changes_nothing(shape):
    a = network(shape)
    spec = perceptron.spec_of(a)
    planted = random_maps(spec, torch.Generator().manual_seed(1))
    b = apply(spec, a, planted)
    x = torch.rand(500, shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wide = lambda p: {k: v.double() for k, v in p.items()}
    assert (perceptron.hidden(wide(a), x)[-1] - perceptron.hidden(wide(b), x)[-1]).abs().max() < 1e-12
    found = weight_matching(spec, a, b).maps
    assert all(torch.equal(found[s], inverse(planted)[s]) for s in spec.sizes)
    assert all(torch.equal(p, a[name]) for name, p in apply(spec, b, found).items())
    by_activations = apply(spec, b, perceptron.activation_matching(spec, a, b, x.float()))
    for p, q in zip(perceptron.hidden(a, x.float()), perceptron.hidden(by_activations, x.float())):
        known = (p != 0).sum(0) >= 5  # units that fire at one and the same input are alike, and ones that never fire are free
        assert torch.allclose(p[:, known], q[:, known], rtol=0, atol=1e-5)
    assert known.all()  # of the outputs


def test_a_pair_that_is_one_network_has_no_barrier_and_r_one_and_two_random_ones_do_not():
    shape = (12, 20, 16, 4)
    a, data = network(shape), data_of(shape)
    spec = perceptron.spec_of(a)
    b = apply(spec, a, random_maps(spec, torch.Generator().manual_seed(3)))
    params = subject.Params(learn_steps=0, points=5, nulls=6)
    same, other = (pairs.measured(a, x, data, params, 0, Quiet()) for x in (b, network(shape, 9)))
    i = pairs.methods_of(params).index(WEIGHTS)
    assert same["barrier"][i] == pytest.approx(np.zeros((2, 2)), abs=1e-6) and same["taylor"][i] == pytest.approx(0, abs=1e-9)
    assert same["r"][i] == pytest.approx(np.ones(20), abs=1e-9) and same["reduction"][i] == pytest.approx(100) and same["merged"][i] == pytest.approx(np.ones(20), abs=1e-6)
    assert other["r"][i].max() < 0.6 and 0 < other["reduction"][i] < 60 and abs(same["r"][0][0]) < 0.4


def test_barrier_and_path_by_hand():
    """Two networks of one unit, logits (w x, 0) with w = +1 and −1: at the midpoint the logits are 0, loss ln 2, accuracy that of the first class."""
    net = lambda w: {"w0": torch.tensor([[1.0], [-1.0]]), "b0": torch.zeros(2), "w1": torch.tensor([[w, 0.0], [0.0, 0.0]]), "b1": torch.zeros(2)}
    x, y = torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([0, 0, 1])
    path = perceptron.mixture_losses([net(1.0), net(-1.0)], np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]), x, y)
    lose = lambda w: (2 * np.log1p(np.exp(-w)) + np.log1p(np.exp(w))) / 3
    assert path[:, 0] == pytest.approx([lose(-1), np.log(2), lose(1)]) and path[:, 1] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert pairs.barrier(path[:, 0], np.array([0, 0.5, 1])).tolist() == pytest.approx([0.0, np.log(2) - (lose(1) + lose(-1)) / 2])
    assert pairs.barrier(path[:, 0], np.array([0, 0.5, 1]))[1] < 0  # a convex loss dips below the line


def test_the_honest_trends_on_digits_three_seeds(digits):
    r = digits.result
    of = lambda m: r.barrier[:, r.methods.index(m), 1, 1]
    g = 6  # γ = 0.3
    aligned = lambda m: r.r[:, r.methods.index(m), g]
    assert len(of(NONE)) == 3 and (of(NONE) >= 0.3).all() and (of(RANDOM) >= 0.3).all()
    assert (of(WEIGHTS) <= 0.2 * of(NONE)).all() and (of(ACTIVATIONS) <= 0.2 * of(NONE)).all()
    assert (aligned(NONE) < 0.15).all() and (r.null[..., g] < 0.15).all() and (aligned(WEIGHTS) > 0.4).all() and (aligned(WEIGHTS) > 4 * r.null[..., g].max(1)).all()
    assert (np.abs(r.reduction[:, -1]) < 5).all() and (r.reduction[:, r.methods.index(WEIGHTS)] > 20).all()
    assert (r.cut_barrier[:, 0] < 0.2 * of(NONE)).all() and (r.cut_barrier[:, 1] > 0.5 * of(NONE)).all()
    assert r.path[:, 0, [0, -1], 1, 1].min() > 0.95 and r.cycle > 0.4
    assert r.pair_barrier[2][np.isfinite(r.pair_barrier[2])].max() < 0.3 * np.nanmin(r.pair_barrier[0])
    assert r.epoch_barrier[0] == pytest.approx(np.zeros((3, 3)), abs=0.02)


def test_networks_that_share_nothing_align_no_more_than_the_search_alone_does(digits):
    """Weight matching finds R far above random orders between any two networks, so those are no null for it: untrained ones lie in the band of the
    search between strangers, ones trained on the same digits at twice its upper end. One that learned other names for the digits is no partner in a merge."""
    images = digits_of(digits.params)
    renamed = (np.roll(np.arange(10), 3)[images.y.numpy()]).astype(np.int64)
    nets = [Net(32, 0), Net(32, 1), Net(32, 2, labels=renamed)]
    seen = {}
    train(nets, Recipe("mlp", 2, False, "adam", 1e-3, batch=64, epochs=40, schedule="constant"), images, at=(0, 40),
          look=lambda epoch, stack: seen.update({(epoch, place): {n: t[row].detach().clone() for n, t in stack.tensors.items()} for row, place in enumerate(stack.nets)}) or {})
    data, g = Data.of(images), 6

    def look(a, b):
        """(R after weight matching, search null [draw], accuracy of the midpoint on A's labels) of a pair."""
        spec = perceptron.spec_of(a)
        va, vb = all_singular(spec, a), all_singular(spec, b)
        maps = weight_matching(spec, a, b).maps
        nulls = np.array([found.total()[g] for found in searched(spec, a, b, va, vb, draws=8, seed=0)])
        middle = perceptron.mixture_losses([a, apply(spec, b, maps)], np.array([[0.5, 0.5]]), data.x_test, data.y_test)[0, 1]
        return alignment(spec, va, vb, maps).total()[g], nulls, middle

    alike, untrained, before, other = (look(seen[e, i], seen[f, j]) for e, i, f, j in ((40, 0, 40, 1), (40, 0, 0, 1), (0, 0, 0, 1), (40, 0, 40, 2)))
    assert alike[0] > 1.8 * alike[1].max() and alike[2] > 0.9
    for r, nulls, _ in (untrained, before):
        assert nulls.min() - 3 * nulls.std() < r < nulls.max() + 3 * nulls.std() and nulls.min() > 0.1
    assert other[2] < 0.6 and untrained[2] < alike[2]
    r = digits.result
    assert (r.r[:, r.methods.index(WEIGHTS), g] > 1.8 * r.search_null[..., g].max(1)).all() and (r.search_null[..., g].min(1) > r.null[..., g].max(1)).all()
    untrained = r.epoch_r[0, :, 1, g]  # of every pair before training, by weights
    assert (untrained < 1.15 * r.search_null[..., g].max()).all() and (r.epoch_r[-1, :, 1, g] > 1.8 * untrained).all()


def digits_of(params):
    from models.small_nets import shelf

    return shelf.load("digits", params.train_images, params.test_images, params.seed, home())


def test_every_figure_words_and_the_store(digits, tmp_path):
    arrays, tables, plain = encode(digits.result)
    store = Store(tmp_path)
    store.put("0" * 64, arrays=arrays, tables=tables, record={"plain": plain})
    again = dataclasses.replace(digits, result=decode(subject.Result, store.get("0" * 64)))
    assert subject.answer([again]) == subject.answer([digits]) and len(subject.headlines([again])) == 4
    names = [card.name for card in subject.figures([again])]
    assert len(names) == len(set(names)) == 8
    for card in subject.figures([again]):
        assert card.data.num_rows and "nan" not in card.reading + card.alt
        for theme in THEMES.values():
            for draw in card.views.values():
                draw(theme)


@pytest.mark.skipif(not MNIST.is_file(), reason="MNIST is not here")
def test_mnist_from_its_file_to_its_figures(tmp_path, monkeypatch):
    from models.small_nets import shelf

    monkeypatch.setenv("MICROTOME_HOME", str(tmp_path))
    params = subject.Params(images=shelf.add(MNIST, tmp_path), widths=(), width=32, epochs=6, repeats=2, learn_steps=0, nulls=5, points=5, train_images=1500, test_images=500)
    run = Run("A", "", subject.compute((), params, Quiet()), params, {})
    r = run.result
    of = lambda m: r.barrier[:, r.methods.index(m), 1, 1]
    assert r.path[:, 0, [0, -1], 1, 1].min() > 0.8 and (of(WEIGHTS) < 0.4 * of(NONE)).all()
    assert (r.r[:, r.methods.index(WEIGHTS), 6] > r.search_null[..., 6].max(1)).all() and len(subject.figures([run])) == 8 and "2 pairs" in subject.answer([run])


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(Refused, match="diverged"):
        subject.compute((), subject.Params(widths=(), width=4, epochs=3, lr=1e30, optimizer="sgd", hidden=6, repeats=2, train_images=60, test_images=20), Quiet())
    with pytest.raises(Refused, match="no images"):
        subject.compute((), subject.Params(images="images/none-0123"), Quiet())
