"""SplitQuant: clusters by hand, parts add up exactly, one outlier no longer spoils the grid, bits counted."""

import pytest
import torch

from operators import round_to_nearest, split_quant
from tests.operator_bench import model_of, planned, weights_of


def test_by_hand():
    w = torch.tensor([[-10.0, 0.0, 1.0], [10.0, -1.0, 12.0]])
    assert split_quant.clusters(w).tolist() == [[0, 1, 1], [2, 1, 2]]


def test_parts_are_disjoint_and_add_up_bit_for_bit():
    w = torch.randn(9, 31, generator=torch.Generator().manual_seed(0))
    cluster = split_quant.clusters(w)
    three = split_quant.parts(w, cluster)
    assert torch.equal(three.sum(0), w) and ((three != 0).sum(0) <= 1).all()
    assert [w[cluster == i].mean().item() for i in range(3)] == sorted(w[cluster == i].mean().item() for i in range(3))
    edges = [(w[cluster == i].max() + w[cluster == i + 1].min()).item() / 2 for i in range(2)]
    means = [w[cluster == i].mean().item() for i in range(3)]
    for i, edge in enumerate(edges):  # converged: the boundary is between neighbours around the middle of the means
        assert w[cluster == i].max() <= (means[i] + means[i + 1]) / 2 <= w[cluster == i + 1].min()


def test_constant_and_tiny_matrices_work():
    assert bool(torch.isfinite(split_quant.parts(torch.zeros(2, 3), split_quant.clusters(torch.zeros(2, 3)))).all())
    assert split_quant.clusters(torch.tensor([[1.0, 2.0]])).shape == (1, 2)


def test_outliers_stop_spoiling_a_single_grid():
    model = model_of("gpt2")
    weight = model.matrix(1, "mlp.c_fc").clone()
    weight[3, 5], weight[7, 2] = 20.0, -20.0
    model.set_matrix(1, "mlp.c_fc", weight)
    _, split = planned(split_quant, model, bits=4)
    error = lambda v: float((v.matrix(1, "mlp.c_fc") - weight).norm())
    from metrics.grid import grid_of

    one_grid = grid_of(weight.reshape(1, -1), 4, False).snap(weight.reshape(1, -1)).view_as(weight)
    assert error(split) < 0.8 * float((one_grid - weight).norm())
    _, rows = planned(round_to_nearest, model, bits=4, group=0)
    assert error(rows) < error(split)  # what the docstring says: a scale a row is better, and cheaper


def test_bits_and_idempotence():
    model = model_of("llama")
    plan, variant = planned(split_quant, model, bits=4)
    storage = split_quant.storage(model, plan)
    assert storage.bits_per_weight == pytest.approx(4 + 1.6 + 3 * 20 * len(plan.codes) / storage.weights)
    values = {len(w.unique()) for w in weights_of(variant).values()}
    assert max(values) <= 3 * 16
