"""Dense times sparse and low rank plus sparse: by hand, planted factors come back, no step raises the error, bits and patterns exact."""

import pytest
import torch

from metrics.sparse_factors import low_rank_plus_sparse, product
from models.refusal import Refused
from models.shape import shape_of
from operators import dense_sparse
from operators.dense_sparse import Params, sizes, stored_bits
from tests.operator_bench import FAMILIES, model_of, planned


def weight(m=12, n=30, seed=0):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_product_by_hand():
    """[[1, 0, 2], [0, 3, 0]] has one number a column: one atom each suffices. With a single atom the longer row, 3, stays, and 1² + 2² goes."""
    w = torch.tensor([[1.0, 0, 2], [0, 3, 0]])
    two = product(w, 2, 1, 3)
    torch.testing.assert_close(two.dense @ two.sparse, w.double())
    one = product(w, 1, 1, 3)
    torch.testing.assert_close(one.dense @ one.sparse, torch.tensor([[0.0, 0, 0], [0, 3, 0]]).double())
    assert float(one.objective[-1]) == pytest.approx(5)


def test_sum_by_hand():
    """All ones 2×3 with 9 in one corner: rank 1 and one entry, 8, is exact."""
    w = torch.ones(2, 3)
    w[0, 2] = 9
    found = low_rank_plus_sparse(w, 1, 1, 200)
    assert found.position.tolist() == [2] and float(found.value) == pytest.approx(8, abs=1e-4)
    torch.testing.assert_close(found.left @ found.right, torch.ones(2, 3).double(), rtol=0, atol=1e-4)


def test_planted_lines_come_back_and_a_low_rank_of_that_size_does_not():
    """Every column lies on one of six lines that are not orthogonal; no plane of dimension 3 holds them."""
    atoms, which = torch.nn.functional.normalize(weight(12, 6), dim=0), torch.arange(60) % 6
    w = atoms[:, which] * weight(1, 60, seed=1)
    found = product(w, 6, 1, 300)
    assert float(found.objective[-1]) < 1e-3 * float(w.square().sum())
    assert float(torch.linalg.svdvals(w)[3:].square().sum()) > 0.05 * float(w.square().sum())
    noise = product(weight(12, 60), 6, 1, 300)
    assert float(noise.objective[-1]) > 0.3 * float(weight(12, 60).square().sum())


def test_planted_spikes_come_back():
    w, places = weight(12, 2, 1) @ weight(2, 30, 2), torch.tensor([3, 50, 111, 200, 359])
    spiked = w.clone()
    spiked.view(-1)[places] += 20
    found = low_rank_plus_sparse(spiked, 2, 5, 100)
    assert found.position.tolist() == places.tolist()
    torch.testing.assert_close(found.left @ found.right, w, rtol=0, atol=1e-4)


@pytest.mark.parametrize("r,s", ((4, 2), (8, 3), (12, 12)))
def test_no_step_raises_the_error_of_a_product(r, s):
    w = weight()
    found = product(w, r, s, 30)
    assert bool((found.objective.diff() <= 1e-9).all()) and found.index.shape == (s, 30) and found.dense.shape == (12, r)
    assert bool((found.index.diff(dim=0) > 0).all())  # s different atoms in every column
    assert float((w - found.dense @ found.sparse).square().sum()) == pytest.approx(float(found.objective[-1]), abs=1e-9)
    if r == s == 12:
        assert float(found.objective[-1]) < 1e-18


def test_no_step_raises_the_error_of_a_sum():
    found = low_rank_plus_sparse(weight(), 3, 40, 30)
    assert bool((found.objective.diff() <= 1e-9).all()) and len(found.value) == 40
    tail = torch.linalg.svdvals(weight())[3:].square().sum()
    assert float(found.objective[-1]) < 0.8 * float(tail)


@pytest.mark.parametrize("form", (product, low_rank_plus_sparse))
def test_a_metric_lowers_the_error_it_weighs(form):
    """With columns scaled beforehand the scaled error is smaller and the plain one larger, by far where inputs differ."""
    w, scale = weight(), torch.linspace(-2, 2, 30).double().exp()

    def rebuilt(found):
        return found.dense @ found.sparse if form is product else found.left @ found.right + torch.zeros(360).double().scatter_(0, found.position, found.value).view(12, 30)

    plain, weighed = rebuilt(form(w, 4, 2, 30)), rebuilt(form(w * scale, 4, 2, 30)) / scale
    assert float(((weighed - w) * scale).norm()) < 0.9 * float(((plain - w) * scale).norm())
    assert float((weighed - w).norm()) > float((plain - w).norm())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ("product", "sum"))
def test_more_bits_help(family, form):
    model = model_of(family)
    errors = [sum(float(e) for e in planned(dense_sparse, model, form=form, keep=keep)[0].error.values()) for keep in (0.6, 0.95)]
    assert errors[1] < 0.8 * errors[0]


def test_bits_by_hand():
    """16×16, keep ½ of 32·256 bits, ¾ of it dense: r = ⌊0.375·16⌋ = 6, 3072 bits; 1024 left for 16 columns at 32 + 3 bits: one entry.
    As a sum with half of it thin: rank ⌊0.25·256/32⌋ = 2, 2048 bits; 2048 left: (2048 − 16·5)/(32 + 4) = 54 with indices, 56 with a bitmap."""
    assert sizes(Params(keep=0.5), 16, 16, 32) == (6, 1) and stored_bits(Params(keep=0.5), 16, 16, 32) == 6 * 16 * 32 + 16 * 35
    both = Params(form="sum", keep=0.5, dense=0.5)
    assert sizes(both, 16, 16, 32) == (2, 56) and stored_bits(both, 16, 16, 32) == 2 * 32 * 32 + 56 * 32 + 256 == 0.5 * 256 * 32
    model = model_of("llama")
    plan, _ = planned(dense_sparse, model, keep=0.6)
    assert 17 < dense_sparse.storage(model, plan).bits_per_weight <= 0.6 * 32


def test_a_budget_that_leaves_nothing_is_refused():
    with pytest.raises(Refused, match="no sparse entry or no dense column"):
        dense_sparse.check(Params(keep=0.5, dense=1.0), shape_of(model_of("gpt2")))
