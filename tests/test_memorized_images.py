"""The diffusion extra: a folder is read back as it was, masks find what was planted, a cut changes what it names, and nothing without diffusers."""

import importlib.util

import numpy as np
import pytest
import torch

from metrics import memorized_images as subject
from models.diffusion import digits, pipeline
from models.refusal import Refused

needs = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is an extra: requirements-diffusion.txt")
SMALL = subject.Recipe(share=0.05, first=2, steps=3)


@pytest.fixture(scope="module")
def trained():
    return digits.train(2, 0)


def test_without_diffusers_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refused, match="requirements-diffusion.txt"):
        pipeline.open_folder(tmp_path)


def test_correlation_by_hand():
    a = np.array([[0.0, 1, 2, 3], [3, 2, 1, 0], [5, 5, 5, 5]])
    assert np.allclose(subject.correlation(a, np.array([[0.0, 1, 2, 3]] * 3)), [1, -1, 0])


@needs
def test_a_folder_reads_back_and_other_folders_are_refused(trained, tmp_path):
    from safetensors.torch import save_file

    trained.pipeline.unet.save_pretrained(tmp_path / "unet", safe_serialization=True)
    with pytest.raises(Refused, match="no folder scheduler"):
        pipeline.open_folder(tmp_path)
    trained.pipeline.scheduler.save_pretrained(tmp_path / "scheduler")
    with pytest.raises(Refused, match="no tokenizer"):
        pipeline.open_folder(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(digits.PROMPTS))
    save_file({"embeddings": trained.pipeline.encode(list(digits.PROMPTS)).contiguous()}, tmp_path / "prompts.safetensors")
    again = pipeline.open_folder(tmp_path)
    assert np.array_equal(*(subject.draw(p, digits.PLANTED[:2], SMALL) for p in (trained.pipeline, again)))
    with pytest.raises(Refused, match="knows no prompt"):
        again.encode(["a cat"])


@needs
def test_what_is_watched_is_the_input_of_the_second_linear(trained):
    """hidden · gelu(gate) of the prompt alone, for each of the first steps; the empty prompt against itself locates nothing."""
    block, module = next(iter(trained.pipeline.blocks.items()))
    seen, made = [], []
    hook = module.register_forward_hook(lambda m, given, out: made.append(given[0]))
    subject.draw(trained.pipeline, ["planted 0"], SMALL, lambda step, name, h: seen.append(h) if name == block else None)
    hook.remove()
    assert len(seen) == SMALL.steps and all(torch.equal(h, x[0]) and h.shape[1] == module.in_features for h, x in zip(seen, made))
    nothing = subject.contrast(trained.pipeline, [""] * 3, SMALL)
    assert not any(mask.any() for mask in nothing.values())


@needs
def test_a_planted_neuron_is_located_and_only_it_is_cut(trained):
    planted, base = {}, {}
    for block, module in trained.pipeline.blocks.items():
        base[block] = [torch.ones(module.in_features, dtype=torch.float64)] * 2
        planted[block] = [x.clone() for x in base[block]]
        planted[block][1][3] = 1e6  # neuron 3, at the second step alone
    masks = subject.union(trained.pipeline, planted, base, 0.001)
    after = trained.pipeline.cut(masks)
    for block, module in trained.pipeline.blocks.items():
        assert masks[block][:, 3].all() and masks[block].sum() == module.out_features
        assert not after.blocks[block].weight[:, 3].any() and torch.equal(after.blocks[block].weight[:, 4:], module.weight[:, 4:]) and module.weight[:, 3].any()


@needs
def test_a_model_that_has_learned_nothing_reproduces_nothing(trained):
    images = np.stack([trained.images[p] for p in digits.PLANTED[:4]])
    found = subject.compare(trained.pipeline, images, digits.PLANTED[:2], digits.PLANTED[2:4], digits.CLASSES[:2], SMALL)
    assert set(found["reproduced"].values()) == {(0, 0)} and "IoU" in subject.written(found, SMALL)
    assert np.allclose(found["similarity"]["before"], subject.correlation(found["images"]["before"], images))
