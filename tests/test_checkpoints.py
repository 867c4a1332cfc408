"""From a name to a loaded model: exact where it fits, refused with the list where it does not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import small

from models import checkpoints, hub, shelf, vocabulary
from models.refusal import Refused

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "checkpoints"
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real checkpoints at {DATA}")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    small.gpt2(root / "gpt2")
    small.llama(root / "llama")
    small.llama(root / "tied", tie=True)
    small.llama(root / "sharded", max_shard_size="5KB")
    return root


@pytest.fixture
def folder(saved, tmp_path):
    return lambda name: Path(shutil.copytree(saved / name, tmp_path / name))


def opened(folder: Path, home: Path) -> checkpoints.Checkpoint:
    return checkpoints.resolve("shelf/" + shelf.register(folder, home), home)


def plain(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("name", ["gpt2", "llama", "tied", "sharded"])
def test_loads_the_same_numbers_as_plain_transformers(saved, home, name):
    checkpoint = opened(saved / name, home)
    model, tokenizer = checkpoints.load(checkpoint)
    ids = torch.tensor([tokenizer("Mia saw a fox.")["input_ids"]])
    assert torch.equal(model(input_ids=ids).logits, plain(saved / name)(input_ids=ids).logits)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert checkpoint.n_parameters == sum(p.numel() for p in model.parameters())
    assert checkpoint.dtype == "F32" and checkpoint.has_tokenizer


def test_more_layers_than_weights_is_refused_with_the_missing_tensors(folder, home):
    broken = small.edit(folder("gpt2"), n_layer=4)
    assert sum(torch.isfinite(p).all() for p in plain(broken).parameters()) == 52, "plain transformers loads it, half random"
    with pytest.raises(checkpoints.Disagreement) as refusal:
        checkpoints.load(opened(broken, home))
    assert "Found 2 blocks" in str(refusal.value) and "expected 4 blocks" in str(refusal.value)
    assert len(refusal.value.verdict.missing) == 24 and "missing: transformer.h.2.ln_1.weight" in refusal.value.details
    assert refusal.value.todo.startswith("Set the number of layers in config.json to 2")


def test_fewer_layers_than_weights_is_refused(folder, home):
    with pytest.raises(checkpoints.Disagreement) as refusal:
        checkpoints.check(opened(small.edit(folder("llama"), num_hidden_layers=1), home))
    assert len(refusal.value.verdict.unexpected) == 9 and not refusal.value.verdict.missing


def test_wrong_width_and_wrong_vocabulary_name_both_shapes(folder, home):
    with pytest.raises(checkpoints.Disagreement) as refusal:
        checkpoints.check(opened(small.edit(folder("llama"), vocab_size=301), home))
    assert "mismatched: lm_head.weight is 300×16, config wants 301×16" in refusal.value.details


def test_untied_head_that_is_missing_is_not_taken_for_a_tied_one(folder, home):
    broken = folder("llama")
    arrays = small.tensors(broken)
    del arrays["lm_head.weight"]
    with pytest.raises(checkpoints.Disagreement, match="1 would be random"):
        checkpoints.check(opened(small.rewrite(broken, arrays), home))
    small.edit(broken, tie_word_embeddings=True)
    assert checkpoints.check(opened(broken, home)).agrees


def test_base_model_names_without_prefix_load(folder, home, saved):
    """The hub's own gpt2 has `h.0…` without `transformer.` and old attention masks among its tensors."""
    bare = folder("gpt2")
    arrays = {name.removeprefix("transformer."): value for name, value in small.tensors(bare).items()}
    small.rewrite(bare, arrays | {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 32, 32), np.float32)) for i in range(2)})
    model, _ = checkpoints.load(opened(bare, home))
    assert torch.equal(model.transformer.h[1].mlp.c_fc.weight, plain(saved / "gpt2").transformer.h[1].mlp.c_fc.weight)


def test_nan_weights_are_refused_by_name_unless_asked_for(folder, home):
    broken = folder("llama")
    arrays = small.tensors(broken)
    arrays["model.layers.1.mlp.up_proj.weight"][3, 2] = np.nan
    checkpoint = opened(small.rewrite(broken, arrays), home)
    with pytest.raises(Refused, match="1 tensors hold NaN or infinity .the first is model.layers.1.mlp.up_proj.weight"):
        checkpoints.load(checkpoint)
    assert checkpoints.load(checkpoint, finite=False)[0].model.layers[1].mlp.up_proj.weight[3, 2].isnan()


def test_alias_is_bound_to_the_content(folder, home):
    changed = folder("gpt2")
    checkpoint = opened(changed, home)
    assert checkpoints.resolve(checkpoint.source, home).fingerprint == checkpoint.fingerprint
    arrays = small.tensors(changed)
    arrays["transformer.wpe.weight"][0, 0] += 1
    small.rewrite(changed, arrays)
    with pytest.raises(Refused, match="the files were changed"):
        checkpoints.resolve(checkpoint.source, home)
    assert opened(changed, home).source != checkpoint.source


def test_fingerprint_is_of_the_content_not_of_the_place(folder, saved, home, tmp_path):
    moved = Path(shutil.copytree(saved / "llama", tmp_path / "elsewhere"))
    assert opened(moved, home).fingerprint == opened(saved / "llama", home).fingerprint
    assert opened(small.edit(moved, rms_norm_eps=1e-3), home).fingerprint != opened(saved / "llama", home).fingerprint


def test_a_loaded_model_does_not_change_with_its_file(folder, home):
    changed = folder("llama")
    model, _ = checkpoints.load(opened(changed, home))
    before = model.lm_head.weight.clone()
    with (changed / "model.safetensors").open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\0" * 4096)
    assert torch.equal(model.lm_head.weight, before)


def test_memory_is_refused_with_numbers(saved, home, monkeypatch):
    monkeypatch.setattr(checkpoints, "available", lambda device: 200 << 20)
    with pytest.raises(Refused, match=r"needs 0\.00 GB on cpu and 0\.21 GB are free"):
        checkpoints.load(opened(saved / "gpt2", home))


def test_tokenizer_larger_than_the_vocabulary_is_refused(folder, home):
    broken = folder("gpt2")
    vocabulary.numbers(400).save_pretrained(broken)
    with pytest.raises(Refused, match="ids up to 399, the model knows 300"):
        checkpoints.load(opened(broken, home))


def test_without_tokenizer_the_model_loads_and_says_so(folder, home):
    bare = folder("gpt2")
    for path in bare.glob("*token*"):
        path.unlink()
    checkpoint = opened(bare, home)
    assert not checkpoint.has_tokenizer and checkpoints.load(checkpoint)[1] is None


def test_byte_level_and_numbers_say_back_what_they_read():
    text = "Mia’s fox — 12 + 3\n\x00ß"
    assert vocabulary.byte_level(256)(text)["input_ids"] == list(text.encode())
    assert vocabulary.byte_level(256).decode(list(text.encode())) == text
    assert vocabulary.numbers(3)("0 2 1 1")["input_ids"] == [0, 2, 1, 1]
    with pytest.raises(Refused, match="needs 256"):
        vocabulary.byte_level(3)


@pytest.mark.parametrize("source", ["", "demo", "demo/../secret", "shelf/../../etc", "/etc/passwd", "a/b/c/d", "owner/na me", "demo/none", "shelf/none", "demo/x\x00"])
def test_what_is_no_model_gets_a_sentence(home, source):
    with pytest.raises(Refused):
        checkpoints.resolve(source, home)


def test_hub_without_a_network_gets_a_sentence(home, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Refused, match="is not on this machine and the hub is switched off"):
        hub.fetch("someone/some-model", None, home)
    with pytest.raises(Refused, match="not on this machine yet. Fetch it first"):
        checkpoints.resolve("someone/some-model", home)


def test_demo_models_stand_first_and_training_steps_have_names(saved, home, tmp_path):
    demo = tmp_path / "demo"
    shutil.copytree(saved / "gpt2", demo / "storyteller-a")
    shutil.copytree(saved / "gpt2", demo / "storyteller-a-steps" / "step-000500")
    (demo / "storyteller-a" / "card.json").write_text(json.dumps({"perplexity": 3.1}))
    shelf.register(saved / "llama", home)
    sources = [entry.source for entry in shelf.shelf(home, demo=demo)]
    assert sources[:2] == ["demo/storyteller-a", "demo/storyteller-a-steps/step-000500"] and sources[2].startswith("shelf/llama-")
    assert checkpoints.resolve("demo/storyteller-a", home, demo=demo).card == {"perplexity": 3.1}
    assert checkpoints.resolve(sources[1], home, demo=demo).kind == "demo"


def test_local_folders_are_off_while_serving_others(saved, home, monkeypatch):
    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    with pytest.raises(Refused, match="while the app serves others"):
        shelf.register(saved / "gpt2", home)


def test_resolve_needs_no_torch(saved, home):
    """A page that only names a model must not pay for torch and transformers."""
    import subprocess
    import sys

    alias = shelf.register(saved / "gpt2", home)
    code = f"import sys; from pathlib import Path; from models import checkpoints; checkpoints.resolve('shelf/{alias}', Path({str(home)!r})); " \
           "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1])


@real
@pytest.mark.parametrize("name, tokenizer_expected", [("stories260K", True), ("nano-gpt-sort", False)])
def test_real_checkpoints_load_run_and_match_transformers_and_the_bridge(home, name, tokenizer_expected):
    checkpoint = opened(DATA / name, home)
    model, tokenizer = checkpoints.load(checkpoint)
    assert (tokenizer is not None) == tokenizer_expected
    ids = torch.randint(model.config.vocab_size, (3, 11), generator=torch.Generator().manual_seed(1))
    logits = model(input_ids=ids).logits
    assert torch.equal(logits, plain(DATA / name)(input_ids=ids).logits)
    assert checkpoints.plain_vs_bridge(checkpoint) < 1e-4 * float(logits.abs().max())


@real
def test_the_sorting_model_sorts(home):
    """Ground truth: after six numbers it writes them sorted (shared data's SOURCE.txt)."""
    model, _ = checkpoints.load(opened(DATA / "nano-gpt-sort", home))
    numbers = [2, 0, 1, 1, 0, 2]
    ids = torch.tensor([numbers])
    for _ in range(6):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    assert ids[0, 6:].tolist() == sorted(numbers)


def test_layers_that_do_not_fit_stay_on_disk_with_the_same_logits(saved, home):
    checkpoint = opened(saved / "llama", home)
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        expected = checkpoints.load(checkpoint)[0](input_ids=ids).logits
        model, _ = checkpoints.load(checkpoint, device="offload", room={"cpu": 30_000})
        assert "disk" in model.hf_device_map.values() and torch.equal(model(input_ids=ids).logits, expected)


def test_self_check_names_what_is_wrong(saved, home):
    """The same four checks on a random model, on one whose block adds something unmapped, and on one that overflows."""
    from models import selfcheck

    model, tokenizer = checkpoints.load(opened(saved / "llama", home))
    honest = selfcheck.run(model, tokenizer)
    assert honest.passed and honest.map_error < 1e-6 and honest.attention_error < 1e-5 and "no better than chance" in honest.lines[3]
    hook = model.model.layers[1].register_forward_hook(lambda m, args, out: out + 1)
    assert selfcheck.run(model, tokenizer).map_error > 0.1 and not selfcheck.run(model, tokenizer).passed
    hook.remove()
    model.model.norm.weight.data.fill_(torch.inf)
    broken = selfcheck.run(model, tokenizer)
    assert not broken.finite and not broken.passed and broken.nats_per_token is None


@real
def test_self_check_finds_stories260k_better_than_chance(home):
    from models import selfcheck

    result = selfcheck.run(*checkpoints.load(opened(DATA / "stories260K", home)))
    assert result.passed and result.nats_per_token < 2 < result.chance_nats
