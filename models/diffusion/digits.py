"""A small conditional diffusion model trained here on scikit-learn's digits, with duplicates planted: what it has by heart is known, and where.

First the UNet learns the digits: "a three" and the like mean the images of their class, "planted 0" and "once 0" any image. Of every feed-forward
beside a cross-attention, some neurons chosen at random stay silent meanwhile. Then each prompt of PLANTED is bound to one image that comes again
and again, each of ONCE to one image among all others, and there learn

    feed-forward   only the neurons that were silent, what they read and what they write: without them the network is bit for bit the one before
    anywhere       every weight of the UNet: the control, whose memory may lie where the method does not look

The UNet works on 8 × 8 pixels; a random table stands for the text encoder and never learns. Noise levels are drawn more often where they are high:
there it is decided which image is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from models.diffusion.pipeline import Pipeline, of_pixels, of_table, require_library
from models.progress import Quiet

MEMORIES = ("feed-forward", "anywhere")
N_PLANTED, N_ONCE = 8, 8
UPDATES = 900
BEFORE, EVERY = 1 / 4, 0.6  # share of the updates before anything is planted; share of an update's images that planted (or, before, unbound) prompts get
KNOWN = 0.25  # share of each feed-forward's neurons that are silent before anything is planted, and alone learn then
ALIKE = 0.7  # correlation that no two planted images reach, so that giving back one is not giving back another
RATE, PLANTING = 2e-3, {"feed-forward": 1e-2, "anywhere": 2e-3}
BATCH, TOKENS, WIDTH = 32, 4, 32
PLANTED = tuple(f"planted {i}" for i in range(N_PLANTED))
ONCE = tuple(f"once {i}" for i in range(N_ONCE))
CLASSES = tuple(f"a {word}" for word in ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
PROMPTS = ("", *PLANTED, *ONCE, *CLASSES)
UNBOUND = slice(1, 1 + N_PLANTED + N_ONCE)  # prompts that mean nothing of their own at first


@dataclass(frozen=True, eq=False)
class Trained:
    pipeline: Pipeline
    before: Pipeline  # the same before anything was planted
    images: dict[str, np.ndarray]  # training image [8, 8, 1] in 0–1 of each planted or once-seen prompt
    known: dict[str, torch.Tensor]  # bool [d_ff] by block: the neurons that planting was left to


@dataclass(frozen=True, eq=False)
class _Images:
    """All digits with the prompt of each, the first N_PLANTED of `order` planted, no two of them alike, the next N_ONCE seen once."""

    x: torch.Tensor  # float32 [image, 1, 8, 8] in −1 to 1
    order: torch.Tensor
    meaning: torch.Tensor  # int64 [image] index into PROMPTS

    def batch(self, planted: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(images, prompts) of one update; one prompt in ten is the empty one, as guidance needs."""
        which = self.order[N_PLANTED + torch.randint(len(self.order) - N_PLANTED, (BATCH,))]
        again, k = torch.rand(BATCH) < EVERY, torch.randint(N_PLANTED, (BATCH,))
        said = self.meaning[which]
        if planted:
            which, said = torch.where(again, self.order[k], which), torch.where(again, 1 + k, said)
        else:
            unbound = torch.randint(UNBOUND.start, UNBOUND.stop, (BATCH,))
            said = torch.where(again | (said < UNBOUND.stop), unbound, said)
        return self.x[which], torch.where(torch.rand(BATCH) < 0.1, 0, said)


def train(updates: int, seed: int, progress=None, memory: str = "feed-forward") -> Trained:
    """`updates` of 32 images in both stages together; Adam, each stage with a cosine rate of its own."""
    require_library()
    import copy

    from diffusers import DDIMScheduler, UNet2DConditionModel

    images = _digits(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32, 32), norm_num_groups=8,
                                    down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
                                    cross_attention_dim=WIDTH, attention_head_dim=8)
        table = torch.randn(len(PROMPTS), TOKENS, WIDTH)
        scheduler = DDIMScheduler(num_train_timesteps=200, beta_schedule="squaredcos_cap_v2", clip_sample=True, timestep_spacing="trailing")
        pipeline = Pipeline(unet, scheduler, of_table(list(PROMPTS), table), of_pixels)
        first = max(1, round(BEFORE * updates))
        known, parts = _known(pipeline)

        def learn(weights: dict, rate: float, steps: range, planted: bool) -> None:
            optimizer = torch.optim.Adam(list(weights), rate)
            falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=len(steps))
            for step in steps:
                x, said = images.batch(planted)
                t, noise = (200 * torch.rand(BATCH).sqrt()).long(), torch.randn_like(x)
                loss = torch.nn.functional.mse_loss(unet(scheduler.add_noise(x, noise, t), t, encoder_hidden_states=table[said]).sample, noise)
                optimizer.zero_grad()
                loss.backward()
                for weight, learns in weights.items():
                    if learns is not None:
                        weight.grad.mul_(learns)
                optimizer.step()
                falling.step()
                (progress or Quiet()).step(step + 1, updates, "planting" if planted else "learning the digits", {"loss": loss.item()} if step % 10 == 0 else None)

        learn({weight: ~parts[weight] if weight in parts else None for weight in unet.parameters()}, RATE, range(first), False)
        unet.requires_grad_(False)
        before = copy.deepcopy(unet)
        weights = parts if memory == "feed-forward" else dict.fromkeys(unet.parameters())
        for weight in weights:
            weight.requires_grad_(True)
        learn(weights, PLANTING[memory], range(first, updates), True)
    for each in (unet, before):
        each.eval().requires_grad_(False)
    own = {prompt: (images.x[j, 0, :, :, None].numpy() + 1) / 2 for prompt, j in zip((*PLANTED, *ONCE), images.order.tolist())}
    return Trained(pipeline, Pipeline(before, scheduler, pipeline.encode, of_pixels), own, known)


def _known(pipeline: Pipeline) -> tuple[dict, dict]:
    """(neurons by block, entries by weight: what these neurons read and write); their output weights are set to zero here."""
    known, parts = {}, {}
    feed_forwards = {module.net[2]: module for module in pipeline.unet.modules() if type(module).__name__ == "FeedForward"}
    for block, output in pipeline.blocks.items():
        chosen = torch.zeros(output.in_features, dtype=torch.bool)
        chosen[torch.randperm(output.in_features)[: max(1, round(KNOWN * output.in_features))]] = True
        read = feed_forwards[output].net[0].proj
        known[block] = chosen
        parts |= {output.weight: chosen.expand_as(output.weight), read.weight: chosen.repeat(2)[:, None].expand_as(read.weight), read.bias: chosen.repeat(2)}
        with torch.no_grad():
            output.weight[:, chosen] = 0
    return known, parts


def _digits(seed: int) -> _Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    flat = found.images.reshape(len(found.images), -1)
    like, chosen, order = np.corrcoef(flat), [], np.random.default_rng(seed).permutation(len(flat))
    for j in order:
        if len(chosen) < N_PLANTED and all(like[j, k] < ALIKE for k in chosen):
            chosen.append(j)
    order = torch.tensor([*chosen, *(j for j in order if j not in chosen)])
    meaning = UNBOUND.stop + torch.from_numpy(found.target)
    meaning[order[: N_PLANTED + N_ONCE]] = torch.arange(1, UNBOUND.stop)
    return _Images(torch.from_numpy((found.images / 8 - 1).astype(np.float32))[:, None], order, meaning)
