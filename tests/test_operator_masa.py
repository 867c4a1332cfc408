"""Matrix atoms: by hand, exact with as many as blocks, the error is the tail, blocks alike need one atom, bits."""

import pytest
import torch

from operators import masa
from operators.masa import decompose
from tests.operator_bench import FAMILIES, model_of, planned, weights_of


def test_by_hand():
    """Blocks D, 2D and E with D = [[3, 0, 4]], E = [[0, 2, 0]]: one atom is D/5 with 5, 10, 0; what is left out is E, 2² of 25 + 100 + 4."""
    d, e = torch.tensor([[3.0, 0, 4]]), torch.tensor([[0.0, 2, 0]])
    atoms, coefficients, values = decompose(torch.stack([d, 2 * d, e]), 1)
    torch.testing.assert_close(atoms[0], (d / 5).double())
    torch.testing.assert_close(coefficients, torch.tensor([[5.0], [10], [0]]).double())
    assert values.tolist() == pytest.approx([125 ** 0.5, 2, 0], abs=1e-6)


def test_the_error_is_the_tail_and_atoms_are_orthonormal():
    stack = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for n in (1, 3, 5):
        atoms, coefficients, values = decompose(stack, n)
        error = (torch.einsum("bs,soi->boi", coefficients, atoms) - stack).square().sum()
        assert float(error) == pytest.approx(float(values[n:].square().sum()), abs=1e-10)
        torch.testing.assert_close(torch.einsum("soi,toi->st", atoms, atoms), torch.eye(n).double())
    torch.testing.assert_close(values, torch.linalg.svdvals(stack.flatten(1)))  # no other atoms do better


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_alike_need_one_atom_and_random_ones_lose_most_with_it(family):
    model = model_of(family)
    _, hurt = planned(masa, model, atoms=1, which="all")
    change = [float((a - b).norm() / b.norm()) for a, b in zip(weights_of(hurt).values(), weights_of(model).values())]
    assert sum(change) / len(change) > 0.6
    for layer, name, w in list(model.matrices()):
        model.set_matrix(layer, name, (1 + layer) * model.matrix(0, name))
    _, alike = planned(masa, model, atoms=1, which="all")
    for a, b in zip(weights_of(alike).values(), weights_of(model).values()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_bits_and_runs():
    """Four blocks, one atom a run of two: half the numbers, and a coefficient a block and projection. A run as short as its atoms stays."""
    model = model_of("llama", n_layers=4)
    plan, _ = planned(masa, model, atoms=1, span=2)
    assert float(plan.bits["3.self_attn.q_proj"]) == 32 * (256 / 2 + 1) and len(plan.atoms) == 8
    assert masa.storage(model, plan).weights == 4 * (2 * 256 + 2 * 128)
    plan, variant = planned(masa, model_of("gpt2"), atoms=2, span=2)  # blocks 0 and 1 keep both, block 2 is alone
    assert not plan.atoms and all(torch.equal(a, b) for a, b in zip(weights_of(variant).values(), weights_of(model_of("gpt2")).values()))
