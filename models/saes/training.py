"""Training an SAE on one site of a model: sae-lens's training SAEs and its trainer's step, fed by the house's own forward.

sae-lens's activation store wants a TransformerLens model and a dataset; here each block of sequences (in an order that the seed
gives) is run up to the site, its tokens are shuffled and cut into batches. A run that is cut off and resumed ends where an
uninterrupted one ends: the state is weights, Adam's moments, counters and the place in the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from models.layout import Site
from models.loaded import Model
from models.refusal import Refused
from models.saes.dictionary import Sae
from models.saes.inside import activations

BLOCK = 64  # sequences whose tokens are shuffled together
POINT = 10  # steps between two points of the live curves
ARCHITECTURES = ("topk", "batchtopk", "jumprelu", "standard", "gated")


@dataclass(frozen=True)
class Recipe:
    """What is trained: `width` features; `k` active ones for topk and batchtopk; `penalty` weighs sparsity for the others (sae-lens's
    l0_coefficient for jumprelu, l1_coefficient for standard and gated). `tokens` in all, text repeated where it is shorter."""

    architecture: str = "topk"
    width: int = 1024
    k: int = 16
    penalty: float = 1.0
    tokens: int = 1_000_000
    batch: int = 1024
    rate: float = 1e-3
    seed: int = 0

    @property
    def steps(self) -> int:
        return max(1, self.tokens // self.batch)


@dataclass(frozen=True, eq=False)
class Trained:
    """The dictionary and its curves: at `step` [point] the loss, features active per token, explained variance of the batch, and the
    share of features that did not fire for a while."""

    sae: Sae
    step: np.ndarray
    loss: np.ndarray
    l0: np.ndarray
    explained: np.ndarray
    dead: np.ndarray


def train(model: Model, site: Site, ids: torch.Tensor, keep: torch.Tensor, recipe: Recipe, progress) -> Trained:
    """An SAE for `site`, trained on the kept tokens of ids [sequence, position], the first of each sequence left out."""
    return fit(_blocks(model, site, ids, keep, recipe.seed), recipe, progress, site, model.written.partition("~")[0])


def _blocks(model: Model, site: Site, ids: torch.Tensor, keep: torch.Tensor, seed: int):
    """block number -> activations [token, channel], shuffled; each pass over the text in an order of its own."""
    counted = keep.clone()
    counted[:, 0] = False
    ids, counted = ids[counted.any(1)], counted[counted.any(1)]
    per_pass = math.ceil(len(ids) / BLOCK)

    def block(i: int) -> torch.Tensor:
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed * 7919 + i // per_pass))
        rows = order[(i % per_pass) * BLOCK :][:BLOCK]
        x = torch.cat([activations(model, site, ids[part])[counted[part]] for part in rows.split(16)])
        return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed * 7919 + 104729 + i))]

    return block


def fit(block, recipe: Recipe, progress, site: Site = Site(0, "resid_post"), written: str = "") -> Trained:
    """An SAE of what `block(i)` gives [token, channel] for i = 0, 1, …; anything that has activations can be its source."""
    first = block(0)
    if len(first) < 2 or not bool(torch.isfinite(first).all()):
        raise Refused(f"Found {len(first)} usable tokens in the first block of text; an SAE needs many. Take a longer text.")
    random = torch.get_rng_state()  # what runs after a training must not depend on whether it was resumed
    try:
        return _fit(block, recipe, progress, site, written, first)
    finally:
        torch.set_rng_state(random)


def _fit(block, recipe: Recipe, progress, site: Site, written: str, first: torch.Tensor) -> Trained:
    trainer = _trainer(recipe, first)
    curves, place = np.zeros((0, 5)), (0, 0)
    saved = progress.saved()
    if saved is not None:
        curves, place = np.array(saved["curves"]), tuple(saved["place"])
        _restore(trainer, saved)
    batches = _batches(block, recipe.batch, *place)
    while trainer.n_training_steps < recipe.steps:
        place, x = next(batches)
        out = trainer.step(x)
        trainer.n_training_steps += 1
        step, live = trainer.n_training_steps, None
        if step % POINT == 0 or step == recipe.steps:
            live = _point(trainer, out)
            if not math.isfinite(live["loss"]):
                raise Refused(f"The loss became {live['loss']} at step {step}. Lower the learning rate.")
            curves = np.vstack([curves, [step, *live.values()]])
        progress.save({**_state(trainer), "curves": curves, "place": list(place)})
        progress.step(step, recipe.steps, f"step {step:,} of {recipe.steps:,}", live)
    sae = _finished(trainer, recipe, site, written)
    return Trained(sae, curves[:, 0].astype(np.int64), *curves[:, 1:].T)


def _batches(block, size: int, i: int = 0, at: int = 0) -> Iterator[tuple[tuple[int, int], torch.Tensor]]:
    """((block, offset) that comes next, batch [size, channel]) from a place on; what is left of a block below one batch is skipped,
    except where the whole block is smaller."""
    while True:
        x = block(i)
        while at + size <= len(x) or at == 0:
            at += size
            yield (i, at), x[at - size : at]
        i, at = i + 1, 0


def _trainer(recipe: Recipe, first: torch.Tensor):
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(recipe.seed)
    make, settings = get_sae_training_class(recipe.architecture)
    sparsity = {"topk": {"k": recipe.k}, "batchtopk": {"k": recipe.k}, "jumprelu": {"l0_coefficient": recipe.penalty}}.get(recipe.architecture, {"l1_coefficient": recipe.penalty})
    sae = make(settings(d_in=first.shape[1], d_sae=recipe.width, normalize_activations="expected_average_only_in", device=str(first.device), **sparsity))
    with torch.no_grad():
        sae.b_dec.copy_(first.mean(0) * _scale(first))
    steps = recipe.steps
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=steps * recipe.batch, train_batch_size_samples=recipe.batch, lr=recipe.rate, lr_end=recipe.rate / 10, lr_warm_up_steps=min(50, steps // 10),
            lr_decay_steps=steps // 5, device=str(first.device), dead_feature_window=max(20, min(1000, steps // 10)), feature_sampling_window=10**9,
            logger=LoggingConfig(log_to_wandb=False)),
        sae=sae, data_provider=iter(()))
    trainer.activation_scaler.scaling_factor = _scale(first)
    return trainer


def _scale(x: torch.Tensor) -> float:
    """What makes the mean norm √d, sae-lens's `expected_average_only_in`; from the first block, folded into the weights at the end."""
    return float(math.sqrt(x.shape[1]) / x.norm(dim=1).mean())


def _point(trainer, out) -> dict[str, float]:
    with torch.no_grad():
        acts = out.feature_acts.to_dense() if out.feature_acts.is_sparse else out.feature_acts
        x, again = out.sae_in, out.sae_out
        explained = 1 - float((x - again).square().sum() / (x - x.mean(0)).square().sum())
        return {"loss": float(out.loss), "L0": float((acts > 0).sum(-1).float().mean()), "explained variance": explained,
                "dead features": float(trainer.dead_neurons.float().mean())}


def _state(trainer) -> dict:
    inner = trainer.optimizer.state_dict()["state"]
    return {
        "weights": {name: value.detach() for name, value in trainer.sae.state_dict().items()},
        "moments": {str(i): {name: torch.as_tensor(value) for name, value in each.items()} for i, each in inner.items()},
        "counters": [trainer.n_training_steps, trainer.n_training_samples, trainer.n_frac_active_samples],
        "fired": trainer.act_freq_scores, "since": trainer.n_forward_passes_since_fired, "random": torch.get_rng_state(),
    }


def _restore(trainer, saved: dict) -> None:
    trainer.sae.load_state_dict(saved["weights"])
    whole = trainer.optimizer.state_dict()
    trainer.optimizer.load_state_dict({**whole, "state": {int(i): dict(each) for i, each in saved["moments"].items()}})
    trainer.n_training_steps, trainer.n_training_samples, trainer.n_frac_active_samples = (int(n) for n in saved["counters"])
    for _ in range(trainer.n_training_steps):  # rates follow from the number of steps alone
        trainer.lr_scheduler.step()
        for scheduler in trainer.coefficient_schedulers.values():
            scheduler.step()
    trainer.act_freq_scores, trainer.n_forward_passes_since_fired = saved["fired"].clone(), saved["since"].clone()
    torch.set_rng_state(saved["random"])


def _finished(trainer, recipe: Recipe, site: Site, written: str) -> Sae:
    """The trained weights for raw activations: sae-lens folds its scale, and saves BatchTopK as jumprelu."""
    import tempfile
    from dataclasses import replace
    from pathlib import Path

    from models.saes.reading import read

    trainer.sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
    trainer.sae.cfg.metadata.hook_name = f"blocks.{site.layer}.hook_resid_post"
    with tempfile.TemporaryDirectory() as folder:
        trainer.sae.save_inference_model(folder)
        sae = read(Path(folder))
    return replace(sae, site=site, model=written, name="")
