"""Tuning on selections: the task's own samples help, a random draw is as good as the others, ranks by hand, a stopped run goes on."""

import numpy as np
import pytest
import torch

from metrics.head_tuning import of_text, whole_parts
from metrics.selection_tuning import held_out_loss, rank_p, tuned
from models.progress import Quiet
from models.refusal import Refused
from tests.test_gradient_features import Stopping, examples, few, model, noise  # noqa: F401  model is a fixture

SETTING = dict(steps=8, batch=8, rate=3e-3, seeds=3, random=9)


def test_ranks_by_hand():
    loss = np.array([[1.0, 1.2], [3.0, 3.0], [5.0, 5.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    assert rank_p(loss, 3).tolist() == [0.25, 0.75, 1.0]  # better than all three; as good as one, behind another; worse than all


def test_the_task_s_own_samples_help_and_random_draws_do_not(model):
    """The task is written in four tokens, the rest of the pool in twenty others. Negative control: selections that mean nothing."""
    pool, held, rest = torch.cat([few(16, 4, 8, 0), few(112, 12, 32, 1)]), examples(few(12, 4, 8, 7)), np.arange(16, 128)
    luck = [np.random.default_rng([4, i]).choice(rest, 16, replace=False) for i in range(4)]
    parts = whole_parts(model, "all", (0, 1))
    before = [p.of(model).clone() for p in parts]
    found = tuned(model, parts, examples(pool), [np.arange(16), *luck], rest, held, **SETTING, progress=Quiet())
    p = rank_p(found.loss, 5)
    assert found.loss.shape == (14, 3) and found.tokens == 12 * 11 and p[0] == 0.1, "below every random selection"
    assert 0.2 < p[1:].mean() < 0.8 and (p[1:] <= 0.1).sum() <= 1
    assert found.loss[0].max() < found.before and found.before == held_out_loss(model, held)[0]
    assert all(torch.equal(b, q.of(model)) for b, q in zip(before, parts))


def test_the_loss_is_the_model_s_own_on_what_is_asked_for(model):
    ids = noise(5, 3)
    marked = torch.zeros_like(ids, dtype=torch.bool)
    marked[:, -2:] = True
    loss, n = held_out_loss(model, of_text(ids, torch.ones_like(marked), marked))
    with torch.no_grad():
        logp = model.module(input_ids=ids).logits.log_softmax(-1)
    assert n == 10 and loss == pytest.approx(-float(logp[:, -3:-1].gather(-1, ids[:, -2:, None]).mean()), rel=1e-5)


def test_no_steps_change_nothing_and_a_stopped_comparison_goes_on_to_the_same_numbers(model):
    parts, held, rest = whole_parts(model, "mlp", (1,)), examples(noise(4, 7)), np.arange(20)
    ask = lambda progress, steps=2: tuned(model, parts, examples(noise(20, 1)), [np.arange(5)], rest, held, **{**SETTING, "steps": steps}, progress=progress)
    none = ask(Quiet(), steps=0)
    assert (none.loss == none.before).all() and (rank_p(none.loss, 1) == 1).all()
    stopping = Stopping(40)
    stopping.part = lambda key: Quiet()
    with pytest.raises(KeyboardInterrupt):
        stopping.left = 7
        ask(stopping)
    assert np.isfinite(stopping.state["loss"]).sum() == 7
    assert np.array_equal(ask(stopping).loss, ask(Quiet()).loss)


def test_too_few_seeds_or_random_ones_and_unequal_selections_are_refused(model):
    parts, held = whole_parts(model, "mlp", (1,)), examples(noise(4, 7))
    for picks, more in (([np.arange(5)], {"seeds": 2}), ([np.arange(5)], {"random": 7}), ([np.arange(5), np.arange(4)], {})):
        with pytest.raises(Refused, match="one size, at least 3 seeds and 8 random"):
            tuned(model, parts, examples(noise(20, 1)), picks, np.arange(20), held, **{**SETTING, **more}, progress=Quiet())
