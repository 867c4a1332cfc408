"""The diffusion extra in its parts: what is watched, what is located, what a cut changes, and nothing without diffusers."""

import importlib.util

import numpy as np
import pytest
import torch

from metrics import memorized_images as metric
from models.diffusion import digits, folder, pipeline, subject
from models.refusal import Refused

needs = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is an extra: requirements-diffusion.txt")
SMALL = metric.Recipe(first=2, steps=3, noises=2)


@pytest.fixture(scope="module")
def trained():
    return digits.train(2, 0)


def test_without_diffusers_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for ask in (lambda: folder.open_folder(tmp_path), lambda: subject.digits(tmp_path, 2, 0)):
        with pytest.raises(Refused, match="pip install -r requirements-diffusion.txt"):
            ask()


def test_similarity_by_hand():
    a = np.array([[0.0, 1, 2, 3], [3, 2, 1, 0], [5, 5, 5, 5]])
    assert np.allclose(metric.correlation(a, np.array([[0.0, 1, 2, 3]] * 3)), [1, -1, 0])
    drawn = np.stack([a[:2], a[1::-1]])[..., None, None]  # [2 prompts, 2 noises, 4, 1, 1]
    images = a[:2][..., None, None]
    assert np.allclose(metric.similarity(drawn, images), [[1, -1], [1, -1]])  # prompt 2: its image is a[1], drawn are a[1] and a[0]
    assert np.allclose(metric.mismatched(drawn[:, :1], images), [-1, -1])


def test_noises_differ_by_place_purpose_and_seed_and_not_by_prompt():
    r = metric.Recipe(noises=2, seed=3)
    every = [*r.seeds(5, metric.LOCATING), *r.seeds(5, metric.JUDGING), *metric.Recipe(noises=2, seed=4).seeds(5, metric.LOCATING)]
    assert len(set(every)) == 30 and r.seeds(3, metric.JUDGING) == r.seeds(5, metric.JUDGING)[:6]


@needs
def test_what_is_watched_is_the_input_of_the_second_linear(trained):
    """hidden · gelu(gate) of the prompts alone, at the first steps alone; sizes are means over prompts, whatever the batch."""
    block, module = next(iter(trained.pipeline.blocks.items()))
    made = []
    hook = module.register_forward_hook(lambda m, given, out: made.append(given[0]))
    found = metric.squares(trained.pipeline, ["planted 0", "a zero"], SMALL)[block]
    hook.remove()
    assert len(made) == SMALL.first and found.shape == (2, SMALL.first, module.in_features)
    h = made[1][:4].double()  # step 2; two prompts of two noises, then as many empty ones for guidance
    expected = (h / h.norm(dim=2, keepdim=True)).square().mean(1).reshape(2, 2, -1).mean(1)
    assert made[1].shape[0] == 8 and torch.allclose(found[:, 1], expected, rtol=1e-5)
    pipeline.LARGEST_BATCH, kept = 3, pipeline.LARGEST_BATCH
    try:
        assert torch.allclose(metric.squares(trained.pipeline, ["planted 0", "a zero"], SMALL)[block], found, rtol=1e-4)
    finally:
        pipeline.LARGEST_BATCH = kept


@needs
def test_the_empty_prompt_against_itself_locates_nothing(trained):
    nothing = metric.squares(trained.pipeline, [""] * 3, SMALL)
    assert not any(mask.any() for mask in metric.by_step(trained.pipeline, nothing, nothing, np.arange(3), 0.05).values())
    plain = metric.by_step(trained.pipeline, nothing, nothing, np.arange(3), 0.05, contrast=False)
    assert all((mask.sum(2) == int(0.05 * mask.shape[2])).all() for mask in plain.values())


@needs
def test_a_planted_neuron_is_located_and_only_it_is_cut(trained):
    planted, base, driven = {}, {}, {block: int((~known).nonzero()[0]) for block, known in trained.known.items()}  # known neurons may still be silent
    for block, module in trained.pipeline.blocks.items():
        base[block] = torch.ones(3, 2, module.in_features, dtype=torch.float64)
        planted[block] = base[block].clone()
        planted[block][0, 1, driven[block]] = 1e6  # prompt 0 drives one neuron, at the second step alone
    steps = metric.by_step(trained.pipeline, planted, base, np.array([0, 2]), 0.001)
    masks = metric.union(steps)
    assert not any(mask.any() for mask in metric.by_step(trained.pipeline, planted, base, np.array([1, 2]), 0.001).values())
    after = trained.pipeline.cut(masks)
    for block, module in trained.pipeline.blocks.items():
        j, weight = driven[block], after.blocks[block].weight
        assert not steps[block][0].any() and masks[block][:, j].all() and masks[block].sum() == module.out_features
        assert not weight[:, j].any() and torch.equal(weight[:, j + 1 :], module.weight[:, j + 1 :]) and module.weight[:, j].any()
    untouched = {id(p) for p in trained.pipeline.unet.parameters()} - {id(m.weight) for m in trained.pipeline.blocks.values()}
    assert untouched <= {id(p) for p in after.unet.parameters()}  # shared, not copied


@needs
def test_blocks_come_in_the_order_in_which_they_run(trained):
    order = [name.split("_")[0] for name in trained.pipeline.blocks]
    assert order == sorted(order, key=("down", "mid", "up").index) and set(order) == {"down", "mid", "up"}


@needs
def test_an_untrained_network_is_another_one_and_the_same_again(trained):
    one, again, other = (trained.pipeline.untrained(seed) for seed in (0, 0, 1))
    first = lambda p: next(iter(p.blocks.values())).weight
    assert torch.equal(first(one), first(again)) and not torch.equal(first(one), first(other)) and not torch.equal(first(one), first(trained.pipeline))
    assert list(one.blocks) == list(trained.pipeline.blocks) and one.encode is trained.pipeline.encode


@needs
def test_images_that_are_no_numbers_are_refused(trained):
    broken = trained.pipeline.untrained(0)
    with torch.no_grad():
        next(iter(broken.blocks.values())).weight.fill_(float("nan"))
    with pytest.raises(Refused, match="not numbers"):
        metric.draw(broken, ["planted 0"], SMALL)
