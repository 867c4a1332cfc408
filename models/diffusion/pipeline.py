"""A text-to-image pipeline from a local diffusers folder: opened, run on prompts, watched at its feed-forward blocks, cut.

    unet/         UNet2DConditionModel, safetensors       scheduler/    anything DDIM can be configured from
    tokenizer/, text_encoder/, vae/                       CLIPTokenizer, CLIPTextModel, AutoencoderKL, as Stable Diffusion 1 and 2 have them
    prompts.txt, prompts.safetensors                      in place of tokenizer and text encoder: known prompts, one a line, and their `embeddings` [prompt, token, dim]

Without vae/ the UNet works on pixels in [−1, 1]. Classes are named here, so that no code of the folder is run, and only safetensors are read.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models.refusal import Refused, shown

INSTALL = "Memorized images needs diffusers; install it with pip install -r requirements-diffusion.txt."
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

        return {name.replace(".transformer_blocks", "").replace("attentions.", ""): module.ff.net[2] for name, module in self.unet.named_modules() if isinstance(module, BasicTransformerBlock) and module.attn2 is not None}

    def cut(self, masks: dict[str, torch.Tensor]) -> Pipeline:
        """A copy whose masked weights (bool [d_model, d_ff] by block) are zero."""
        other = replace(self, unet=copy.deepcopy(self.unet))
        for name, module in other.blocks.items():
            with torch.no_grad():
                module.weight.masked_fill_(masks[name].to(module.weight.device), 0.0)
        return other


def open_folder(folder: Path) -> Pipeline:
    """Refused with what is missing."""
    require_library()
    from diffusers import DDIMScheduler, UNet2DConditionModel

    folder = Path(folder)
    for part in ("unet", "scheduler"):
        if not (folder / part).is_dir():
            raise Refused(f"{shown(folder.name)} has no folder {part}/; expected a diffusers text-to-image pipeline.")
    unet = _read(UNet2DConditionModel, folder, "unet")
    unet.eval().requires_grad_(False)
    pipeline = Pipeline(unet, DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True), _encoder(folder), _decoder(folder))
    if not pipeline.blocks:
        raise Refused(f"The UNet of {shown(folder.name)} has no cross-attention block, so no prompt can be contrasted; expected a text-to-image model.")
    return pipeline


def _read(kind, folder: Path, part: str):
    try:
        return kind.from_pretrained(folder / part, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise Refused(f"{shown(folder.name)}/{part} cannot be read as a {kind.__name__} in safetensors: {shown(error, 160)}.") from error


def _encoder(folder: Path) -> Callable:
    if (folder / "prompts.txt").is_file():
        from safetensors.torch import load_file

        return of_table((folder / "prompts.txt").read_text().split("\n"), load_file(folder / "prompts.safetensors")["embeddings"])
    from transformers import CLIPTextModel, CLIPTokenizer

    if not (folder / "tokenizer").is_dir() or not (folder / "text_encoder").is_dir():
        raise Refused(f"{shown(folder.name)} has no tokenizer/ and text_encoder/, nor prompts.txt with prompts.safetensors; one of them must say what a prompt means.")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    encoder = _read(CLIPTextModel, folder, "text_encoder").eval()

    def encode(prompts: list[str]) -> torch.Tensor:
        ids = tokenizer(prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            return encoder(ids)[0]

    return encode


def of_table(prompts: list[str], embeddings: torch.Tensor) -> Callable:
    place = {prompt: i for i, prompt in enumerate(prompts)}

    def encode(asked: list[str]) -> torch.Tensor:
        if unknown := [p for p in asked if p not in place]:
            raise Refused(f"This pipeline knows no prompt “{shown(unknown[0])}”; it has embeddings for {len(place)} prompts, for instance “{shown(next((p for p in place if p), ''))}”.")
        return embeddings[[place[p] for p in asked]]

    return encode


def _decoder(folder: Path) -> Callable:
    if not (folder / "vae").is_dir():
        return of_pixels
    from diffusers import AutoencoderKL

    vae = _read(AutoencoderKL, folder, "vae").eval()

    def decode(latents: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return of_pixels(torch.cat([vae.decode(one / vae.config.scaling_factor).sample for one in latents.split(1)]))

    return decode


def of_pixels(x: torch.Tensor) -> torch.Tensor:
    """[n, channel, h, w] in [−1, 1] -> [n, h, w, channel] in 0–1."""
    return (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float()


def generate(pipeline: Pipeline, prompts: list[str], steps: int, guidance: float, seeds: list[int], watch: Callable | None = None, progress=None) -> torch.Tensor:
    """Images [prompt, H, W, C] in 0–1 by DDIM; prompt i starts from the noise of seeds[i], so that before and after a cut differ by the cut alone.
    `watch(step, block, h)` receives h [token, d_ff] = hidden · gelu(gate), the input of each second linear, for the prompts and not for the
    empty prompt that guidance adds. guidance 1: none."""
    unet, size = pipeline.unet, pipeline.unet.config.sample_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    out = []
    for start in range(0, len(prompts), LARGEST_BATCH):
        batch = prompts[start : start + LARGEST_BATCH]
        n, state = len(batch), {"step": 0}
        words = pipeline.encode(batch)
        if guidance != 1:
            words = torch.cat([words, pipeline.encode([""] * n)])
        x = torch.stack([torch.randn(unet.config.in_channels, *size, generator=torch.Generator().manual_seed(s)) for s in seeds[start : start + n]])
        hooks = [module.register_forward_pre_hook(lambda _, given, name=name: watch(state["step"], name, given[0][:n].reshape(-1, given[0].shape[-1])))
                 for name, module in pipeline.blocks.items()] if watch else []
        scheduler = copy.deepcopy(pipeline.scheduler)
        scheduler.set_timesteps(steps)
        try:
            with torch.no_grad():
                for i, t in enumerate(scheduler.timesteps):
                    state["step"] = i
                    noise = unet(torch.cat([x, x]) if guidance != 1 else x, t, encoder_hidden_states=words).sample
                    if guidance != 1:
                        noise = noise[n:] + guidance * (noise[:n] - noise[n:])
                    x = scheduler.step(noise, t, x).prev_sample
                    if progress:
                        progress.step(start * steps + (i + 1) * n, len(prompts) * steps, "drawing images")
        finally:
            for hook in hooks:
                hook.remove()
        out.append(pipeline.decode(x))
    return torch.cat(out)
