"""Codes by hand: redundancy, regions of lines and planes, what stays under permutation and rescaling, probes and their controls."""

import math

import numpy as np
import pytest

from kernels import hamming
from metrics import code_probes, codes, regions

RELU, SQUARE = (lambda z: np.maximum(z, 0)), np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])


def net(sizes, seed=0):
    g = np.random.default_rng(seed)
    return [(g.standard_normal((o, i)) / math.sqrt(i), g.standard_normal(o) / 2) for i, o in zip(sizes, sizes[1:])]


def breakpoints(at):
    """A 1-D network with one unit per breakpoint."""
    return [(np.ones((len(at), 1)), -np.array(at)), (np.ones((1, len(at))), np.zeros(1))]


@pytest.mark.parametrize("m", [1, 2, 5])
def test_one_dimension_with_known_breakpoints(m):
    """n breakpoints make n + 1 regions; m points in each give R = 1 − 1/m exactly."""
    at = [0.1, 0.25, 0.5, 0.7, 0.9]
    layers = breakpoints(at)
    points = np.concatenate([np.linspace(lo, hi, m + 2)[1:-1] for lo, hi in zip([0, *at], [*at, 1])])[:, None]
    packed = codes.pack(regions.code(layers, points))
    assert len(np.unique(packed, axis=0)) == len(at) + 1
    assert codes.redundancy(packed) == pytest.approx(1 - 1 / m, abs=1e-15)
    np.testing.assert_allclose(regions.along_line(layers, np.zeros(1), np.ones(1)), at, atol=1e-15)


@pytest.mark.parametrize("n", [1, 2, 6, 11])
def test_lines_in_general_position_cut_the_plane(n):
    """1 + n + n(n − 1)/2 regions, every one with a code of its own (22 for n = 6)."""
    g = np.random.default_rng(n)
    angle = (np.arange(n) + g.uniform(0.2, 0.8, n)) * np.pi / n  # no two nearly parallel, all crossings near
    layers = [(np.stack([np.cos(angle), np.sin(angle)], 1), g.uniform(-1, 1, n)), (np.ones((1, n)), np.zeros(1))]
    found = regions.on_plane(layers, np.zeros(2), np.array([1.0, 0]), np.array([0, 1.0]), 500 * SQUARE)
    assert len(found.polygons) == len(np.unique(found.codes, axis=0)) == 1 + n + n * (n - 1) // 2
    assert sum(_area(p) for p in found.polygons) == pytest.approx(1000.0**2)


def _area(p):
    x, y = p.T
    return abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2


def test_regions_of_a_deep_network_are_those_that_points_fall_into():
    layers, g = net((5, 12, 12, 12, 3)), np.random.default_rng(7)
    origin, u, v = g.standard_normal((3, 5))
    found = regions.on_plane(layers, origin, u, v, 2 * SQUARE)
    inside = np.array([p.mean(0) for p in found.polygons])
    on = lambda ab: regions.code(layers, origin + ab[:, :1] * u + ab[:, 1:] * v)
    assert (on(inside) == found.codes).all() and len(np.unique(found.codes, axis=0)) == len(found.codes)
    seen = {c.tobytes() for c in on(g.uniform(-2, 2, (20_000, 2)))}
    assert seen <= {c.tobytes() for c in found.codes} and len(seen) > 0.8 * len(found.codes)
    assert set(found.made_by[:, 0]) == {0, 1, 2}
    middle = found.edges.mean(1)  # every edge is where its unit is zero
    for (layer, unit), (a, b) in zip(found.made_by, middle):
        h = origin + a * u + b * v
        for w, c in layers[:layer]:
            h = RELU(w @ h + c)
        assert abs(layers[layer][0][unit] @ h + layers[layer][1][unit]) < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_along_a_line_every_change_of_code_is_found_and_nothing_else(seed):
    layers, g = net((6, 20, 20, 4), seed), np.random.default_rng(seed)
    a, b = 3 * g.standard_normal((2, 6))
    cuts = regions.along_line(layers, a, b)
    middles = (np.concatenate([[0], cuts]) + np.concatenate([cuts, [1]])) / 2
    on = regions.code(layers, a + middles[:, None] * (b - a))
    assert ((on[1:] != on[:-1]).sum(1) >= 1).all() and len(cuts) > 4
    dense = regions.code(layers, a + np.linspace(0, 1, 20_001)[:, None] * (b - a))
    assert len(cuts) >= (dense[1:] != dense[:-1]).any(1).sum()
    assert {c.tobytes() for c in dense} <= {c.tobytes() for c in on}


def test_with_one_hidden_layer_a_line_crosses_one_region_more_than_the_hamming_distance():
    layers, g = net((8, 40, 3)), np.random.default_rng(1)
    for a, b in g.standard_normal((20, 2, 8)):
        on = regions.code(layers, np.stack([a, b]))
        assert len(regions.along_line(layers, a, b)) == (on[0] != on[1]).sum()


def test_only_relu_is_affine_inside_a_region():
    """Midpoints of pairs with one code: exact for ReLU; GELU and SiLU bend, as ReLU does across a boundary."""
    layers, g = net((4, 10, 3)), np.random.default_rng(0)
    gelu = lambda z: z * 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    silu = lambda z: z / (1 + np.exp(-z))
    x = g.standard_normal((400, 4))
    y = x + 0.02 * g.standard_normal((400, 4))
    same = (regions.code(layers, x) == regions.code(layers, y)).all(1)
    bend = {}
    for name, f in (("relu", RELU), ("gelu", gelu), ("silu", silu)):
        out = lambda z: f(z @ layers[0][0].T + layers[0][1]) @ layers[1][0].T
        bend[name] = np.abs(out((x + y) / 2) - (out(x) + out(y)) / 2).max(1)
    assert 100 < same.sum() < 400 and bend["relu"][same].max() < 1e-14
    assert bend["relu"][~same].max() > 1e-4 and bend["gelu"][same].max() > 1e-7 and bend["silu"][same].max() > 1e-7


def test_what_redundancy_and_distances_do_not_depend_on():
    layers, g = net((6, 30, 3)), np.random.default_rng(2)
    x = np.round(g.standard_normal((300, 6)))
    (w, b), last = layers
    order, scale, flip = g.permutation(30), g.uniform(0.1, 9, 30), np.where(np.arange(30) == 4, -1, 1)
    changed = {"permuted": [(w[order], b[order]), last], "rescaled": [(w * scale[:, None], b * scale), last], "flipped": [(w * flip[:, None], b * flip), last]}
    on = regions.code(layers, x)
    y = g.integers(0, 3, 300)
    for name, other in changed.items():
        now = regions.code(other, x)
        assert codes.redundancy(codes.pack(now)) == codes.redundancy(codes.pack(on))
        assert (codes.distances(codes.pack(now[:-1]), codes.pack(now[1:])) == (on[:-1] != on[1:]).sum(1)).all()
        knn = [code_probes.nearest_accuracy(codes.pack(c[:200]), y[:200], codes.pack(c[200:]), y[200:], 3) for c in (on, now)]
        assert knn[0] == knn[1]
        differs = np.flatnonzero((now != on).any(0))
        assert list(differs) == ([4] if name == "flipped" else []) or name == "permuted"
    assert (regions.code(changed["flipped"], x)[:, 4] == ~on[:, 4]).all()


def test_duplicates_raise_redundancy_by_exactly_their_share():
    g = np.random.default_rng(3)
    distinct = codes.pack(g.random((80, 40)) < 0.5)
    assert codes.redundancy(distinct) == 0
    assert codes.redundancy(np.concatenate([distinct, distinct[:20]])) == 20 / 100
    assert math.isnan(codes.redundancy(distinct[:0]))


@pytest.mark.parametrize("n_bits", [1, 7, 64, 65, 130])
def test_packed_is_unpacked(n_bits):
    bits = np.random.default_rng(n_bits).random((90, n_bits)) < 0.3
    packed = codes.pack(bits)
    assert packed.shape[1] % 8 == 0 and (codes.unpack(packed, n_bits) == bits).all()
    assert (codes.distances(packed[:45], packed[45:]) == (bits[:45] != bits[45:]).sum(1)).all()
    assert len(np.unique(hamming.duplicates(packed))) == len(np.unique(bits, axis=0)) == round(90 * (1 - codes.redundancy(packed)))
    assert sorted(tuple(g) for g in codes.shared_groups(packed)) == sorted(
        tuple(np.flatnonzero(i == k)) for i in [np.unique(bits, axis=0, return_inverse=True)[1]] for k in range(i.max() + 1) if (i == k).sum() > 1)


def test_effective_bits_inverts_the_expected_redundancy():
    for bits, n in ((0, 50), (3, 100), (8.5, 1_000), (20, 1_200)):
        assert codes.effective_bits(codes.expected_redundancy(bits, n), n) == pytest.approx(bits, abs=1e-4)
    drawn = np.mean([codes.redundancy(codes.pack(np.random.default_rng(s).random((500, 9)) < 0.5)) for s in range(20)])
    assert codes.effective_bits(drawn, 500) == pytest.approx(9, abs=0.1)
    assert codes.expected_redundancy(1e-9, 40) == pytest.approx(39 / 40) and codes.effective_bits(0.0, 9) == math.inf and math.isnan(codes.effective_bits(math.nan, 9))
    assert codes.bit_entropy(np.array([0, 0.5, 1, 0.25])) == pytest.approx([0, 1, 0, 0.811278], abs=1e-6)


def test_random_hyperplanes_differ_by_the_angle():
    """P(bit differs) = angle / π."""
    for degrees in (10, 45, 90, 180):
        x = np.array([[1.0, 0], [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]])
        packed = codes.hyperplanes(x, 20_000, 0, np.zeros(2))
        assert codes.distances(packed[:1], packed[1:])[0] / 20_000 == pytest.approx(degrees / 180, abs=0.012)


def test_purity_and_hungarian_by_hand():
    """Two clusters of mostly class 0 and one of class 1: purity lets both take 0, Hungarian gives one of them class 2."""
    found, truth = np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 0, 1, 0, 0, 1, 1, 2])
    assert code_probes.purity(found, truth) == 6 / 8 and code_probes.matched(found, truth) == 4 / 8
    g = np.random.default_rng(0)
    for _ in range(20):
        a, b = g.integers(0, 4, (2, 60))
        assert code_probes.purity(a, b) >= code_probes.matched(a, b)


def test_planted_classes_are_read_off_and_shuffled_ones_are_not():
    """Each class has a prototype of 60 bits, its members differ in a few; shuffled labels leave chance."""
    g = np.random.default_rng(5)
    prototypes, y = g.random((4, 60)) < 0.5, g.integers(0, 4, 600)
    bits = prototypes[y] ^ (g.random((600, 60)) < 0.1)
    packed, wrong = codes.pack(bits), g.permutation(y)
    for labels, low, high in ((y, 0.99, 1.0), (wrong, 0.1, 0.4)):
        knn = code_probes.nearest_accuracy(packed[:400], labels[:400], packed[400:], labels[400:], 4)
        lr = code_probes.logistic_accuracy(bits[:400], labels[:400], bits[400:], labels[400:])
        assert low <= knn <= high and low <= lr <= high
    found = code_probes.clusters(bits, 4, 0)
    assert code_probes.purity(found, y) == code_probes.matched(found, y) > 0.99 and code_probes.matched(found, wrong) < 0.4
    within, between = codes.pair_distances(packed, y, 500)
    assert within.mean() == pytest.approx(60 * 0.18, abs=0.7) and between.mean() > within.mean() + 10
    x = bits.astype(np.float32)
    assert code_probes.raw_nearest_accuracy(x[:400], y[:400], x[400:], y[400:], 4) > 0.99
    assert math.isnan(code_probes.logistic_accuracy(bits, np.zeros(600, int), bits, y))


def test_three_images_on_one_line_still_span_a_plane():
    a, b, c = np.array([0.0, 0, 0]), np.array([2.0, 0, 0]), np.array([3.0, 0, 0])
    origin, u, v, corners = regions.through(a, b, c)
    assert abs(u @ v) < 1e-12 and np.linalg.norm(v) == pytest.approx(1) and corners.tolist() == [[0, 0], [2, 0], [3, 0]]
    a, b, c = np.random.default_rng(0).standard_normal((3, 5))
    origin, u, v, corners = regions.through(a, b, c)
    for point, (s, t) in zip((a, b, c), corners):
        np.testing.assert_allclose(origin + s * u + t * v, point, atol=1e-12)
