"""Matrix product operators: a Kronecker product by hand, exact at full bond, the error is what was cut off, bits."""

import math

import pytest
import torch

from metrics.matrix_product import bonds, chain, multiplied, n_numbers, site_sizes, split
from models.shape import shape_of
from operators import tensor_network
from tests.operator_bench import FAMILIES, model_of, planned, weights_of


def weight(n_out=12, n_in=20, seed=0):
    return torch.randn(n_out, n_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_factors_as_equal_as_divisors_allow():
    assert [split(n, p) for n, p in ((160, 2), (160, 3), (432, 2), (7, 2), (16, 4), (1, 3))] == [(10, 16), (4, 5, 8), (18, 24), (1, 7), (2, 2, 2, 2), (1, 1, 1)]
    assert site_sizes(160, 640, 2) == [(10, 32), (16, 20)]


def test_by_hand():
    """[1 2] ⊗ [[1, 0, 2]] stacked with twice itself is (1 2)ᵀ-like in every index: bond 1 with numbers 2·2 + 1·3. Adding 5 at one corner needs a second bond."""
    a, b = torch.tensor([[1.0, 2.0], [2.0, 4.0]]), torch.tensor([[1.0, 0.0, 2.0]])
    w = torch.kron(a, b)  # 2×6
    assert w.tolist() == [[1, 0, 2, 2, 0, 4], [2, 0, 4, 4, 0, 8]]
    sizes = [(2, 2), (1, 3)]
    cores, (values,) = chain(w, sizes, 1)
    torch.testing.assert_close(multiplied(cores), w.double())
    assert values.tolist() == pytest.approx([5 * math.sqrt(5), 0, 0], abs=1e-6) and n_numbers(sizes, 1) == 7  # ‖a‖·‖b‖ = 5·√5
    w[0, 0] += 5
    assert float((multiplied(chain(w, sizes, 1)[0]) - w).norm()) > 1 and n_numbers(sizes, 2) == 14
    torch.testing.assert_close(multiplied(chain(w, sizes, 2)[0]), w.double())


@pytest.mark.parametrize("cores", (2, 3, 4))
def test_full_bond_is_exact_and_sizes_are_as_counted(cores):
    w, sizes = weight(), site_sizes(12, 20, cores)
    for most in (3, 10_000):
        found, _ = chain(w, sizes, most)
        assert [c.shape[0] for c in found[1:]] == bonds(sizes, most) and sum(c.numel() for c in found) == n_numbers(sizes, most)
    torch.testing.assert_close(multiplied(found), w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cores", (2, 3))
def test_the_error_is_what_was_cut_off(cores):
    w, sizes, before = weight(), site_sizes(12, 20, cores), math.inf
    for bond in (1, 2, 3, 5):
        found, spectra = chain(w, sizes, bond)
        error = float((multiplied(found) - w).square().sum())
        cut = sum(float(values[n:].square().sum()) for values, n in zip(spectra, bonds(sizes, bond)))
        assert error == pytest.approx(cut, rel=1e-9, abs=1e-20)
        assert error < before
        before = error


def test_two_cores_are_the_best_sum_of_kronecker_products():
    """Van Loan and Pitsianis: the best two products are the two leading singular vectors of the rearranged matrix."""
    w = weight()
    found, (values,) = chain(w, [(3, 5), (4, 4)], 2)
    rearranged = torch.stack([w[4 * o:4 * o + 4, 4 * i:4 * i + 4].reshape(-1) for o in range(3) for i in range(5)])
    torch.testing.assert_close(torch.linalg.svdvals(rearranged), values)
    summed = sum(torch.kron(found[0][0, :, :, b], found[1][b, :, :, 0]) for b in range(2))
    torch.testing.assert_close(multiplied(found), summed)


@pytest.mark.parametrize("family", FAMILIES)
def test_planted_products_cost_nothing_and_random_matrices_do(family):
    model = model_of(family)
    for m in shape_of(model).matrices:
        (o, i), (p, j) = site_sizes(m.n_out // (3 if m.name == "attn.c_attn" else 1), m.n_in, 2)
        part = torch.kron(weight(o, i, m.layer), weight(p, j, 9)).float()
        model.set_matrix(m.layer, m.name, part if part.shape[0] == m.n_out else torch.cat([part, -part, 2 * part]))
    plan, variant = planned(tensor_network, model, bond=1)
    for before, after in zip(weights_of(model).values(), weights_of(variant).values()):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert max(float(e) for e in plan.error.values()) < 1e-6
    assert min(float(e) for e in planned(tensor_network, model_of(family), bond=1)[0].error.values()) > 0.5


def test_bits_and_what_stays_dense():
    """16×16 as (4·4)·(4·4): a bond takes 32 numbers, so 4 take 128 of 256; 8 would take all 256, and it stays dense."""
    model = model_of("llama")
    plan, _ = planned(tensor_network, model, bond=4, which="attn")
    assert float(plan.bits["0.self_attn.q_proj"]) == 128 * 32 and set(plan.error) == set(plan.bits)
    dense, variant = planned(tensor_network, model, bond=8)
    assert "0.self_attn.q_proj" not in dense.error and torch.equal(variant.matrix(0, "self_attn.q_proj"), model.matrix(0, "self_attn.q_proj"))
