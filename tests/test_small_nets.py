"""Many small networks trained at once are the networks one would have trained alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.refusal import Refused
from models.small_nets import data
from models.small_nets.data import Images, noisy, tiled
from models.small_nets.gradient import Gradient
from models.small_nets.nets import Net, Recipe, as_inputs, forward, initial
from models.small_nets.training import LOOP_FROM, groups, learning_rate, train

MNIST = Path(__file__).resolve().parents[2] / "shared" / "data" / "images" / "mnist" / "mnist.npz"


def images(n=60, side=4, classes=3, channels=1, dtype=torch.float64) -> Images:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n + 20, channels, side, side, generator=generator, dtype=dtype)
    y = torch.randint(classes, (n + 20,), generator=generator)
    return Images("random", x[:n], y[:n], x[n:], y[n:], classes)


def varied(n_train=60, n=40):
    """Six networks that differ in everything that may differ within one call."""
    labels = np.random.default_rng(0).integers(0, 3, n_train)
    return [Net(5, 0, tiled(n, n, n_train)), Net(5, 1, tiled(7, n, n_train)), Net(8, 2, tiled(n, n, n_train, seed=4), labels),
            Net(5, 3, tiled(n, n, n_train), None, 0.1), Net(8, 4, tiled(n, n, n_train)), Net(5, 0, tiled(n, n, n_train), order=9)]


@pytest.mark.parametrize("recipe", [
    Recipe(epochs=3, batch=16), Recipe(epochs=3, batch=0, hidden=3), Recipe(epochs=2, batch=13, optimizer="adamw", schedule="cosine", warmup=2),
    Recipe(epochs=3, batch=16, optimizer="sgd", batch_norm=False, lr=0.1, milestones=(1,)), Recipe("conv", epochs=2, batch=16, hidden=2),
    Recipe("conv", epochs=2, batch=0, batch_norm=False),
], ids=lambda r: f"{r.family}-{r.optimizer}-{r.batch}-{r.hidden}")
def test_batched_equals_looped(recipe):
    nets, given = varied(), images(channels=2)
    together, alone = train(nets, recipe, given), train(nets, recipe, given, batched=False)
    assert [s.nets for s in together.stacks] == [(0, 1, 3, 5), (2, 4)] and len(alone.stacks) == 6
    np.testing.assert_allclose(together.losses, alone.losses, rtol=1e-9)
    for place in range(6):
        one, other = together.stack(place).tensors, alone.stack(place).tensors
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-7, atol=1e-8)
    same = torch.equal(together.stack(0).tensors["w0"], together.stack(5).tensors["w0"])
    assert same == (recipe.batch == 0)  # another order is another network, but for whole epochs


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_stack_of_one_is_a_plain_torch_network(optimizer):
    """The same training written with torch's modules and optimisers, weight decay theirs."""
    given, recipe = images(), Recipe(epochs=3, batch=16, hidden=2, optimizer=optimizer, lr=0.01, milestones=(2,))
    net = Net(6, seed=5, weight_decay=0.05)
    found = train([net, Net(6, seed=1)], recipe, given)
    start = initial([net], (0,), recipe, given.shape, 3, torch.float64).net(0)
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 6),
                                 torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).double()
    for layer, at in enumerate((1, 4, 7)):
        layers[at].weight.data, layers[at].bias.data = torch.tensor(start[f"w{layer}"]), torch.tensor(start[f"b{layer}"])
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": lambda p, lr, weight_decay: torch.optim.SGD(p, lr, 0.9, weight_decay=weight_decay)}
    optimizer = make[optimizer](layers.parameters(), lr=0.01, weight_decay=0.05)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.01 if epoch < 2 else 0.001
        order = torch.from_numpy(np.random.default_rng([5, epoch]).permutation(60))
        for rows in order.split(16):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layers(given.x[rows]), given.y[rows]).backward()
            optimizer.step()
    layers.eval()
    ours = forward(found.stack(0), as_inputs(given.x_test, recipe))[0].T
    torch.testing.assert_close(ours, layers(given.x_test), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("family", ["mlp", "conv"])
def test_a_shared_input_is_read_as_each_network_s_own(family):
    recipe, given = Recipe(family, hidden=2), images(channels=2)
    stack = initial([Net(4, 0), Net(4, 1)], (0, 1), recipe, given.shape, 3, torch.float64)
    seen = {"shared": [], "own": []}
    shared = forward(stack, as_inputs(given.x, recipe), see=lambda layer, z: seen["shared"].append(z))
    own = forward(stack, as_inputs(given.x.expand(2, *given.x.shape), recipe), see=lambda layer, z: seen["own"].append(z))
    torch.testing.assert_close(shared, own)
    assert [z.shape for z in seen["own"]] == ([(2, 4, 60)] * 2 if family == "mlp" else [(2, 64, 60), (2, 16, 60)])
    for a, b in zip(seen["shared"], seen["own"]):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("batch_norm", [True, False], ids=["normed", "plain"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_the_written_out_gradient_is_autograd_s(shared, batch_norm):
    """Losses, every gradient and the running statistics; the second call writes over the memory of the first."""
    recipe, given = Recipe(hidden=3, batch_norm=batch_norm), images()
    ours, theirs = (initial([Net(5, 0), Net(5, 1)], (0, 1), recipe, given.shape, 3, torch.float64) for _ in range(2))
    gradient = Gradient(ours)
    for tensor in theirs.trained:
        tensor.requires_grad_()
    for n in (60, 11, 60):
        x = as_inputs(given.x[:n], recipe) if shared else as_inputs(torch.stack([given.x[:n], given.x[-n:]]), recipe)
        y = torch.stack([given.y[:n], given.y[-n:]])
        wanted = torch.nn.functional.cross_entropy(forward(theirs, x, training=True), y, reduction="none").mean(1)
        torch.testing.assert_close(gradient.losses(x, y), wanted)
        for found, true in zip(gradient.of, torch.autograd.grad(wanted.sum(), theirs.trained)):
            torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-14)
        for name in ours.tensors:
            torch.testing.assert_close(ours.tensors[name], theirs.tensors[name].detach(), rtol=1e-12, atol=1e-14)


class Cut(Exception):
    pass


class Interrupted:
    """Progress that keeps every state as the engine does (through its file form) and stops after so many epochs."""

    def __init__(self, file, stop):
        self.file, self.left = file, stop

    def save(self, state, force=False):
        from jobs.progress import keep

        keep(self.file, state)

    def saved(self):
        from jobs.progress import kept

        return kept(self.file)

    def step(self, i, n, message="", live=None):
        assert 0 <= i <= n
        if live:
            assert np.isfinite(live["loss"])
            self.left -= 1
            if self.left == 0:
                raise Cut


@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_cut_off_and_resumed_ends_where_an_uninterrupted_run_ends(tmp_path, stop):
    nets, given, recipe = varied(), images(dtype=torch.float32), Recipe(epochs=3, batch=16)
    look = lambda epoch, stack: {"sums": stack.tensors["w0"].detach().sum((1, 2)).numpy(), "epoch": epoch}
    whole = train(nets, recipe, given, look=look, at=(0, 2, 3))
    file = tmp_path / "state.safetensors"
    with pytest.raises(Cut):
        train(nets, recipe, given, look=look, at=(0, 2, 3), progress=Interrupted(file, stop))
    resumed = train(nets, recipe, given, look=look, at=(0, 2, 3), progress=Interrupted(file, 99))
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert [(k.epoch, k.nets) for k in resumed.looks] == [(k.epoch, k.nets) for k in whole.looks] == [(e, p) for p in ((0, 1, 3, 5), (2, 4)) for e in (0, 2, 3)]
    for a, b in zip(resumed.looks, whole.looks):
        np.testing.assert_array_equal(a.value["sums"], b.value["sums"])
    for place in range(6):
        for name, tensor in whole.stack(place).tensors.items():
            assert torch.equal(tensor, resumed.stack(place).tensors[name])


def test_networks_learn_what_can_be_learnt_and_nothing_from_noise():
    given = data.digits(600)
    rows = tiled(600, 600, 600)
    wrong = noisy(given.y.numpy(), 0.9, 10, 0)
    found = train([Net(32, 0, rows), Net(32, 1, rows), Net(32, 2, rows, wrong)], Recipe(epochs=8), given)
    right = [(forward(found.stack(i), as_inputs(given.x_test, Recipe()))[0].argmax(0) == given.y_test).double().mean().item() for i in range(3)]
    assert min(right[:2]) > 0.93 and right[2] < 0.3  # 0.1 is chance
    assert (np.diff(found.losses[0]) < 0.02).all()


def test_grouping_by_width_with_the_loop_where_it_wins():
    given = images()
    nets = [Net(w) for w in (LOOP_FROM, 5, LOOP_FROM, 5, 7)]
    assert groups(nets, Recipe(), given) == [(1, 3), (4,), (0,), (2,)]
    assert groups(nets, Recipe(), given, batched=False) == [(1,), (3,), (4,), (0,), (2,)]


def test_learning_rates_by_hand():
    steps = Recipe(lr=1.0, milestones=(2, 3), warmup=4)
    assert [learning_rate(steps, e, u, 3) for e, u in ((0, 0), (1, 3), (1, 4), (2, 6), (3, 9))] == pytest.approx([0.25, 1.0, 1.0, 0.1, 0.01])
    cosine = Recipe(lr=1.0, schedule="cosine", epochs=2, warmup=0)
    assert [learning_rate(cosine, 0, u, 4) for u in (0, 4)] == pytest.approx([1.0, 0.5])
    assert learning_rate(cosine, 1, 7, 4) > 0


def test_samples_and_label_noise():
    assert tiled(3, 8, 10).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert sorted(set(tiled(4, 9, 10, seed=1))) == sorted(np.random.default_rng(1).permutation(10)[:4])
    y = np.arange(1000) % 10
    assert (noisy(y, 0.2, 10, 0) != y).sum() == 200 and (noisy(y, 0, 10, 0) == y).all()
    counts = np.bincount((noisy(y, 1.0, 10, 0) - y) % 10, minlength=10)
    assert counts[0] == 0 and counts[1:].min() > 70
    with pytest.raises(Refused, match="expected 1 to 10"):
        tiled(11, 20, 10)


def test_unequal_samples_are_refused():
    with pytest.raises(Refused, match="equally many samples"):
        train([Net(3, rows=tiled(4, 4, 60)), Net(3, rows=tiled(4, 5, 60))], Recipe(epochs=1), images())
    with pytest.raises(Refused, match="too many for 4 × 4"):
        train([Net(3)], Recipe("conv", hidden=3, epochs=1), images())


def test_images_from_a_file(tmp_path):
    x, y = np.arange(48, dtype=np.uint8).reshape(3, 4, 4), np.array([0, 1, 2])
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:2, ..., None], y_test=y[:2])
    found = data.from_file(tmp_path / "a.npz")
    assert found.shape == (1, 4, 4) and found.n_classes == 3 and found.x[0, 0, 0, 3] == pytest.approx(3 / 255) and found.x.dtype == torch.float32
    for arrays, said in (
        ({"x_train": x}, "has no x_test"), ({"x_train": x, "y_train": y[:2], "x_test": x, "y_test": y}, "with 2 labels"),
        ({"x_train": x, "y_train": -y, "x_test": x, "y_test": y}, "expected whole numbers from 0"),
        ({"x_train": x, "y_train": y, "x_test": x[:, :3], "y_test": y}, "expected one size"),
        ({"x_train": np.full((3, 2, 2), np.nan), "y_train": y, "x_test": x, "y_test": y}, "not finite"),
        ({"x_train": np.array(["x"], object), "y_train": y, "x_test": x, "y_test": y}, "not an .npz of plain arrays"),
    ):
        np.savez(tmp_path / "b.npz", **arrays)
        with pytest.raises(Refused, match=said):
            data.from_file(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(b"PK nothing")
    with pytest.raises(Refused, match="not an .npz"):
        data.from_file(tmp_path / "c.npz")
    with pytest.raises(Refused, match="no file"):
        data.from_file(tmp_path / "d.npz")


@pytest.mark.skipif(not MNIST.is_file(), reason="MNIST is not here")
def test_mnist_from_its_file():
    found = data.from_file(MNIST)
    assert found.x.shape == (60_000, 1, 28, 28) and found.x_test.shape == (10_000, 1, 28, 28) and found.n_classes == 10
    assert found.x.max() == 1.0 and np.bincount(found.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
