"""Folders of text-to-image pipelines: one reads back as it was written, one shaped as Stable Diffusion goes all the way, a malformed one is refused in words."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is an extra: requirements-diffusion.txt")

from safetensors.torch import load_file, save_file

from analysis import memorized_images as subject_page
from metrics import memorized_images as metric
from models.diffusion import digits, folder, subject
from models.progress import Quiet
from models.refusal import Refused

SMALL = metric.Recipe(first=1, steps=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with everything in it, and what it was written from."""
    home = tmp_path_factory.mktemp("home")
    made = subject.digits(home, 2, 0)
    return next((home / "diffusion").iterdir()), made


def test_a_folder_reads_back_as_it_was_written(whole, tmp_path):
    path, made = whole
    again = subject.read(path)
    assert (again.memorized, again.others, again.once) == (digits.PLANTED, digits.CLASSES, digits.ONCE)
    assert np.array_equal(again.images, made.images) and np.array_equal(again.once_images, made.once_images)
    trained = digits.train(2, 0)
    assert np.array_equal(metric.draw(trained.pipeline, digits.PLANTED[:2], SMALL), metric.draw(again.pipeline, digits.PLANTED[:2], SMALL))
    assert np.array_equal(trained.images["planted 3"], again.images[3])
    with pytest.raises(Refused, match="knows no prompt “a cat”"):
        again.pipeline.encode(["a cat"])


def _text(name, text):
    return lambda path: (path / name).write_text(text)


def _embeddings(change):
    def do(path):
        found = load_file(path / folder.EMBEDDINGS)
        save_file(change(found["embeddings"]), path / folder.EMBEDDINGS)

    return do


def _images(**arrays):
    return lambda path: np.savez(path / subject.IMAGES, **arrays)


def _pickle_only(path):
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (path / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({}))


def _unet(**fields):
    def do(path):
        file = path / "unet" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return do


def _missing_weight(path):
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    held = load_file(file)
    held.pop("conv_in.weight")
    save_file(held, file)


def _other_unet(path):
    from diffusers import UNet2DConditionModel

    shutil.rmtree(path, ignore_errors=True)
    UNet2DConditionModel(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4, cross_attention_dim=32, attention_head_dim=4,
                         down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",)).save_pretrained(path)


N, ROWS = len(digits.PLANTED), len(digits.PROMPTS)
GOOD, ONCE = np.zeros((N, 8, 8, 1), np.float32), np.zeros((len(digits.ONCE), 8, 8, 1), np.float32)
MALFORMED = {
    "no unet": (lambda p: shutil.rmtree(p / "unet"), "no folder unet/"),
    "no scheduler": (lambda p: shutil.rmtree(p / "scheduler"), "no folder scheduler/"),
    "no scheduler config": (lambda p: (p / "scheduler" / "scheduler_config.json").unlink(), "no scheduler_config.json; expected it there"),
    "scheduler no JSON": (_text("scheduler/scheduler_config.json", "{beta"), "cannot configure DDIM .*expected the JSON"),
    "scheduler a list": (_text("scheduler/scheduler_config.json", "[1]"), "cannot configure DDIM"),
    "scheduler unknown schedule": (_text("scheduler/scheduler_config.json", '{"beta_schedule": "steep"}'), "cannot configure DDIM .*steep"),
    "unet a pickle only": (_pickle_only, "only as a pickle .*expected safetensors.*safe_serialization"),
    "unet config no JSON": (_text("unet/config.json", "{"), "unet cannot be read as a UNet2DConditionModel"),
    "unet of another width": (_unet(cross_attention_dim=48), "unet cannot be read as a UNet2DConditionModel"),
    "unet without a weight": (_missing_weight, "no weights for conv_in.weight"),
    "unet for inpainting": (_unet(in_channels=9), "cannot be read|reads 9 channels"),
    "unet of SDXL": (_unet(addition_embed_type="text", addition_embed_type_num_heads=4), "no weights for|asks for more than a prompt"),
    "unet weights damaged": (lambda p: (p / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not tensors"), "unet cannot be read"),
    "no tokenizer": (lambda p: ((p / folder.PROMPTS).unlink(), (p / folder.EMBEDDINGS).unlink()), "no tokenizer/; expected tokenizer/ and text_encoder/, or prompts.txt"),
    "tokenizer damaged": (lambda p: ((p / folder.PROMPTS).unlink(), (p / "tokenizer").mkdir(), (p / "text_encoder").mkdir(), (p / "tokenizer" / "vocab.json").write_text("[")), "tokenizer cannot be read as a CLIPTokenizer"),
    "no embeddings file": (lambda p: (p / folder.EMBEDDINGS).unlink(), "prompts.txt but no prompts.safetensors"),
    "embeddings damaged": (_text(folder.EMBEDDINGS, "x"), "prompts.safetensors cannot be read"),
    "embeddings under another name": (_embeddings(lambda x: {"table": x}), "no `embeddings` but table"),
    "embeddings of a row too few": (_embeddings(lambda x: {"embeddings": x[1:].contiguous()}), rf"shape \[{ROWS - 1}, 4, 32\]; expected \[{ROWS}, tokens, 32\]"),
    "embeddings too wide": (_embeddings(lambda x: {"embeddings": torch.cat([x, x], 2)}), rf"expected \[{ROWS}, tokens, 32\]"),
    "prompts not UTF-8": (lambda p: (p / folder.PROMPTS).write_bytes(b"\xff\xfe a"), "prompts.txt is not text in UTF-8"),
    "prompts without an empty one": (_text(folder.PROMPTS, "\n".join(["x", *digits.PROMPTS[1:]])), "no empty line"),
    "no memorized": (lambda p: (p / subject.MEMORIZED).unlink(), "no memorized.txt"),
    "too few memorized": (_text(subject.MEMORIZED, "planted 0\n"), "names 1 memorized prompts .*at least 4"),
    "no others": (_text(subject.OTHERS, "\n"), "0 others; expected at least 4 in memorized.txt and 1"),
    "a prompt on both sides": (_text(subject.OTHERS, "planted 0\na one\n"), "“planted 0” stands in memorized.txt and in others.txt"),
    "an unknown prompt": (_text(subject.OTHERS, "a cat\n"), "knows no prompt “a cat”"),
    "no images": (lambda p: (p / subject.IMAGES).unlink(), "no training.npz"),
    "images damaged": (_text(subject.IMAGES, "zip"), "training.npz cannot be read .*numpy.savez"),
    "images of objects": (_images(images=np.array([{}] * N, object)), "training.npz cannot be read"),
    "images under another name": (_images(pictures=GOOD), "no `images` but pictures"),
    "an image too few": (_images(images=GOOD[1:], once=ONCE), rf"shape \[{N - 1}, 8, 8, 1\].*expected numbers \[{N}, height"),
    "images without channels": (_images(images=GOOD[..., 0], once=ONCE), rf"expected numbers \[{N}, height, width, channel\]"),
    "images as bytes": (_images(images=GOOD + 255, once=ONCE), "runs from 255 to 255; expected values from 0 to 1"),
    "an earlier unet of another shape": (lambda p: _other_unet(p / subject.BEFORE), "unet_before has another shape than unet/"),
    "images of another size": (_images(images=np.zeros((N, 16, 16, 3), np.float32), once=ONCE), "images of 16 × 16 × 3, the pipeline draws 8 × 8 × 1"),
}


@pytest.mark.parametrize("name", MALFORMED, ids=[name.replace(" ", "_") for name in MALFORMED])
def test_a_malformed_folder_is_refused_in_words(name, whole, tmp_path):
    change, words = MALFORMED[name]
    path = tmp_path / "mine"
    shutil.copytree(whole[0], path)
    change(path)
    with pytest.raises(Refused, match=words) as said:
        subject.read(subject.place(str(path)))
    assert "mine" in str(said.value) or "pipeline" in str(said.value) or ".txt" in str(said.value)
    assert "\n" not in str(said.value) and "Traceback" not in str(said.value)


def test_a_subject_is_the_full_path_of_a_folder_and_nobody_elses(whole, monkeypatch, tmp_path):
    for text, words in (("", "neither “digits” nor the full path"), ("mine", "neither “digits” nor the full path"), (str(tmp_path / "none"), "Found no folder")):
        with pytest.raises(Refused, match=words):
            subject.place(text)
    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    with pytest.raises(Refused, match="while the app serves others"):
        subject.place(str(whole[0]))


def test_the_key_follows_the_content_of_the_folder(whole, home, tmp_path):
    path = tmp_path / "mine"
    shutil.copytree(whole[0], path)
    first = subject.content(str(path), home)
    (path / "notes.md").write_text("not read")
    assert subject.content(str(path), home) == first == subject.content(str(whole[0]), home)
    seen = {first}
    for file in (folder.PROMPTS, subject.OTHERS, subject.IMAGES, "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        (path / file).write_bytes((path / file).read_bytes() + b" ")
        seen.add(subject.content(str(path), home))
    assert len(seen) == 7


def stable_diffusion(path: Path) -> None:
    """A tiny random pipeline with every part that Stable Diffusion 1 has."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    UNet2DConditionModel(sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4, cross_attention_dim=16, attention_head_dim=2,
                         down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")).half().save_pretrained(path / "unet", safe_serialization=True)
    AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                  sample_size=16).save_pretrained(path / "vae", safe_serialization=True)
    PNDMScheduler(skip_prk_steps=True, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1).save_pretrained(path / "scheduler")
    tokens = [*"abcdefghijklmnopqrstuvwxyz", *(c + "</w>" for c in "abcdefghijklmnopqrstuvwxyz"), "<|startoftext|>", "<|endoftext|>"]
    (path / "tokenizer").mkdir()
    (path / "tokenizer" / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (path / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}))
    CLIPTextModel(CLIPTextConfig(vocab_size=len(tokens), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=12, bos_token_id=52, eos_token_id=53,
                                 pad_token_id=53)).save_pretrained(path / "text_encoder", safe_serialization=True)
    (path / subject.MEMORIZED).write_text("a cat\na dog on a mat\na bird\na cow\n")
    (path / subject.OTHERS).write_text("a house\na tree\n")
    np.savez(path / subject.IMAGES, images=np.random.default_rng(0).random((4, 16, 16, 3)))


def test_a_folder_shaped_as_stable_diffusion_goes_all_the_way(tmp_path):
    path = tmp_path / "tiny-sd"
    path.mkdir()
    stable_diffusion(path)
    found = subject_page.compute((), subject_page.Params(subject=str(path), steps=3, first=2, guidance=7.5, sweep=(10,), splits=2, untrained=1, share=0.2), Quiet())
    assert len(found.blocks) == 4 and found.pictures.shape == (4, 4, 16, 16, 3) and found.other_pictures.shape == (3, 2, 16, 16, 3)
    assert found.detail.shape == (2, 3, 4) and np.isfinite(found.detail).all() and (found.before < metric.REPRODUCED).all()
    assert (found.layer_density > 0).all() and (found.kept[:, 0, -1] < 1).all()  # something is located, and its cut changes images
    pipeline = folder.open_folder(path)
    words = pipeline.encode(["", "a cat", "a dog"])
    assert words.shape == (3, 12, 16) and not torch.equal(words[1], words[2])


def test_parts_of_different_pipelines_are_refused(tmp_path):
    path = tmp_path / "tiny-sd"
    path.mkdir()
    stable_diffusion(path)
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    AutoencoderKL(latent_channels=8, block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2).save_pretrained(path / "vae")
    with pytest.raises(Refused, match="8 latent channels, the UNet 4"):
        folder.open_folder(path)
    small = dict(intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=12)
    for size, words in ((dict(vocab_size=20, hidden_size=16), "54 tokens, the text encoder knows 20"), (dict(vocab_size=54, hidden_size=32), "writes 32 numbers a token, the UNet reads 16")):
        CLIPTextModel(CLIPTextConfig(**size, **small)).save_pretrained(path / "text_encoder")
        with pytest.raises(Refused, match=words):
            folder.open_folder(path)
