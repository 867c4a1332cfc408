"""The lab as a whole: the trends of the digits with their tolerances, nulls, regimes, resuming, every figure."""

from dataclasses import replace

import numpy as np
import pytest

import analysis.hash_codes_lab as subject
from analysis.contract import Run
from analysis.hash_codes_lab import pictures, tables, words
from analysis.hash_codes_lab.grid import BASE_DECAY, Cell, grid_of
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics import regions
from models.progress import Quiet
from models.refusal import Refused
from models.small_nets import shelf
from tests.conftest import REPO

MNIST = REPO.parent / "shared" / "data" / "images" / "mnist" / "mnist.npz"
SMALL = subject.Params(widths=(3, 12), focus=8, repeats=2, epochs=3, samples=(20,), train_images=150, test_images=80, decays=(-2,), noises=(80,))


def run(params, progress=None):
    return Run("A", "", subject.compute((), params, progress or Quiet()), params, {})


@pytest.fixture(scope="module")
def digits():
    """The grid that the trends are about: three seeds, forty epochs."""
    return run(subject.Params(widths=(3, 24, 100), repeats=3, samples=(), decays=(), noises=(80,)))


@pytest.fixture(scope="module")
def small():
    return run(SMALL)


def test_the_trends_on_digits(digits):
    """Reference means of two seeds, in their order of widths 3, 24, 100; tolerance 0.05 over three."""
    rows = tables.Rows(digits.result)
    of = lambda measure, **where: rows.curve(measure, "width", **where).mean
    assert of("r_train") == pytest.approx([0.993, 0.064, 0.0], abs=0.05) and of("r_test") == pytest.approx([0.987, 0.044, 0.0], abs=0.05)
    assert of("knn") == pytest.approx([0.446, 0.904, 0.966], abs=0.05) and of("logistic") == pytest.approx([0.482, 0.899, 0.969], abs=0.05)
    assert of("accuracy") == pytest.approx([0.776, 0.984, 0.987], abs=0.05)
    assert (np.diff(of("r_train")) < 0).all() and (np.diff(of("knn")) > 0).all()
    assert (of("purity") >= of("hungarian")).all()
    planes = {m: rows.curve(m, "width", "hyperplanes").mean for m in ("knn", "r_train")}
    assert planes["knn"] == pytest.approx([0.22, 0.844, 0.958], abs=0.05) and planes["r_train"] == pytest.approx([0.993, 0.061, 0.0], abs=0.05)
    assert (of("knn")[1:] >= planes["knn"][1:] - 0.005).all()
    assert rows.curve("knn", "samples", "raw").mean[-1] == pytest.approx(0.977, abs=0.01)
    time = rows.curve("r_train", "epoch")
    assert time.mean[0] == pytest.approx(0.369, abs=0.06) and time.mean[-1] < 0.4 * time.mean[0] and rows.curve("knn", "epoch").mean[0] == pytest.approx(0.711, abs=0.06)
    noise = rows.curve("r_train", "wrong_labels_percent")
    assert noise.x == [0, 80] and noise.mean[1] < noise.mean[0] and rows.curve("knn", "wrong_labels_percent").mean[1] == pytest.approx(0.796, abs=0.05)
    assert words.first_sufficient(rows, digits.params) == 100
    assert "From **width 100** on" in subject.answer([digits])


def test_lines_and_the_plane_are_of_the_trained_network(digits):
    r = digits.result
    lines = r.lines.to_pylist()
    assert len(lines) == 2 * 3 * 2 * 60 and all(row["regions"] == row["hamming"] + 1 for row in lines)
    x, layers = r.x_test.reshape(len(r.x_test), -1), r.layers["trained"]
    assert (regions.output(layers, x).argmax(1) == r.y_test).mean() > 0.95
    first = [row for row in lines if (row["state"], row["repeat"]) == ("trained", 0)][0]
    on = regions.code(layers, x[[first["a"], first["b"]]])
    assert first["hamming"] == (on[0] != on[1]).sum()
    assert words.lines(r, "trained", "two classes")[0] > words.lines(r, "trained", "one class")[0]


def test_images_that_share_a_code_are_of_one_class_more_often_than_shuffled(digits):
    r = digits.result
    sizes, purity = np.array(r.shared["size"]), np.array(r.shared["purity"])
    assert (sizes >= 2).all() and (np.diff(sizes) <= 0).all()
    surplus = (sizes - 1).sum() / r.n_train
    first = [row for row in r.cells.to_pylist() if (row["source"], row["width"], row["repeat"], row["epoch"], row["wrong_labels_percent"]) == ("network", 24, 0, 40, 0)]
    assert surplus == pytest.approx(first[0]["r_train"])
    assert (sizes * purity).sum() / sizes.sum() > r.shared_null[2] + 0.2


def test_noise_as_input_and_labels_of_chance_say_nothing():
    """Negative control: networks taught labels that are all wrong read no class off, whatever their codes are."""
    r = run(replace(SMALL, noises=(100,), epochs=12, widths=(8,), focus=8, samples=()))
    rows = tables.Rows(r.result)
    assert rows.curve("accuracy", "wrong_labels_percent").at(100)[0] < 0.1 < 0.5 < rows.curve("accuracy", "wrong_labels_percent").at(0)[0]


def test_a_network_does_not_depend_on_the_grid_around_it(small):
    alone = run(replace(SMALL, widths=(8,), samples=(), decays=(), noises=()))
    of = lambda r: {(row["width"], row["repeat"], row["epoch"]): row["knn"] for row in r.result.cells.to_pylist()
                    if row["source"] == "network" and (row["width"], row["samples"], row["weight_decay"], row["wrong_labels_percent"]) == (8, 150, BASE_DECAY, 0)}
    assert len(of(alone)) == 6 and of(alone) == pytest.approx({k: of(small)[k] for k in of(alone)}, abs=0.03)


def test_regimes_by_hand():
    r = np.array([[0.3, 0.02], [0.04, 0.01], [0.01, 0.0]])
    accuracy = np.array([[0.5, 0.9], [0.88, 0.97], [0.9, 0.99]])
    u, c, s = tables.UNDER, tables.CRITICAL, tables.SUFFICIENT
    assert tables.regimes(r, accuracy, subject.Params()).tolist() == [[u, c], [c, c], [s, s]]
    assert tables.regimes(r, accuracy, subject.Params(plateau=0.97)).tolist() == [[u, c], [c, s], [s, s]]


def test_the_grid_asks_for_each_network_once():
    g = grid_of(subject.Params(decays=(-6, -3)), 1200)
    assert len(set(g.cells)) == len(g.cells) == 7 * 5 * 3 + 3 + 9 and g.widths[4] == g.focus == 24
    assert g.thorough(Cell(24, 1200, 0), 0) and g.thorough(Cell(3, 1200, 0), 40) and g.thorough(Cell(24, 10, 0), 40)
    assert not g.thorough(Cell(3, 1200, 0), 0) and not g.thorough(Cell(3, 10, 0), 40) and not g.thorough(Cell(24, 10, 0), 0)
    assert grid_of(subject.Params(samples=(5_000,)), 1200).samples == (1200,)


class Cut(Exception):
    pass


class Once(Quiet):
    """Keeps a state, and stops in the middle the first time."""

    def __init__(self):
        self.state, self.left = None, 4

    def save(self, state, force=False):
        self.state = encode_and_back(state)

    def saved(self):
        return self.state

    def step(self, i, n, message="", live=None):
        self.left -= bool(live)
        if self.left == 0:
            raise Cut


def encode_and_back(state):
    import tempfile
    from pathlib import Path

    from jobs.progress import keep, kept

    with tempfile.TemporaryDirectory() as folder:
        keep(Path(folder) / "s.safetensors", state)
        return kept(Path(folder) / "s.safetensors")


def test_resuming_gives_the_uninterrupted_result(small):
    progress = Once()
    with pytest.raises(Cut):
        subject.compute((), SMALL, progress)
    assert progress.state is not None
    again = subject.compute((), SMALL, progress)
    assert again.cells.equals(small.result.cells) and (again.pairs == small.result.pairs).all()


@pytest.mark.parametrize("params", [SMALL, replace(SMALL, hidden=2, widths=(), focus=6, batch_norm=False, optimizer="sgd", decays=(), noises=(), samples=()),
                                    replace(SMALL, family="conv", widths=(1, 2), focus=1, batch=50)], ids=("mlp", "two layers", "conv"))
def test_every_figure_draws_in_both_themes_and_the_result_survives_the_store(params, small, tmp_path):
    found = small if params is SMALL else run(params if params.family == "conv" else replace(params, widths=(4,)))
    arrays, parts, plain = encode(found.result)
    Store(tmp_path).put("k", arrays=arrays, tables=parts, record={"plain": plain})
    back = decode(subject.Result, Store(tmp_path).get("k"))
    again = replace(found, result=back)
    assert subject.answer([again]) == subject.answer([found]) and len(subject.headlines([again])) == 4
    cards = subject.figures([again])
    assert ("regions_on_a_plane" in {c.name for c in cards}) == (params.family == "mlp")
    for card in cards:
        assert card.data.num_rows or card.name == "shared_codes"
        for draw in card.views.values():
            for theme in THEMES.values() if params is SMALL else [THEMES["dark"]]:
                assert draw(theme).data or card.name == "shared_codes"
    assert back.n_bits == {"mlp": 8 if params is SMALL else 12, "conv": 64}[params.family]


def test_any_three_images_may_span_the_plane(small):
    for chosen, expected in (((5, 5, 7), [5, 7, 0]), ((), [0, 1, 2]), ((9_999, 3), [3, 0, 1])):
        assert pictures._chosen(replace(small, params=replace(SMALL, plane=chosen))) == expected


def test_images_are_known_by_what_they_hold(tmp_path):
    np.savez(tmp_path / "My Set.npz", x_train=np.zeros((30, 4, 4), np.uint8), y_train=np.arange(30) % 3, x_test=np.zeros((9, 4, 4), np.uint8), y_test=np.arange(9) % 3)
    name = shelf.add(tmp_path / "My Set.npz", tmp_path / "home")
    assert name.startswith("images/my-set-") and shelf.names(tmp_path / "home") == ("digits", name)
    found = shelf.load(name, 20, 100, 0, tmp_path / "home")
    assert found.x.shape == (20, 1, 4, 4) and len(found.y_test) == 9 and found.n_classes == 3
    for wrong in ("images/none", "../x", "images/../../etc/passwd", "mnist"):
        with pytest.raises(Refused, match="There are no images"):
            shelf.load(wrong, 10, 10, 0, tmp_path / "home")


@pytest.mark.skipif(not MNIST.is_file(), reason="MNIST is not here")
def test_mnist_from_its_file_to_its_figures(home):
    """Opened as a visitor opens it, trained, read off and drawn: the wide code knows more than the narrow one and shares less."""
    params = subject.Params(images=shelf.add(MNIST, home), widths=(8, 48), focus=48, repeats=2, epochs=5, samples=(100,), train_images=1500, test_images=500, decays=(), noises=())
    found = run(params)
    rows = tables.Rows(found.result)
    assert (found.result.n_train, found.result.n_test, found.result.n_classes) == (1500, 500, 10) and found.result.x_test.shape[1:] == (1, 28, 28)
    r, knn, own = (rows.curve(m, "width").mean for m in ("r_train", "knn", "accuracy"))
    assert r[0] > 0.8 and r[1] < 0.05 and knn[1] > 0.75 > knn[0] + 0.1 and own[1] > 0.85
    assert rows.curve("knn", "samples", "raw").mean[-1] > 0.85
    for card in subject.figures([found]):
        for draw in card.views.values():
            draw(THEMES["light"])


def test_diverging_training_is_told(home, tmp_path):
    x = np.full((40, 2, 2), 3e30, np.float32)
    np.savez(tmp_path / "huge.npz", x_train=x, y_train=np.arange(40) % 3, x_test=x, y_test=np.arange(40) % 3)
    name = shelf.add(tmp_path / "huge.npz", home)
    with pytest.raises(Refused, match="diverged"):
        run(replace(SMALL, images=name, optimizer="sgd", lr=10.0, batch_norm=False, epochs=4, train_images=40, samples=(), decays=(), noises=()))
