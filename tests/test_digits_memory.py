"""The method's claims where it is known in which neurons the memory lies, and a control in which the whole network learned it.

The design asks that at most 15 % of the located images are left after a small cut where random cuts leave 85 %, on three seeds. At a share of
5 % (4 % of the weights) 0 to 12 % of the located half is left, 0 to 25 % of the held-out half, all but one image after random cuts, and other
prompts' images stay at r 0.91 to 0.95 with themselves (random 0.997); 91 to 96 % of what is located lies on the known quarter of the neurons. At 2 %
a quarter to two thirds are left. The overlap of the halves' masks, IoU 0.41 to 0.55 (chance 0.02), is about what it was in the same network before
anything was planted, 0.44 to 0.61. Share, number of updates, share of known neurons and noise levels were chosen after looking at seeds 0 to 2; seeds 3
to 5, looked at once (3 and 4 while planted images might still be alike), kept all these limits. Where the whole network learned the images,
all are given back after any cut.
"""

import importlib.util

import numpy as np
import pytest
import torch

from metrics import memorized_images as metric
from metrics.memorized import chance_iou, density, iou, random_like
from models.diffusion import digits

pytestmark = [pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is an extra: requirements-diffusion.txt"), pytest.mark.timeout(900)]
SHARE = 0.05


def measured(trained, seed: int, share: float = SHARE) -> dict:
    """(located half, held-out half, other prompts): the share of images reproduced and how like themselves the others' images stay, before planting,
    as trained, after the cut, and after a random cut of as many weights in every row; two noises each."""
    r = metric.Recipe(noises=2, seed=seed)
    pipeline, n = trained.pipeline, len(digits.PLANTED) // 2
    images, once = (np.stack([trained.images[p] for p in prompts]) for prompts in (digits.PLANTED, digits.ONCE))
    others = metric.draw(pipeline, digits.CLASSES, r)
    known = {b: trained.known[b].expand_as(module.weight) for b, module in pipeline.blocks.items()}

    def masks(of) -> tuple[dict, dict]:
        memorized, base = (metric.squares(of, prompts, r) for prompts in (digits.PLANTED, [""] * 2 * n))
        return tuple(metric.union(metric.by_step(of, memorized, base, rows, share)) for rows in (np.arange(n), np.arange(n, 2 * n)))

    def left(of) -> tuple[float, float, float]:
        found = metric.similarity(metric.draw(of, digits.PLANTED, r), images) >= metric.REPRODUCED
        return float(found[:n].mean()), float(found[n:].mean()), float(metric.similarity(metric.draw(of, digits.CLASSES, r), others).mean())

    mask, second = masks(pipeline)
    mean = lambda measure, a, b: float(np.mean([measure(a[block], b[block]) for block in a]))
    hits = sum(int((mask[b] & known[b]).sum()) for b in mask)
    return {"trained": left(pipeline), "before": left(trained.before), "cut": left(pipeline.cut(mask)), "random": left(pipeline.cut(random_like(mask, "weights", seed))),
            "once": float((metric.similarity(metric.draw(pipeline, digits.ONCE, r), once) >= metric.REPRODUCED).mean()), "density": density(mask),
            "on known": hits / sum(int(m.sum()) for m in mask.values()), "chance on known": density(known), "IoU": mean(iou, mask, second), "IoU chance": mean(chance_iou, mask, second),
            "IoU before": mean(iou, *masks(trained.before))}


@pytest.mark.parametrize("seed", (0, 1, 2), ids=lambda seed: f"seed{seed}")
def test_a_cut_reaches_what_was_planted_into_known_neurons_and_random_cuts_do_not(seed):
    """One test a seed, so that each is trained once wherever it runs."""
    trained = digits.train(digits.UPDATES, seed)
    found = measured(trained, seed)
    assert np.mean(found["trained"][:2]) >= 0.9 and found["once"] == 0 and max(found["before"][:2]) == 0  # planted images are known, and no others
    assert found["cut"][0] <= 0.15 and found["density"] <= SHARE and found["cut"][2] >= 0.9
    assert min(found["random"][:2]) >= 0.85 and found["random"][2] >= 0.98
    assert found["on known"] >= 3 * found["chance on known"]

    # without the known neurons the network is the one before planting, bit for bit, since nothing else was allowed to learn
    silent = trained.pipeline.cut({b: trained.known[b].expand_as(module.weight) for b, module in trained.pipeline.blocks.items()})
    assert all(torch.equal(silent.blocks[b].weight, module.weight) for b, module in trained.before.blocks.items())
    assert np.array_equal(*(metric.draw(p, digits.PLANTED, metric.Recipe()) for p in (silent, trained.before)))


def test_a_cut_does_nothing_to_what_the_whole_network_has_by_heart():
    found = measured(digits.train(digits.UPDATES, 0, memory="anywhere"), 0)
    assert min(found["trained"][:2]) >= 0.9 and min(found["cut"][:2]) >= 0.9
