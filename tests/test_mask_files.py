"""Masks made elsewhere: converted from a pickle without running it, kept by content, laid over a model, refused in words."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from analysis.bigram_subnetwork import imported
from metrics import subnetworks
from models import convert_masks, mask_files
from models.layout import is_conv1d
from models.refusal import Refused
from models.shape import shape_of
from tests.operator_bench import model_of
from tests.test_metrics_removal import neox

MODELS = {"gpt2": lambda: model_of("gpt2"), "llama": lambda: model_of("llama"), "neox": neox}


def dictionary(model, seed=0) -> dict:
    """As the authors publish: Hugging Face names, the parameters' own orientation."""
    rng = np.random.default_rng(seed)
    out = {}
    for m in shape_of(model).matrices:
        module = model.blocks[m.layer].get_submodule(m.name)
        out[f"{model.layout.blocks}.{m.layer}.{m.name}.weight"] = rng.random(tuple(module.weight.shape)) < 0.2
    return {**out, "orig_model_name": "tiny/model"}


@pytest.mark.parametrize("family", MODELS)
def test_published_pickle_to_subnetwork(family, tmp_path, capsys):
    model = MODELS[family]()
    published = dictionary(model)
    source, target = tmp_path / "subnetwork_dict_lambda1e1.pickle", tmp_path / "out.safetensors"
    source.write_bytes(pickle.dumps(published, protocol=pickle.HIGHEST_PROTOCOL))
    assert convert_masks.main([str(source), str(target)]) == 0
    n = sum(int(v.sum()) for k, v in published.items() if k != "orig_model_name")
    assert f"{n:,} of " in capsys.readouterr().out
    name = mask_files.add(target, "Pythia 160M λ=10.safetensors", tmp_path / "home")
    assert mask_files.NAME.match(name) and mask_files.known(tmp_path / "home") == (name,)
    assert mask_files.add(target, "Pythia 160M λ=10.safetensors", tmp_path / "home") == name
    masks = imported.read(name, tmp_path / "home", model)
    assert subnetworks.n_active(masks) == n and mask_files.read(name, tmp_path / "home").original == "tiny/model"
    for m in shape_of(model).matrices:
        mine = published[f"{model.layout.blocks}.{m.layer}.{m.name}.weight"]
        transposed = is_conv1d(model.blocks[m.layer].get_submodule(m.name))
        assert np.array_equal(masks[m.key].numpy(), mine.T if transposed else mine)
    kept = subnetworks.subnetwork(model, masks)  # as the authors apply it: weight times mask, in the parameter's orientation
    for parameter, mask in published.items():
        if parameter != "orig_model_name":
            assert torch.equal(kept.module.get_parameter(parameter), model.module.get_parameter(parameter) * torch.from_numpy(mask))


def test_plain_masks_are_read_too(tmp_path):
    model = model_of("llama")
    published = dictionary(model)
    published.pop("orig_model_name")
    save_file({k: v if i % 2 else v.astype(np.uint8) for i, (k, v) in enumerate(published.items())}, tmp_path / "plain.safetensors")
    name = mask_files.add(tmp_path / "plain.safetensors", "plain", tmp_path)
    assert subnetworks.n_active(imported.read(name, tmp_path, model)) == sum(int(v.sum()) for v in published.values())


class Evil:
    def __reduce__(self):
        return (print, ("it ran",))


def test_pickles_are_refused_and_never_run(tmp_path, capsys):
    file = tmp_path / "mask.pickle"
    file.write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(Refused, match="python -m models.convert_masks"):
        mask_files.add(file, "mask.pickle", tmp_path)
    renamed = tmp_path / "mask.safetensors"
    renamed.write_bytes(file.read_bytes())
    with pytest.raises(Refused, match="is a pickle"):
        mask_files.add(renamed, "mask.safetensors", tmp_path)
    assert convert_masks.main([str(file), str(tmp_path / "out.safetensors")]) == 1
    told = capsys.readouterr()
    assert "it ran" not in told.out and "builtins.print" in told.err and not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("content,words", [
    (b"", "cannot be read"), (b"nonsense", "cannot be read"), (pickle.dumps([1]), "holds a list"), (pickle.dumps({}), "holds no masks"),
    (pickle.dumps({"a": np.full((2, 2), 0.5)}), "not a mask"), (pickle.dumps({"a": np.zeros(3, bool)}), "not a mask"), (pickle.dumps({"a": "x"}), "not a mask"),
])
def test_what_is_no_table_of_masks_is_refused(tmp_path, content, words):
    (tmp_path / "in.pickle").write_bytes(content)
    with pytest.raises(Refused, match=words):
        convert_masks.convert(tmp_path / "in.pickle", tmp_path / "out.safetensors")


def test_wrong_files_and_wrong_models_are_refused(tmp_path):
    save_file({"a": np.full((2, 3), 2, np.uint8)}, tmp_path / "weights.safetensors")
    with pytest.raises(Refused, match="other numbers than 0 and 1"):
        mask_files.add(tmp_path / "weights.safetensors", "weights", tmp_path)
    save_file({"a": np.zeros((2, 3), np.float32)}, tmp_path / "floats.safetensors")
    with pytest.raises(Refused, match="a mask is BOOL or U8"):
        mask_files.add(tmp_path / "floats.safetensors", "floats", tmp_path)
    save_file({"a": np.zeros((2, 3), np.uint8)}, tmp_path / "packed.safetensors", {"columns": '{"a": 99}'})
    with pytest.raises(Refused, match="do not hold 99 columns"):
        mask_files.add(tmp_path / "packed.safetensors", "packed", tmp_path)
    model, bigger = model_of("llama"), model_of("llama", n_layers=4)
    for made_for, laid_over, words in ((bigger, model, "is not one of"), (model, bigger, "has no mask for"), (model, model_of("gpt2"), "has no mask for")):
        mask_files.write(tmp_path / "m.safetensors", {k: v for k, v in dictionary(made_for).items() if k != "orig_model_name"}, "tiny/model")
        name = mask_files.add(tmp_path / "m.safetensors", "m", tmp_path)
        with pytest.raises(Refused, match=words):
            imported.read(name, tmp_path, laid_over)
    for name in ("masks/none-000000000000", "masks/../texts", "elsewhere"):
        with pytest.raises(Refused, match="There is no mask"):
            mask_files.read(name, tmp_path)
