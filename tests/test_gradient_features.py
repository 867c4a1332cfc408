"""LESS: hand-computed directions, gradients against autograd, planted samples and a negative control."""

import numpy as np
import pytest
import torch

from metrics.gradient_features import Checkpoint, adam_direction, features, less, sketch, sketched, warm_up
from metrics.head_tuning import of_text, whole_parts
from models.layout import layout_for
from models.loaded import Model
from models.progress import Quiet
from tests import tiny


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    module = getattr(tiny, request.param)(n_layers=2)
    return Model(module.requires_grad_(False), None, layout_for(module.config), "tiny")


def noise(n, seed, length=12):
    return torch.randint(4, 32, (n, length), generator=torch.Generator().manual_seed(seed))


def whole(ids):
    return torch.ones_like(ids, dtype=torch.bool)


def examples(ids):
    return of_text(ids, whole(ids), None)


def test_direction_by_hand():
    """g = 2, m = 1, v = 4: (0.9 + 0.2) / √(3.996 + 0.004) = 0.55; ε stands inside the root."""
    found = adam_direction(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1e-4]), torch.tensor([4.0, 0.0]))
    assert found.tolist() == pytest.approx([0.55, 0.9], rel=1e-5)


def rows_of(x, seed):
    by = sketch(x.shape[1], 4096, seed)
    return torch.stack([sketched(row, by) for row in x])


def test_the_sketch_keeps_angles_and_signs_and_is_one_for_a_seed():
    x = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0))
    x[1] = x[0] + 0.5 * x[1]
    y = rows_of(x, 0)
    true = torch.nn.functional.normalize(x, dim=1)
    assert (y @ y.T - true @ true.T).abs().max() < 5 / 4096**0.5
    assert torch.allclose(rows_of(x[1:2], 0), y[1:2], atol=1e-5) and torch.allclose(rows_of(-3 * x, 0), -y, atol=1e-5)
    assert not torch.allclose(rows_of(x, 1), y, atol=0.01) and not rows_of(torch.zeros(1, 5), 0).any()


def test_the_sketch_is_as_wide_as_a_matrix_of_signs():
    """Over seeds, an inner product of unit vectors has its own value as mean and (1 + c² − 2 Σ x²y²) / dim as variance."""
    x, y = torch.nn.functional.normalize(torch.randn(2, 3000, generator=torch.Generator().manual_seed(1)), dim=1)
    y = torch.nn.functional.normalize(x + y, dim=0)
    bare = lambda v, by: torch.zeros(by.dim).index_add_(0, by.place, v * by.sign)
    found = np.array([float(bare(x, by) @ bare(y, by)) for by in (sketch(3000, 64, seed) for seed in range(600))])
    spread = ((1 + float(x @ y) ** 2 - 2 * float((x * y).square().sum())) / 64) ** 0.5
    assert abs(found.mean() - float(x @ y)) < 4 * spread / 600**0.5 and found.std() == pytest.approx(spread, rel=0.15)


def test_features_are_each_sample_s_own_gradient(model):
    parts, ids = whole_parts(model, "all", (1,)), noise(3, 1)
    leaves = [p.of(model).clone() for p in parts]
    zero = torch.zeros(sum(x.numel() for x in leaves))
    found = features(model, parts, Checkpoint(leaves, zero, zero), examples(ids), sketch(len(zero), 64, 3), adam=False)
    for i in range(3):
        weights = [model.blocks[1].get_submodule(p.key.split(".", 1)[1]).weight.requires_grad_(True) for p in parts]
        slopes = torch.autograd.grad(model.module(input_ids=ids[i : i + 1], labels=ids[i : i + 1]).loss, weights)
        for w in weights:
            w.requires_grad_(False)
        turned = [s.T if s.shape != x.shape or model.layout.attn_output == "attn.c_proj" else s for s, x in zip(slopes, leaves)]
        flat = torch.cat([s.flatten() for s in turned])
        assert torch.allclose(found[i], sketched(flat, sketch(len(flat), 64, 3)), atol=1e-4)


def few(n, first, last, seed, length=12):
    """Sequences of tokens first … last − 1."""
    return torch.randint(first, last, (n, length), generator=torch.Generator().manual_seed(seed))


FAST = dict(dim=512, share=0.3, epochs=2, batch=4, rate=1e-3)


def test_less_finds_planted_samples_and_none_for_an_unrelated_target(model):
    """The task is written in four tokens, the rest of the pool in twenty others; a sample that asks for nothing scores nothing."""
    pool, parts = examples(torch.cat([few(8, 4, 8, 0), few(16, 12, 32, 1), few(1, 4, 8, 2)])), whole_parts(model, "all", (0, 1))
    pool.targets[24] = -100
    score = less(model, parts, pool, [examples(few(6, 4, 8, 5)), examples(few(6, 12, 32, 9))], **FAST)
    above = lambda s: float((s[:8, None] > s[None, 8:24]).mean())
    assert score.shape == (2, 25) and np.abs(score).max() <= 1 and not score[:, 24].any()
    assert above(score[0]) > 0.9 and above(score[1]) < 0.5, "a target of the other tokens must not find them"


class Stopping(Quiet):
    def __init__(self, after):
        self.state, self.left = None, after

    def save(self, state, force=False):
        self.state, self.left = {k: np.array(v) for k, v in state.items()}, self.left - 1
        if self.left == 0:
            raise KeyboardInterrupt

    def saved(self):
        return self.state


def test_a_stopped_run_goes_on_to_the_same_scores(model):
    parts, ask = whole_parts(model, "attn", (1,)), (examples(noise(40, 1)), [examples(noise(4, 2))])
    stopping = Stopping(4)  # within the second epoch
    with pytest.raises(KeyboardInterrupt):
        less(model, parts, *ask, **FAST, progress=stopping)
    assert 40 < stopping.state["done"] < 80
    assert np.array_equal(less(model, parts, *ask, **FAST, progress=stopping), less(model, parts, *ask, **FAST))


def test_warm_up_moves_a_copy_and_not_the_model(model):
    parts, before = whole_parts(model, "mlp", (0,)), [p.of(model).clone() for p in whole_parts(model, "mlp", (0,))]
    states = list(warm_up(model, parts, examples(noise(10, 0)), share=0.5, epochs=2, batch=5, rate=1e-2, seed=0))
    assert len(states) == 2 and all((state.second >= 0).all() for state in states)
    assert all(torch.equal(b, p.of(model)) for b, p in zip(before, parts))
    assert not torch.equal(states[0].leaves[0], states[1].leaves[0]) and not torch.equal(states[0].leaves[0], before[0])
