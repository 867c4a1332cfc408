"""Rotations and covariance similarity of states whose relation is known."""

import math

import numpy as np
import pytest
import torch

from metrics.rotation import Streams


def turn(degrees: float, d: int) -> torch.Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.block_diag(*[torch.tensor([[c, -s], [s, c]], dtype=torch.float64)] * (d // 2))


def streams(states, embedded) -> Streams:
    out = Streams.empty(len(states), states[0].shape[1], embedded.shape[1])
    for part in torch.arange(len(embedded)).tensor_split(3):  # sums over batches
        out.add([s[part] for s in states], embedded[part])
    return out


@pytest.mark.parametrize("degrees", (0, 30, 47, 90, 150))
def test_a_rotation_is_returned_in_both_directions(degrees):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3_000, 16, generator=g, dtype=torch.float64)
    y = 3 * x @ turn(degrees, 16).T + 5
    to_input, to_output = streams([x, y], x).maps()
    assert to_input.rotations() == pytest.approx([0, degrees], abs=1e-3) and to_output.rotations() == pytest.approx([degrees, 0], abs=1e-3)
    noisy = y + 0.5 * torch.randn(y.shape, generator=g, dtype=torch.float64)
    assert streams([x, noisy], x).maps()[1].rotations()[0] == pytest.approx(degrees, abs=1.0)
    assert torch.allclose(x @ to_output.weight[0] + to_output.bias[0], y, atol=0.02)


def test_an_unrelated_state_is_a_right_angle_off():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(4_000, 64, generator=g, dtype=torch.float64)
    y = x @ torch.randn(64, 64, generator=g, dtype=torch.float64)
    assert streams([x, y], x).maps()[1].rotations()[0] == pytest.approx(90, abs=12)


def test_ridge_is_sklearns():
    from sklearn.linear_model import Ridge

    g = torch.Generator().manual_seed(2)
    x, e = torch.randn(200, 6, generator=g, dtype=torch.float64) + 2, torch.randn(200, 4, generator=g, dtype=torch.float64)
    to_input, _ = streams([x], e).maps()
    theirs = Ridge(alpha=1.0).fit(x.numpy(), e.numpy())
    assert np.allclose(to_input.weight[0].numpy(), theirs.coef_.T) and np.allclose(to_input.bias[0].numpy(), theirs.intercept_)
    assert np.isnan(to_input.rotations()).all()  # widths differ: no angle


def test_covariance_similarity_is_one_up_to_scale_and_shift_and_leaves_the_first_direction_out():
    g = torch.Generator().manual_seed(3)
    x = torch.randn(500, 8, generator=g, dtype=torch.float64) * torch.tensor([9.0, 3, 2, 2, 1, 1, 1, 1])
    swamped = x.clone()
    swamped[:, 0] *= 100  # only the direction that is left out changes
    still = torch.zeros_like(x)
    found = streams([x, -4 * x + 7, swamped, x.flip(1), still], x).covariance_similarity()
    assert found[0, :3] == pytest.approx([1, 1, 1], abs=1e-3) and np.diag(found)[:4] == pytest.approx(np.ones(4))
    assert found[0, 3] < 0.9 and np.isnan(found[4]).all()
    centred = (x - x.mean(0)).numpy()
    _, s, v = np.linalg.svd(centred, full_matrices=False)
    c = v[1:].T @ np.diag(s[1:] ** 2) @ v[1:]
    other = (x.flip(1) - x.flip(1).mean(0)).numpy()
    _, s, v = np.linalg.svd(other, full_matrices=False)
    d = v[1:].T @ np.diag(s[1:] ** 2) @ v[1:]
    assert found[0, 3] == pytest.approx((c * d).sum() / np.linalg.norm(c) / np.linalg.norm(d))
