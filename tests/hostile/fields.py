"""Configs, tokenizers, adapters and GGUFs that ask for too much, for code, or for other models."""

import json
import shutil
import struct

import numpy as np

from hostile import small
from hostile.cases import LOADS, case


def model(into, good, **fields):
    """The honest model with fields of its config changed."""
    for path in good.iterdir():
        shutil.copy(path, into)
    return small.edit(into, **fields) if fields else into


@case("config size", "n_layer = 1,000,000,000; expected 1 to 1,024")
def a_billion_layers(into, good, canary):
    model(into, good, n_layer=10**9)


@case("config size", "Found 2 blocks of weights.*expected 1,000 blocks")
def a_thousand_layers(into, good, canary):
    model(into, good, n_layer=1_000)


@case("config size", "expected 3 blocks, from config.json: of the tensors 12 would be random")
def one_layer_too_many(into, good, canary):
    model(into, good, n_layer=3)


@case("config size", "expected 1 blocks, from config.json: of the tensors 1[12] would be dropped")
def one_layer_too_few(into, good, canary):
    model(into, good, n_layer=1)


@case("config size", "vocab_size = 1,000,000,000,000")
def a_trillion_tokens(into, good, canary):
    model(into, good, vocab_size=10**12)


@case("config size", "have another shape")
def wrong_vocabulary(into, good, canary):
    model(into, good, vocab_size=50_257)


@case("config size", "a number of [0-9]+ bits|not valid JSON")
def a_number_of_five_thousand_digits(into, good, canary):
    model(into, good)
    text = (into / "config.json").read_text()
    (into / "config.json").write_text(text.replace('"n_embd": 16', f'"n_embd": {"9" * 4_000}'))


@case("config size", "asks for [0-9,]+ GB of masks and tables")
def masks_of_a_quarter_petabyte(into, good, canary):
    """GPT-Neo keeps a mask of positions × positions: 2^24 positions are 256 TB."""
    import torch
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(0)
    GPTNeoForCausalLM(GPTNeoConfig(num_layers=2, hidden_size=16, num_heads=2, vocab_size=300, max_position_embeddings=32, attention_types=[[["global", "local"], 1]])).save_pretrained(into)
    small.edit(into, max_position_embeddings=1 << 24)


@case("config size", "n_head = 0")
def no_heads(into, good, canary):
    model(into, good, n_head=0)


@case("config broken", "No GPT2LMHeadModel can be built|is not a gpt2 config")
def heads_that_do_not_divide_the_width(into, good, canary):
    model(into, good, n_head=7)


@case("config broken", "is not a gpt2 config")
def layers_as_text(into, good, canary):
    model(into, good, n_layer="two")


@case("config broken", "can be built|is not a gpt2 config|does not run")
def activation_that_is_code(into, good, canary):
    model(into, good, activation_function="__import__.os.system")


@case("config broken", "not valid JSON|not what its ending says")
def config_that_is_a_web_page(into, good, canary):
    model(into, good)
    (into / "config.json").write_text("<html>not found</html>")


@case("config broken", "is not a number")
def config_with_nan(into, good, canary):
    model(into, good)
    (into / "config.json").write_text('{"model_type": "gpt2", "n_layer": NaN}')


@case("config broken", "not a table of fields")
def config_that_is_a_list(into, good, canary):
    model(into, good)
    (into / "config.json").write_text("[1, 2]")


@case("config broken", "appears twice")
def config_that_says_it_twice(into, good, canary):
    model(into, good)
    (into / "config.json").write_text('{"model_type": "gpt2", "n_layer": 2, "n_layer": 200000}')


@case("config broken", "names no architecture")
def config_without_architecture(into, good, canary):
    model(into, good)
    (into / "config.json").write_text('{"n_layer": 2}')


@case("config broken", "nested deeper|not valid JSON|not a table|needs more memory")
def config_nested_deep(into, good, canary):
    model(into, good)
    (into / "config.json").write_text('{"a":' * 200_000)


@case("config code", LOADS)
def auto_map_with_code_beside(into, good, canary):
    model(into, good, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    (into / "evil.py").write_text(f"open({str(canary)!r}, 'w')")


@case("config code", LOADS)
def attention_from_a_repository(into, good, canary):
    model(into, good, _attn_implementation="someone/kernel", _attn_implementation_internal="someone/kernel", attn_implementation="someone/kernel", _experts_implementation_internal="x/y")


@case("config code", LOADS)
def weights_named_elsewhere(into, good, canary):
    model(into, good, transformers_weights="../../secret.safetensors", _name_or_path="/etc", base_model_tp_plan={"a": "b"}, distributed_config={"x": 1})


@case("config code", LOADS)
def a_billion_labels(into, good, canary):
    model(into, good, num_labels=10**9, id2label={"0": "<script>"}, pruned_heads={"0": [0]})


@case("config code", "asks for quantised weights")
def quantisation_with_code(into, good, canary):
    model(into, good, quantization_config={"quant_method": "gptq", "modules_to_not_convert": ["os.system"]})


@case("config code", "names no architecture")
def architecture_that_is_a_path(into, good, canary):
    model(into, good, model_type="../../evil")


@case("config code", "is not one this app runs")
def architecture_nobody_knows(into, good, canary):
    model(into, good, model_type="evil_custom")


@case("config code", "is not one this app runs")
def architecture_of_pictures(into, good, canary):
    model(into, good, model_type="clip", text_config={"auto_map": {"AutoConfig": "evil.Config"}})


@case("weights", "hold NaN or infinity")
def nan_weights(into, good, canary):
    arrays = small.tensors(model(into, good))
    arrays["transformer.h.0.mlp.c_fc.weight"][0, 0] = np.nan
    small.rewrite(into, arrays)


@case("weights", "hold NaN or infinity")
def infinite_weights(into, good, canary):
    arrays = small.tensors(model(into, good))
    arrays["transformer.wte.weight"][:] = np.inf
    small.rewrite(into, arrays)


@case("weights", "some are NaN or infinite")
def weights_that_overflow(into, good, canary):
    arrays = small.tensors(model(into, good))
    arrays["transformer.ln_f.weight"][:] = 3e38
    arrays["transformer.wte.weight"][:] = 3e38
    small.rewrite(into, arrays)


@case("weights", "stored as F8_E4M3|stored as F4")
def weights_of_eight_bits(into, good, canary):
    model(into, good)
    header, position = {}, 0
    for name, array in small.tensors(good).items():
        header[name] = small.entry(list(array.shape), position, position + array.size, "F8_E4M3")
        position += array.size
    (into / "model.safetensors").write_bytes(small.raw(header, bytes(position)))


def tokenizer(into, good, **changes):
    model(into, good)
    path = into / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@case("tokenizer", "repeats a group that itself repeats")
def regex_that_never_ends(into, good, canary):
    tokenizer(into, good, pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False})


@case("tokenizer", "repeats a group that itself repeats")
def regex_that_never_ends_deeper(into, good, canary):
    inner = {"type": "Replace", "pattern": {"Regex": r"((?:\p{L}|[a-z])*x?)*!"}, "content": ""}
    tokenizer(into, good, normalizer={"type": "Sequence", "normalizers": [inner]})


@case("tokenizer", "refers back")
def regex_with_back_reference(into, good, canary):
    tokenizer(into, good, pre_tokenizer={"type": "Split", "pattern": {"Regex": r"(.*)\1"}, "behavior": "Isolated", "invert": False})


@case("tokenizer", "ids up to 9,999, the model knows 300")
def tokenizer_of_another_model(into, good, canary):
    model(into, good)
    table = json.loads((into / "tokenizer.json").read_text())
    table["model"]["vocab"] |= {f"word{i}": i for i in range(256, 10_000)}
    (into / "tokenizer.json").write_text(json.dumps(table))


@case("tokenizer", "ids up to 4,294,967,295; no model")
def token_of_id_four_billion(into, good, canary):
    model(into, good)
    table = json.loads((into / "tokenizer.json").read_text())
    table["model"]["vocab"]["zz"] = 2**32 - 1
    (into / "tokenizer.json").write_text(json.dumps(table))


@case("tokenizer", "not valid JSON")
def tokenizer_cut_short(into, good, canary):
    model(into, good)
    text = (into / "tokenizer.json").read_text()
    (into / "tokenizer.json").write_text(text[: len(text) // 2])


@case("tokenizer", "tokenizer.json cannot be read")
def tokenizer_of_no_kind(into, good, canary):
    tokenizer(into, good, model={"type": "Evil", "vocab": {}})


@case("tokenizer", LOADS)
def tokenizer_with_code(into, good, canary):
    model(into, good)
    (into / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tok", None]}, "tokenizer_class": "Evil", "chat_template": "{{ ''.__class__ }}"}))
    (into / "evil.py").write_text(f"open({str(canary)!r}, 'w')")


@case("tokenizer", "Found tokenizer.model without tokenizer.json")
def sentencepiece_of_noise(into, good, canary):
    model(into, good)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (into / name).unlink(missing_ok=True)
    (into / "tokenizer.model").write_bytes(bytes(range(256)) * 40)


@case("tokenizer", "fails on plain text|cannot be read|does not run")
def byte_pairs_that_lead_nowhere(into, good, canary):
    model(into, good)
    table = json.loads((into / "tokenizer.json").read_text())
    table["model"]["merges"] = [["zq", "qz"]]
    (into / "tokenizer.json").write_text(json.dumps(table))


@case("gguf", "cannot be read as a GGUF")
def gguf_cut_short(into, good, canary):
    (into / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 5, 7))


@case("gguf", "cannot be read as a GGUF|more memory|was stopped")
def gguf_of_2_to_the_60_tensors(into, good, canary):
    (into / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60) + bytes(4_096))


@case("gguf", "cannot be read as a GGUF|more memory|was stopped")
def gguf_of_arrays_of_arrays(into, good, canary):
    key = struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9)
    (into / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + struct.pack("<IQ", 9, 1) * 100_000)


@case("gguf", "together with other weights")
def gguf_and_safetensors(into, good, canary):
    model(into, good)
    (into / "model.gguf").write_bytes(b"GGUF" + bytes(64))


def adapter(into, **settings):
    from safetensors.numpy import save_file

    save_file({"base_model.model.x.lora_A.weight": np.ones((2, 4), np.float32), "base_model.model.x.lora_B.weight": np.ones((4, 2), np.float32)}, into / "adapter_model.safetensors")
    (into / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "gpt2", **settings}))


@case("adapter", "Choose its base on the shelf")
def adapter_whose_base_is_a_path(into, good, canary):
    adapter(into, base_model_name_or_path="../../../../etc/<script>", auto_mapping={"base_model_class": "os.system"})


@case("adapter", "is not of a LoRA adapter")
def adapter_of_another_kind(into, good, canary):
    adapter(into, peft_type="EVIL")


@case("adapter", "changes how it is merged")
def adapter_that_rewrites_layers(into, good, canary):
    adapter(into, layer_replication=[[0, 10**6]])


@case("adapter", "regular expressions")
def adapter_with_a_regex(into, good, canary):
    adapter(into, rank_pattern={"(a+)+$": 4})


@case("adapter", "expected two positive numbers")
def adapter_of_rank_zero(into, good, canary):
    adapter(into, r=0)


@case("adapter", "one is missing")
def adapter_without_config(into, good, canary):
    adapter(into)
    (into / "adapter_config.json").unlink()


@case("other", "no weights; expected")
def config_alone(into, good, canary):
    shutil.copy(good / "config.json", into)


@case("other", "no file of a checkpoint and no weights")
def code_alone(into, good, canary):
    (into / "modeling.py").write_text(f"open({str(canary)!r}, 'w')")


@case("other", "are of no architecture recognised")
def names_of_no_architecture(into, good, canary):
    small.rewrite(into, {"layer.weight": np.ones((3, 3), np.float32)})
