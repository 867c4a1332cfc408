"""A text-to-image pipeline: run on prompts by DDIM, watched at its feed-forward blocks, cut there, or begun anew without training."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from models.refusal import Refused

INSTALL = "Memorized images needs the library diffusers, which is not installed here. Install it with `pip install -r requirements-diffusion.txt`, then restart the app."
LARGEST_BATCH = 16


def require_library() -> None:
    if importlib.util.find_spec("diffusers") is None:
        raise Refused(INSTALL)


@dataclass(frozen=True, eq=False)
class Pipeline:
    """`encode`: prompts -> float [prompt, token, dim]; `decode`: latents [n, channel, h, w] -> images float32 [n, H, W, C] in 0–1."""

    unet: object
    scheduler: object
    encode: Callable
    decode: Callable

    @property
    def blocks(self) -> dict[str, object]:
        """Name -> second linear of the GEGLU feed-forward (Linear [d_model, d_ff]) of every cross-attention block, in the UNet's order."""
        from diffusers.models.attention import BasicTransformerBlock

        found = {name: module.ff.net[2] for name, module in self.unet.named_modules() if isinstance(module, BasicTransformerBlock) and module.attn2 is not None}
        return {name.replace(".transformer_blocks", "").replace("attentions.", ""): module for name, module in sorted(found.items(), key=lambda pair: _place(pair[0]))}

    @property
    def latent_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of what is denoised."""
        size = self.unet.config.sample_size
        return (self.unet.config.in_channels, *((size, size) if isinstance(size, int) else size))

    def cut(self, masks: dict[str, torch.Tensor]) -> Pipeline:
        """A copy whose masked weights (bool [d_model, d_ff] by block) are zero; all other weights are shared with this one."""
        changed = {id(module.weight) for module in self.blocks.values()}
        kept = {id(x): x for x in (*self.unet.parameters(), *self.unet.buffers()) if id(x) not in changed}
        other = replace(self, unet=copy.deepcopy(self.unet, kept))
        for name, module in other.blocks.items():
            with torch.no_grad():
                module.weight.masked_fill_(masks[name].to(module.weight.device), 0.0)
        return other

    def untrained(self, seed: int) -> Pipeline:
        """The same architecture with weights as they are before training; prompts keep their meaning."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = type(self.unet).from_config(self.unet.config)
        return replace(self, unet=unet.to(self.device).eval().requires_grad_(False))

    @property
    def device(self):
        return next(self.unet.parameters()).device


def _place(name: str) -> tuple:
    """Sorting key: down, middle, up, then as numbered."""
    return next((i for i, part in enumerate(("down", "mid", "up")) if name.startswith(part)), 3), [int(part) for part in name.split(".") if part.isdigit()]


def of_table(prompts: list[str], embeddings: torch.Tensor) -> Callable:
    """An encoder that knows these prompts alone; embeddings [prompt, token, dim]."""
    place = {prompt: i for i, prompt in enumerate(prompts)}

    def encode(asked: list[str]) -> torch.Tensor:
        if unknown := [p for p in asked if p not in place]:
            raise Refused(f"This pipeline knows no prompt “{unknown[0][:80]}”; expected one of the {len(place)} in prompts.txt, for instance “{next((p for p in place if p), '')[:80]}”.")
        return embeddings[[place[p] for p in asked]]

    return encode


def of_pixels(x: torch.Tensor) -> torch.Tensor:
    """[n, channel, h, w] in [−1, 1] -> [n, h, w, channel] in 0–1."""
    return (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu()


def generate(pipeline: Pipeline, prompts: list[str], steps: int, guidance: float, seeds: list[int], progress=None) -> torch.Tensor:
    """Images [prompt, H, W, C] in 0–1 by DDIM; prompt i starts from the noise of seeds[i], so that before and after a cut differ by the cut
    alone. guidance 1: none. Refused where the images are not numbers."""
    images = torch.cat([pipeline.decode(x) for x in _denoised(pipeline, prompts, steps, guidance, seeds, steps, None, progress)])
    if not torch.isfinite(images).all():
        raise Refused("The pipeline's images are not numbers (NaN or infinite); its weights or its scheduler's settings are damaged. Expected finite images; take the files again.")
    return images


def observe(pipeline: Pipeline, prompts: list[str], steps: int, guidance: float, seeds: list[int], first: int, watch: Callable, progress=None) -> None:
    """The first of `steps` steps alone. `watch(step, block, start, h)` receives h [prompt, token, d_ff] = hidden · gelu(gate), the input of each
    block's second linear, of prompts from `start` on; never of the empty prompt that guidance adds."""
    for _ in _denoised(pipeline, prompts, steps, guidance, seeds, first, watch, progress):
        pass


def _denoised(pipeline: Pipeline, prompts: list[str], steps: int, guidance: float, seeds: list[int], until: int, watch, progress):
    """Latents after `until` of `steps` steps, batch by batch."""
    unet, device = pipeline.unet, pipeline.device
    for start in range(0, len(prompts), LARGEST_BATCH):
        batch = prompts[start : start + LARGEST_BATCH]
        n, now = len(batch), {"step": 0}
        words = pipeline.encode(batch)
        if guidance != 1:
            words = torch.cat([words, pipeline.encode([""] * n)])
        words = words.to(device)
        x = torch.stack([torch.randn(*pipeline.latent_size, generator=torch.Generator().manual_seed(s)) for s in seeds[start : start + n]]).to(device)
        hooks = [module.register_forward_pre_hook(lambda _, given, name=name: watch(now["step"], name, start, given[0][:n])) for name, module in pipeline.blocks.items()] if watch else []
        scheduler = copy.deepcopy(pipeline.scheduler)
        scheduler.set_timesteps(steps)
        try:
            with torch.no_grad():
                for i, t in enumerate(scheduler.timesteps[:until]):
                    now["step"] = i
                    noise = unet(torch.cat([x, x]) if guidance != 1 else x, t, encoder_hidden_states=words).sample
                    if guidance != 1:
                        noise = noise[n:] + guidance * (noise[:n] - noise[n:])
                    x = scheduler.step(noise, t, x).prev_sample
                    if progress:
                        progress.step(start * until + (i + 1) * n, len(prompts) * until)
        finally:
            for hook in hooks:
                hook.remove()
        yield x
