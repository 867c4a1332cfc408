"""A variant written as a folder: plain transformers loads it and gives the same logits, with whole blocks left out."""

import json

import pytest
import torch

from models.layout import layout_for
from models.loaded import Model
from models.refusal import Refused
from models.variant import Step, Variant
from models.folder import export, without_blocks
from tests import tiny

VARIANT = Variant("demo/tiny", steps=(Step("drop_layers", (("blocks", (1,)),)),))


def loaded(module) -> Model:
    return Model(module, tiny.tokenizer(), layout_for(module.config), VARIANT.written)


def plain_logits(folder, ids):
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(input_ids=ids).logits


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama])
@pytest.mark.parametrize("removed, blocks", [(frozenset(), 3), ({(0, "mlp"), (2, "attn")}, 3), ({(0, "attn"), (0, "mlp"), (2, "mlp")}, 2)])
def test_plain_transformers_gives_the_same_logits(make, removed, blocks, tmp_path):
    model = loaded(make())
    model.remove(frozenset(removed))
    said = export(model, VARIANT, "f" * 64, tmp_path / "out", "abc123")
    ids = torch.arange(24).reshape(2, 12)
    assert (plain_logits(tmp_path / "out", ids) - model.logits(ids)).abs().max() < 1e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.get("n_layer", config.get("num_hidden_layers")) == blocks
    assert (f"{3 - blocks} of 3 blocks left out" in said) == (blocks < 3)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names and not any(n.endswith(".bin") for n in names)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_card_holds_the_recipe_and_no_path(tmp_path):
    export(loaded(tiny.gpt2()), VARIANT, "f" * 64, tmp_path / "out", "abc123")
    card = (tmp_path / "out" / "README.md").read_text()
    assert Variant.from_json(json.loads(card.partition("```json\n")[2].partition("\n```")[0])) == VARIANT
    assert str(tmp_path) not in card and str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()


def test_blocks_that_share_tensors_get_their_own(tmp_path):
    """transformers refuses to save sharing that a config does not declare; the tied head of GPT-2 stays tied."""
    model = loaded(tiny.gpt2())
    for name in model.layout.matrices():
        model.set_matrix(1, name, model.matrix(0, name), model.blocks[0].get_submodule(name).bias)
    export(model, VARIANT, "f" * 64, tmp_path / "out")
    ids = torch.arange(24).reshape(2, 12)
    assert (plain_logits(tmp_path / "out", ids) - model.logits(ids)).abs().max() < 1e-5
    from safetensors import safe_open

    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys() and "transformer.h.1.attn.c_proj.weight" in file.keys()


def test_tensors_that_do_not_fit_are_refused(tmp_path):
    module = tiny.llama()
    model = loaded(module)
    module.config.intermediate_size = 20  # as if matrices had been sliced without saying so
    with pytest.raises(Refused, match="do not fit its config; nothing was written"):
        export(model, VARIANT, "f" * 64, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_model_in_memory_is_left_as_it_was(tmp_path):
    model = loaded(tiny.llama())
    model.remove(frozenset({(1, "attn"), (1, "mlp")}))
    before = model.logits(torch.arange(12)[None])
    assert without_blocks(model).config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == 3 and len(model.blocks) == 3
    assert torch.equal(model.logits(torch.arange(12)[None]), before)


def test_a_model_whose_blocks_differ_by_position_keeps_zeros(tmp_path, monkeypatch):
    """GPT-2 that scales attention by the block's index: leaving block 0 out would shift the others."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=3, n_embd=16, n_head=2, n_positions=64, vocab_size=32, scale_attn_by_inverse_layer_idx=True)
    module = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for block in module.transformer.h:
            block.attn.c_attn.weight.mul_(40)
    model = loaded(module)
    model.remove(frozenset({(0, "attn"), (0, "mlp")}))
    said = export(model, VARIANT, "f" * 64, tmp_path / "out")
    assert "kept as zeros" in said and json.loads((tmp_path / "out" / "config.json").read_text())["n_layer"] == 3
    ids = torch.arange(24).reshape(2, 12)
    assert (plain_logits(tmp_path / "out", ids) - model.logits(ids)).abs().max() < 1e-5


def test_a_folder_that_would_differ_is_not_written(tmp_path):
    class Lying(Model):
        def logits(self, ids, mask=None):
            return super().logits(ids, mask) + 1

    module = tiny.gpt2()
    with pytest.raises(Refused, match="nothing was written"):
        export(Lying(module, tiny.tokenizer(), layout_for(module.config), "x"), VARIANT, "f" * 64, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
