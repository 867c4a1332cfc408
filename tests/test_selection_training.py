"""LESS and tuning on selections: hand-computed directions, gradients against autograd, planted usefulness and its negative control."""

import numpy as np
import pytest
import torch

from metrics.gradient_features import Checkpoint, adam_direction, features, less, projected, warm_up
from metrics.head_tuning import of_text, whole_parts
from metrics.selection_tuning import tuned
from models.layout import layout_for
from models.loaded import Model
from models.progress import Quiet
from models.refusal import Refused
from tests import tiny


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    module = getattr(tiny, request.param)(n_layers=2)
    return Model(module.requires_grad_(False), None, layout_for(module.config), "tiny")


def chains(n, step, seed, length=12):
    """Sequences in which the next token is the last one plus `step`, among 28: a task that gradients can tell."""
    start = torch.randint(28, (n, 1), generator=torch.Generator().manual_seed(seed))
    return 4 + (start + step * torch.arange(length)) % 28


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


def test_projection_keeps_angles_and_signs_and_is_one_for_a_seed():
    x = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0))
    x[1] = x[0] + 0.5 * x[1]
    y = projected(x, 4096, 0)
    true = torch.nn.functional.normalize(x, dim=1)
    assert (y @ y.T - true @ true.T).abs().max() < 5 / 4096**0.5
    assert torch.allclose(projected(x[1:2], 4096, 0), y[1:2], atol=1e-5) and torch.allclose(projected(-3 * x, 4096, 0), -y, atol=1e-5)
    assert not torch.allclose(projected(x, 4096, 1), y, atol=0.01) and not projected(torch.zeros(1, 5), 8, 0).any()


def test_features_are_each_sample_s_own_gradient(model):
    parts, ids = whole_parts(model, "all", (1,)), noise(3, 1)
    leaves = [p.of(model).clone() for p in parts]
    zero = torch.zeros(sum(x.numel() for x in leaves))
    found = features(model, parts, Checkpoint(leaves, zero, zero), examples(ids), adam=False, dim=64, seed=3, batch=2)
    for i in range(3):
        weights = [model.blocks[1].get_submodule(p.key.split(".", 1)[1]).weight.requires_grad_(True) for p in parts]
        slopes = torch.autograd.grad(model.module(input_ids=ids[i : i + 1], labels=ids[i : i + 1]).loss, weights)
        for w in weights:
            w.requires_grad_(False)
        turned = [s.T if s.shape != x.shape or model.layout.attn_output == "attn.c_proj" else s for s, x in zip(slopes, leaves)]
        flat = torch.cat([s.flatten() for s in turned])[None]
        assert torch.allclose(found[i], projected(flat, 64, 3)[0], atol=1e-4)


def few(n, first, last, seed, length=12):
    """Sequences of tokens first … last − 1."""
    return torch.randint(first, last, (n, length), generator=torch.Generator().manual_seed(seed))


def test_less_finds_planted_samples_and_none_for_an_unrelated_target(model):
    """The task is written in four tokens, the rest of the pool in twenty others."""
    pool, parts = torch.cat([few(8, 4, 8, 0), few(16, 12, 32, 1)]), whole_parts(model, "all", (0, 1))
    run = lambda target: less(model, parts, examples(pool), examples(target), dim=512, share=0.3, epochs=2, batch=4, rate=1e-3)
    score = run(few(6, 4, 8, 5))
    above = lambda s: float((s[:8, None] > s[None, 8:]).mean())
    assert score.shape == (24,) and np.abs(score).max() <= 1 and above(score) > 0.9
    assert above(run(few(6, 12, 32, 9))) < 0.5, "a target of the other tokens must not find them"


def test_warm_up_moves_a_copy_and_not_the_model(model):
    parts, before = whole_parts(model, "mlp", (0,)), [p.of(model).clone() for p in whole_parts(model, "mlp", (0,))]
    states = warm_up(model, parts, examples(noise(10, 0)), share=0.5, epochs=2, batch=5, rate=1e-2, seed=0)
    assert len(states) == 2 and all((state.second >= 0).all() for state in states)
    assert all(torch.equal(b, p.of(model)) for b, p in zip(before, parts))
    assert not torch.equal(states[0].leaves[0], states[1].leaves[0]) and not torch.equal(states[0].leaves[0], before[0])


SETTING = dict(steps=25, batch=8, rate=3e-3, seeds=3)


def test_the_task_s_own_samples_help_and_another_random_draw_does_not(model):
    pool, held = torch.cat([few(16, 4, 8, 0), few(112, 12, 32, 1)]), few(12, 4, 8, 7)
    picks = {"planted": np.arange(16), "luck": np.random.default_rng(4).choice(np.arange(16, 128), 16, replace=False)}
    before = [p.of(model).clone() for p in whole_parts(model, "all", (0, 1))]
    found = tuned(model, whole_parts(model, "all", (0, 1)), examples(pool), picks, np.arange(16, 128), held, whole(held), **SETTING, progress=Quiet())
    mean, low, high = found.against_random()
    assert found.methods == ("planted", "luck", "random") and found.tokens.tolist() == [11] * 12
    assert high[0] < 0, "trained on the task, the task's loss falls below random's"
    assert abs(mean[1]) < 0.3 * abs(mean[0]), "another random draw is as good as random"
    assert mean == pytest.approx((found.loss()[:-1] - found.loss()[-1]).mean(1))
    assert all(torch.equal(b, p.of(model)) for b, p in zip(before, whole_parts(model, "all", (0, 1))))


class Stopping(Quiet):
    """Keeps what is saved and stops after some runs."""

    def __init__(self, after):
        self.state, self.left = None, after

    def save(self, state, force=False):
        self.state, self.left = {k: np.array(v) for k, v in state.items()}, self.left - 1
        if self.left == 0:
            raise KeyboardInterrupt

    def saved(self):
        return self.state

    def part(self, key):
        return Quiet()


def test_a_stopped_comparison_resumes_to_the_same_numbers(model):
    pool, held, parts = noise(20, 1), chains(4, 3, 7), whole_parts(model, "mlp", (1,))
    ask = lambda progress: tuned(model, parts, examples(pool), {"a": np.arange(5)}, np.arange(20), held, whole(held), steps=3, batch=4, rate=1e-2, seeds=3, progress=progress)
    stopping = Stopping(3)
    with pytest.raises(KeyboardInterrupt):
        ask(stopping)
    stopping.left = -1
    assert np.array_equal(ask(stopping).nats, ask(Quiet()).nats)


def test_too_few_seeds_and_unequal_selections_are_refused(model):
    pool, held, parts = noise(20, 1), chains(4, 3, 7), whole_parts(model, "mlp", (1,))
    for picks, seeds in (({"a": np.arange(5)}, 2), ({"a": np.arange(5), "b": np.arange(4)}, 3)):
        with pytest.raises(Refused, match="one size and at least 3 seeds"):
            tuned(model, parts, examples(pool), picks, np.arange(20), held, whole(held), steps=1, batch=4, rate=1e-2, seeds=seeds, progress=Quiet())
