"""A text-to-image pipeline in a local diffusers folder, opened without running its code.

    unet/         UNet2DConditionModel, safetensors       scheduler/    anything DDIM can be configured from
    tokenizer/, text_encoder/, vae/                       CLIPTokenizer, CLIPTextModel, AutoencoderKL, as Stable Diffusion 1 and 2 have them
    prompts.txt, prompts.safetensors                      in place of tokenizer and text encoder: known prompts, one a line, and their `embeddings` [prompt, token, dim]

Without vae/ the UNet works on pixels in [−1, 1]. Classes are named here, and only JSON, text and safetensors are read. What is wrong is
Refused: what was found, what was expected, what to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from models.diffusion.pipeline import Pipeline, of_pixels, of_table, require_library
from models.refusal import Refused, shown

PARTS = ("unet", "unet_before", "scheduler", "tokenizer", "text_encoder", "vae")
READ = (".json", ".txt", ".safetensors")  # suffixes that are read inside a part; others lie there unused
PROMPTS, EMBEDDINGS = "prompts.txt", "prompts.safetensors"


def open_folder(folder: Path) -> Pipeline:
    """The pipeline, on the GPU where there is one, in float32."""
    require_library()
    folder = Path(folder)
    require_parts(folder)
    from diffusers import UNet2DConditionModel

    unet = _read(UNet2DConditionModel, folder, "unet")
    _require_plain(unet.config, folder)
    pipeline = Pipeline(unet, _scheduler(folder), _encoder(folder, unet.config.cross_attention_dim), _decoder(folder, unet.config.in_channels))
    if not pipeline.blocks:
        raise Refused(f"The UNet of {shown(folder.name)} has no cross-attention block, so no prompt can be contrasted; expected a text-to-image model.")
    return pipeline


def with_unet(pipeline: Pipeline, folder: Path, part: str) -> Pipeline:
    """The same pipeline with another UNet of its shape, from `part` of the folder."""
    from diffusers import UNet2DConditionModel

    other = replace(pipeline, unet=_read(UNet2DConditionModel, folder, part))
    shapes = [{name: tuple(x.shape) for name, x in one.unet.state_dict().items()} for one in (pipeline, other)]
    if shapes[0] != shapes[1]:
        raise Refused(f"{shown(folder.name)}/{part} has another shape than unet/; expected the same UNet at an earlier time.")
    return other


def require_parts(folder: Path) -> None:
    """Refused where a folder or file is missing; reads nothing."""
    name = shown(folder.name)
    if not folder.is_dir():
        raise Refused(f"Found no folder {shown(folder, 200)}; expected a diffusers text-to-image pipeline. Check the path.")
    for part in ("unet", "scheduler"):
        if not (folder / part).is_dir():
            raise Refused(f"{name} has no folder {part}/; expected a diffusers text-to-image pipeline, as `save_pretrained` writes it.")
    if not (folder / PROMPTS).is_file():
        if missing := [part for part in ("tokenizer", "text_encoder") if not (folder / part).is_dir()]:
            raise Refused(f"{name} has no {missing[0]}/; expected tokenizer/ and text_encoder/, or {PROMPTS} with {EMBEDDINGS} in their place, which say what a prompt means.")
    elif not (folder / EMBEDDINGS).is_file():
        raise Refused(f"{name} has {PROMPTS} but no {EMBEDDINGS}; expected that file with `embeddings` [prompt, token, dim], a row for each line.")
    for part, file in (("unet", "config.json"), ("scheduler", "scheduler_config.json")):
        if not (folder / part / file).is_file():
            raise Refused(f"{name}/{part} has no {file}; expected it there, as `save_pretrained` writes it.")


def files(folder: Path) -> tuple[str, ...]:
    """Names, below `folder`, of the files of the pipeline that are read."""
    inside = [file for part in PARTS for file in sorted((folder / part).glob("*")) if file.suffix in READ and file.is_file()]
    return tuple(str(file.relative_to(folder)) for file in (*inside, *(folder / f for f in (PROMPTS, EMBEDDINGS))) if file.is_file())


def lines(file: Path) -> list[str]:
    """Lines of a text in UTF-8, without a last empty one."""
    try:
        return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise Refused(f"{shown(file.name)} is not text in UTF-8 (byte {error.start}); expected one prompt a line. Save it as UTF-8.") from error


def _read(kind, folder: Path, part: str):
    """The model of one part, all weights of it found."""
    name, pickles = f"{shown(folder.name)}/{part}", [file.name for file in sorted((folder / part).glob("*.bin"))]
    if pickles and not list((folder / part).glob("*.safetensors")):
        raise Refused(f"{name} holds its weights only as a pickle ({shown(pickles[0])}), which could run code when it is opened; expected safetensors. Write them with "
                      "`save_pretrained(folder, safe_serialization=True)` on a machine that trusts the file.")
    try:
        model, said = kind.from_pretrained(folder / part, use_safetensors=True, local_files_only=True, output_loading_info=True, torch_dtype=torch.float32)
    except Exception as error:  # the library says of damaged files whatever it likes
        raise Refused(f"{name} cannot be read as a {kind.__name__} ({shown(error, 160)}); expected config.json and weights in safetensors that fit each other. Take the folder again from its source.") from error
    if missing := sorted(said["missing_keys"]):
        raise Refused(f"{name} has no weights for {shown(missing[0])}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "") + f", which its config.json asks for; expected a whole {kind.__name__}.")
    return model.float().to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)


def _require_plain(config, folder: Path) -> None:
    """Refused where the UNet wants more than a noisy image and a prompt."""
    more = [field for field in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type") if config.get(field)]
    if more:
        raise Refused(f"The UNet of {shown(folder.name)} asks for more than a prompt ({more[0]}: {shown(config[more[0]])}), as SDXL does; expected one of Stable Diffusion 1 or 2.")
    if config.in_channels != config.out_channels:
        raise Refused(f"The UNet of {shown(folder.name)} reads {config.in_channels} channels and writes {config.out_channels}, as inpainting does; expected a text-to-image model with as many of both.")
    if config.sample_size is None or not isinstance(config.cross_attention_dim, int):
        raise Refused(f"The UNet of {shown(folder.name)} has sample_size {shown(config.sample_size)} and cross_attention_dim {shown(config.cross_attention_dim)}; expected one number of each.")


def _scheduler(folder: Path):
    from diffusers import DDIMScheduler

    file = folder / "scheduler" / "scheduler_config.json"
    try:
        config = json.loads(file.read_bytes())
        scheduler = DDIMScheduler.from_config(config)
        scheduler.set_timesteps(1)
    except Exception as error:  # not JSON, not a dictionary, or settings that DDIM does not know
        raise Refused(f"{shown(folder.name)}/scheduler/scheduler_config.json cannot configure DDIM ({shown(error, 120) or type(error).__name__}); expected the JSON that "
                      "`save_pretrained` writes, with num_train_timesteps, beta_schedule and prediction_type.") from error
    return scheduler


def _encoder(folder: Path, width: int) -> Callable:
    if (folder / PROMPTS).is_file():
        return _table(folder, width)
    from transformers import CLIPTextModel, CLIPTokenizer

    name = shown(folder.name)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        tokenizer(["a"])
    except Exception as error:
        raise Refused(f"{name}/tokenizer cannot be read as a CLIPTokenizer ({shown(error, 120)}); expected vocab.json, merges.txt and tokenizer_config.json. Take the folder again from its source.") from error
    encoder = _read(CLIPTextModel, folder, "text_encoder")
    longest = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    if encoder.config.hidden_size != width:
        raise Refused(f"{name}: the text encoder writes {encoder.config.hidden_size} numbers a token, the UNet reads {width}; expected parts of one pipeline.")
    if len(tokenizer) > encoder.config.vocab_size:
        raise Refused(f"{name}: the tokenizer has {len(tokenizer)} tokens, the text encoder knows {encoder.config.vocab_size}; expected parts of one pipeline.")

    def encode(prompts: list[str]) -> torch.Tensor:
        ids = tokenizer(prompts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            return encoder(ids.to(encoder.device))[0]

    return encode


def _table(folder: Path, width: int) -> Callable:
    from safetensors.torch import load_file

    prompts, name = lines(folder / PROMPTS), shown(folder.name)
    try:
        found = load_file(folder / EMBEDDINGS)
    except Exception as error:
        raise Refused(f"{name}/{EMBEDDINGS} cannot be read ({shown(error, 120)}); expected a safetensors file with `embeddings` [prompt, token, dim].") from error
    shape = tuple(found["embeddings"].shape) if "embeddings" in found else None
    if shape is None or len(shape) != 3 or shape[0] != len(prompts) or shape[2] != width:
        held = f"`embeddings` of shape {list(shape)}" if shape else f"no `embeddings` but {shown(', '.join(sorted(found)) or 'nothing')}"
        raise Refused(f"{name}/{EMBEDDINGS} holds {held}; expected [{len(prompts)}, tokens, {width}], a row for each line of {PROMPTS}, as wide as the UNet reads.")
    if "" not in prompts:
        raise Refused(f"{name}/{PROMPTS} has no empty line; expected the empty prompt among the {len(prompts)}: it is what others are contrasted with.")
    return of_table(prompts, found["embeddings"].float())


def _decoder(folder: Path, channels: int) -> Callable:
    if not (folder / "vae").is_dir():
        return of_pixels
    from diffusers import AutoencoderKL

    vae = _read(AutoencoderKL, folder, "vae")
    if vae.config.latent_channels != channels:
        raise Refused(f"{shown(folder.name)}: the VAE has {vae.config.latent_channels} latent channels, the UNet {channels}; expected parts of one pipeline.")
    shift = vae.config.get("shift_factor") or 0.0

    def decode(latents: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return of_pixels(torch.cat([vae.decode(one / vae.config.scaling_factor + shift).sample for one in latents.split(1)]))

    return decode
