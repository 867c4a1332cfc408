"""Turns, angles, CKA and spectra: worked by hand, and the identities that the definitions promise."""

import math

import numpy as np
import pytest
import torch

from metrics import redundancy as r


def rotation(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_turn_by_hand():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[4.0, 3.0], [0.0, 2.0], [-5.0, 0.0], [0.0, 0.0]])
    assert r.turn(a, b).tolist() == pytest.approx([1 / 25, 1.0, 2.0, 0.0])  # cos 24/25, 0, −1; two zeros are the same state


def test_turn_keeps_its_digits_close_to_one():
    a = torch.tensor([1.0, 0.0])
    b = torch.tensor([1.0, 1e-4])
    assert float(r.turn(a, b)) == pytest.approx(5e-9, rel=1e-4)
    assert float(1 - torch.cosine_similarity(a, b, dim=0)) == 0.0  # what the plain formula makes of it


def test_turn_ignores_length_and_stays_in_range():
    a, b = noise(50, 8), noise(50, 8, seed=1)
    assert torch.allclose(r.turn(a, b), r.turn(a, 7 * b), atol=1e-6)
    assert ((r.turn(a, b) >= 0) & (r.turn(a, b) <= 2 + 1e-6)).all()


def test_angle_by_hand_and_at_the_ends():
    a = torch.tensor([[1.0, 0.0]] * 4)
    b = torch.tensor([[0.0, 3.0], [1.0, 1.0], [-1.0, 0.0], [2.0, 0.0]])
    assert r.angle(a, b).tolist() == pytest.approx([0.5, 0.25, 1.0, 0.0], abs=1e-7)
    x = noise(4096, 64)
    assert float(r.angle(x, 3 * x).max()) < 1e-6 and not r.angle(x, x).isnan().any()


def test_angles_obey_the_triangle_and_are_monotone_in_the_turn():
    states = noise(5, 30, 6).cumsum(0)
    for s in range(30):
        d = r.angles(states[:, s : s + 1])
        assert (d >= 0).all() and (d <= 1).all() and torch.equal(d, d.T)
        assert all(d[i, j] <= d[i : j + 1, i : j + 1].diagonal(1).sum() + 1e-6 for i in range(5) for j in range(i + 1, 5))
    one, turn = r.angle(states[0], states[1]), r.turn(states[0], states[1])
    assert torch.allclose(torch.cos(math.pi * one), 1 - turn, atol=1e-5)


def test_best_spans_by_hand():
    distance = np.array([[0, 0.3, 0.4, 0.9], [0.3, 0, 0.2, 0.35], [0.4, 0.2, 0, 0.25], [0.9, 0.35, 0.25, 0]])
    assert r.best_spans(distance) == [(1, 1), (2, 1), (3, 0)]


def test_hsic_by_hand():
    """Four samples, states x = 0,0,1,1 and y = 0,1,0,1 (one channel). K̃ has a single pair (3,4), L̃ the pair (2,4):
    tr K̃L̃ = 0, sums 2 and 2, 1ᵀK̃L̃1 = 1: (0 + 4/6 − 2/2·1) / 4 = −1/12; of x with itself: (2 + 4/6 − 2) / 4 = 1/6."""
    k = torch.zeros(2, 4, 4)
    k[0, 2, 3] = k[0, 3, 2] = k[1, 1, 3] = k[1, 3, 1] = 1.0
    assert r.hsic_from_grams(k)[0].tolist() == pytest.approx([1 / 6, -1 / 12])
    x = torch.tensor([[[0.0], [0.0], [1.0], [1.0]], [[0.0], [1.0], [0.0], [1.0]]])
    assert r.hsic_unbiased(x)[0].tolist() == pytest.approx([1 / 6, -1 / 12])  # centring first changes nothing


def test_hsic_needs_four_samples():
    with pytest.raises(ValueError, match="at least 4"):
        r.hsic_unbiased(noise(2, 3, 5))


def minibatch_cka(x, size):
    return r.cka_from_hsic(sum(r.hsic_unbiased(part) for part in x.split(size, 1)))


def test_cka_does_not_see_rotation_scale_or_shift():
    x = noise(200, 6)
    y = (3.7 * x.double() @ rotation(6) + 5).float()
    assert float(r.linear_cka(torch.stack([x, y]))[0, 1]) == pytest.approx(1, abs=1e-5)
    assert float(minibatch_cka(torch.stack([x, y]), 50)[0, 1]) == pytest.approx(1, abs=1e-4)


def test_feature_form_is_gram_form():
    x = noise(3, 20, 21).cumsum(0)  # 21 channels, 20 samples: Gram form
    wide = r.linear_cka(x)
    padded = torch.cat([x - x.mean(1, keepdim=True)] * 2, 1)  # the same centred samples twice: feature form, same value
    assert torch.allclose(wide, r.linear_cka(padded), atol=1e-6)
    assert torch.equal(wide, wide.T)


def test_minibatch_cka_agrees_across_batch_sizes():
    x = noise(2000, 12)
    pair = torch.stack([x, 0.8 * x + 0.6 * noise(2000, 12, seed=1)])
    values = [float(minibatch_cka(pair, size)[0, 1]) for size in (20, 100, 1000)]
    assert max(values) - min(values) < 0.02 and 0.2 < values[0] < 0.9


def test_independent_states_are_alike_only_to_the_biased_form():
    """The negative control: 40 samples in 32 channels, many draws."""
    pairs = [torch.stack([noise(40, 32, seed=2 * i), noise(40, 32, seed=2 * i + 1)]) for i in range(20)]
    assert np.mean([float(r.linear_cka(p)[0, 1]) for p in pairs]) > 0.4
    assert abs(np.mean([float(minibatch_cka(p, 40)[0, 1]) for p in pairs])) < 0.03


def test_a_constant_state_has_no_cka():
    x = torch.stack([noise(20, 4), torch.ones(20, 4)])
    assert r.linear_cka(x)[0, 1].isnan() and not r.linear_cka(x)[0, 0].isnan()


def test_spectra_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # already centred, rows of length 1
    assert torch.allclose(r.prepared(z + 3), z, atol=1e-6)
    assert r.spectrum(z).tolist() == pytest.approx([0.5, 0.5])
    assert float(r.matrix_entropy(r.spectrum(z))) == pytest.approx(math.log(2))  # effective rank 2
    assert float(r.matrix_nuclear_norm(z)) == pytest.approx(2 * math.sqrt(2) / 4)  # columns of length √2 and √2, over N = 4
    line = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    assert float(r.matrix_entropy(r.spectrum(r.prepared(line)))) == pytest.approx(0, abs=1e-6)  # one direction: effective rank 1


def test_spectra_invariants():
    x = noise(9, 24)
    z = r.prepared(x)
    tall = torch.linalg.eigvalsh(z.double().T @ z.double()).clamp_min(0)
    assert float(r.matrix_entropy(r.spectrum(z))) == pytest.approx(float(r.matrix_entropy(tall / tall.sum())), abs=1e-6)
    rank = float(r.matrix_entropy(r.spectrum(z)).exp())
    assert 1 <= rank <= 9
    assert float(r.matrix_entropy(r.spectrum((z.double() @ rotation(24)).float())).exp()) == pytest.approx(rank, abs=1e-3)
    many = r.prepared(noise(60, 24))
    nuclear = torch.linalg.svdvals(many.double()).sum() / 60
    assert float(r.matrix_nuclear_norm(many)) >= float(nuclear) - 1e-9  # D = d: all columns are counted
    assert float(r.matrix_nuclear_norm(z)) <= math.sqrt(min(9, 24) / 9) + 1e-9
