"""What people bring becomes the same function: each conversion is compared with a reference written another way."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import small
from hostile.zygote import Zygote
from safetensors.torch import load_file, save_file

from models import checkpoints, convert, intake, shelf
from models.intake import foreign, infer, isolate
from models.refusal import Refused
from tests.conftest import DATA


@pytest.fixture(scope="module")
def zygote():
    server = Zygote()
    yield server
    server.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    small.gpt2(root / "gpt2")
    small.llama(root / "llama")
    return root


@pytest.fixture
def prepare(zygote, tmp_path):
    """Drop files, get the answer of the fenced task; `answers={}` accepts every proposal."""

    def run(*files: Path, answers=None, serving_others=False, base=None, known=None):
        incoming = tmp_path / "upload" / "incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copy(path, incoming)
        arguments = {"incoming": str(incoming), "folder": str(incoming.parent), "limit": 1 << 30, "serving_others": serving_others, "answers": answers,
                     "base": str(base) if base else None, "known_tokenizer": str(known) if known else None}
        answer = zygote.run("prepare", arguments, incoming.parent, [p for p in (base, known) if p])
        if "refused" in answer:
            raise Refused(answer["refused"], details=tuple(answer["details"]))
        assert "result" in answer, answer
        return answer["result"]

    run.model = tmp_path / "upload" / "model"
    return run


def logits(folder: Path, ids=((5, 7, 11, 2, 3, 90),)):
    model, _ = checkpoints.load(checkpoints.from_folder("upload", folder))
    with torch.inference_mode():
        return model(input_ids=torch.tensor(ids)).logits


def same(a, b):
    return torch.allclose(a, b, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_saved_folder_arrives_unchanged_and_checked(prepare, saved, name):
    outcome = prepare(*(saved / name).iterdir())
    assert outcome["runnable"] and not outcome["questions"] and outcome["form"] == "safetensors"
    assert torch.equal(logits(prepare.model), logits(saved / name))
    assert [line.split(":")[0] for line in outcome["lines"]] == ["Logits", "Attention", "Module map", "Perplexity"]


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tar.zst"])
def test_archives_of_a_sharded_folder(prepare, saved, tmp_path, ending):
    import subprocess

    folder = small.llama(tmp_path / "sharded", max_shard_size="5KB")
    if ending == ".zip":
        archive = Path(shutil.make_archive(tmp_path / "m", "zip", tmp_path, "sharded"))
    elif ending == ".tar.zst":
        import zstandard

        plain = Path(shutil.make_archive(tmp_path / "m", "tar", tmp_path, "sharded"))
        archive = tmp_path / "m.tar.zst"
        archive.write_bytes(zstandard.compress(plain.read_bytes()))
    else:
        archive = tmp_path / f"m{ending}"
        subprocess.run(["tar", "-caf" if ending == ".tar.gz" else "-cf", archive, "-C", tmp_path, "sharded"], check=True)
    assert prepare(archive)["runnable"]
    assert torch.equal(logits(prepare.model), logits(folder))


def test_missing_config_is_inferred_and_the_rest_is_asked(prepare, saved):
    asked = prepare(saved / "llama" / "model.safetensors", saved / "llama" / "tokenizer.json")
    assert [q["field"] for q in asked["questions"]] == ["head_dim", "rope_theta", "rms_norm_eps", "max_position_embeddings"]
    assert 4 in asked["questions"][0]["options"] and not asked["runnable"]
    done = prepare(answers={"head_dim": 4, "rms_norm_eps": 1e-6})
    assert done["runnable"] and done["fields"]["num_key_value_heads"] == 2
    assert same(logits(prepare.model), logits(saved / "llama"))
    assert not same(logits_with(prepare, {"head_dim": 2}), logits(saved / "llama")), "a wrong answer must matter"


def logits_with(prepare, answers):
    prepare(answers=answers)
    return logits(prepare.model)


def test_an_answer_that_is_not_offered_is_refused(prepare, saved):
    with pytest.raises(Refused, match="head_dim = 3 is not possible here"):
        prepare(saved / "llama" / "model.safetensors", answers={"head_dim": 3})


def test_missing_tokenizer_is_asked_for_and_each_choice_works(prepare, saved):
    files = [saved / "gpt2" / "model.safetensors", saved / "gpt2" / "config.json"]
    (question,) = prepare(*files)["questions"]
    assert question["options"] == ["numbers", "byte-level"] and question["default"] == "numbers"
    assert prepare(answers={"tokenizer": "byte-level"})["runnable"]
    assert checkpoints.load(checkpoints.from_folder("upload", prepare.model))[1]("ab")["input_ids"] == [97, 98]
    assert prepare(answers={"tokenizer": "numbers"})["runnable"]
    assert checkpoints.load(checkpoints.from_folder("upload", prepare.model))[1] is None, "token numbers need no file"
    assert prepare(answers={"tokenizer": "known"}, known=saved / "llama")["runnable"]
    assert (prepare.model / "tokenizer.json").read_bytes() == (saved / "llama" / "tokenizer.json").read_bytes()


def test_a_tokenizer_of_another_model_is_told_and_asked_about_again(prepare, saved, tmp_path):
    small.gpt2(tmp_path / "larger", vocab=400)
    (tmp_path / "tokenizer.json").write_text((tmp_path / "larger" / "tokenizer.json").read_text().replace('"a":97', '"a":397').replace('"a": 97', '"a": 397'))
    outcome = prepare(saved / "gpt2" / "model.safetensors", saved / "gpt2" / "config.json", tmp_path / "tokenizer.json", answers={"tokenizer": "none"})
    assert "ids up to 397, the model knows 300" in outcome["problem"] and [q["field"] for q in outcome["questions"]] == ["tokenizer"] and not outcome["runnable"]
    assert prepare(answers={"tokenizer": "numbers"})["runnable"], "what is chosen stands before the file"


def test_pickled_state_dict_and_wrappers(prepare, saved, tmp_path):
    state = {"_orig_mod." + name: tensor for name, tensor in load_file(saved / "gpt2" / "model.safetensors").items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "model.pt")
    outcome = prepare(tmp_path / "model.pt", *(p for p in (saved / "gpt2").glob("*.json")))
    assert outcome["runnable"] and outcome["form"] == "pickle"
    assert torch.equal(logits(prepare.model), logits(saved / "gpt2"))


def test_pickles_are_refused_while_serving_others_with_the_command(prepare, saved, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(Refused, match=r"python -m models.convert model.pt out/"):
        prepare(tmp_path / "model.pt", serving_others=True)


def test_converter_command_line(saved, tmp_path, capsys):
    state = load_file(saved / "gpt2" / "model.safetensors")
    torch.save(state, tmp_path / "in.bin")
    assert convert.main([str(tmp_path / "in.bin"), str(tmp_path / "out")]) == 0
    back = load_file(tmp_path / "out" / "model.safetensors")
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)
    assert convert.main([str(tmp_path / "in.bin"), str(tmp_path / "out")]) == 1, "never overwrites"
    assert "already there" in capsys.readouterr().err


def test_nanogpt(prepare, tmp_path):
    """Against nanoGPT's own forward, written out here in eight lines."""
    torch.manual_seed(0)
    state, width, heads = {}, 8, 2
    shapes = {"wte": (40, width), "wpe": (16, width)}
    state = {f"transformer.{k}.weight": torch.randn(s) for k, s in shapes.items()}
    for i in range(2):
        for name, shape in {"ln_1": (width,), "attn.c_attn": (3 * width, width), "attn.c_proj": (width, width), "ln_2": (width,), "mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}.items():
            state[f"transformer.h.{i}.{name}.weight"] = torch.randn(shape) * 0.3
        state[f"transformer.h.{i}.attn.bias"] = torch.tril(torch.ones(1, 1, 16, 16))
    state |= {"transformer.ln_f.weight": torch.randn(width), "lm_head.weight": state["transformer.wte.weight"]}
    ids = torch.tensor([[3, 1, 39, 20, 7]])

    def block(x, w):
        norm = lambda x, name: torch.nn.functional.layer_norm(x, (width,), w[name])
        q, k, v = (norm(x, "ln_1.weight") @ w["attn.c_attn.weight"].T).split(width, -1)
        q, k, v = (t.view(1, 5, heads, width // heads).transpose(1, 2) for t in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(1, 5, width)
        x = x + y @ w["attn.c_proj.weight"].T
        return x + torch.nn.functional.gelu(norm(x, "ln_2.weight") @ w["mlp.c_fc.weight"].T) @ w["mlp.c_proj.weight"].T

    x = state["transformer.wte.weight"][ids] + state["transformer.wpe.weight"][:5]
    for i in range(2):
        x = block(x, {k.removeprefix(f"transformer.h.{i}."): v for k, v in state.items()})
    expected = torch.nn.functional.layer_norm(x, (width,), state["transformer.ln_f.weight"]) @ state["lm_head.weight"].T

    torch.save({"model": state, "model_args": {"n_head": heads, "n_layer": 2, "bias": False}, "iter_num": 7}, tmp_path / "ckpt.pt")
    outcome = prepare(tmp_path / "ckpt.pt")
    assert [q["field"] for q in outcome["questions"]] == ["activation_function", "tokenizer"] and outcome["fields"]["n_head"] == 2
    assert prepare(answers={})["runnable"]
    assert same(logits(prepare.model, ids.tolist()), expected)




def lens_gpt2_state(hf: dict, layers: int, heads: int, width: int) -> dict:
    """GPT-2 → TransformerLens, written from TransformerLens's definitions with einsum, not from our code."""
    size = width // heads
    state = {"embed.W_E": hf["transformer.wte.weight"], "pos_embed.W_pos": hf["transformer.wpe.weight"]}
    for i in range(layers):
        w, b = hf[f"transformer.h.{i}.attn.c_attn.weight"], hf[f"transformer.h.{i}.attn.c_attn.bias"]
        for n, x in enumerate("QKV"):
            state[f"blocks.{i}.attn.W_{x}"] = torch.stack([w[:, n * width + h * size : n * width + (h + 1) * size] for h in range(heads)])
            state[f"blocks.{i}.attn.b_{x}"] = torch.stack([b[n * width + h * size : n * width + (h + 1) * size] for h in range(heads)])
        out = hf[f"transformer.h.{i}.attn.c_proj.weight"]
        state[f"blocks.{i}.attn.W_O"] = torch.stack([out[h * size : (h + 1) * size] for h in range(heads)])
        state[f"blocks.{i}.attn.b_O"] = hf[f"transformer.h.{i}.attn.c_proj.bias"]
        for mine, theirs in (("mlp.W_in", "mlp.c_fc.weight"), ("mlp.b_in", "mlp.c_fc.bias"), ("mlp.W_out", "mlp.c_proj.weight"), ("mlp.b_out", "mlp.c_proj.bias"),
                             ("ln1.w", "ln_1.weight"), ("ln1.b", "ln_1.bias"), ("ln2.w", "ln_2.weight"), ("ln2.b", "ln_2.bias")):
            state[f"blocks.{i}.{mine}"] = hf[f"transformer.h.{i}.{theirs}"]
        state[f"blocks.{i}.attn.mask"] = torch.tril(torch.ones(32, 32)).bool()
        state[f"blocks.{i}.attn.IGNORE"] = torch.tensor(-torch.inf)
    state |= {"ln_final.w": hf["transformer.ln_f.weight"], "ln_final.b": hf["transformer.ln_f.bias"]}
    return state | {"unembed.W_U": hf["transformer.wte.weight"].T, "unembed.b_U": torch.zeros(len(hf["transformer.wte.weight"]))}


def test_transformer_lens_gpt2(prepare, saved, tmp_path):
    state = lens_gpt2_state(load_file(saved / "gpt2" / "model.safetensors"), 2, 2, 16)
    torch.save(state, tmp_path / "lens.pt")
    outcome = prepare(tmp_path / "lens.pt", answers={})
    assert outcome["runnable"] and outcome["fields"]["n_head"] == 2
    assert same(logits(prepare.model), logits(saved / "gpt2"))


def test_transformer_lens_logit_bias_is_refused_unless_constant(saved):
    state = lens_gpt2_state(load_file(saved / "gpt2" / "model.safetensors"), 2, 2, 16)
    foreign.convert("transformer_lens", state | {"unembed.b_U": torch.full((300,), 0.7)}, {})
    with pytest.raises(Refused, match="unembedding has a bias"):
        foreign.convert("transformer_lens", state | {"unembed.b_U": torch.arange(300.0)}, {})
    with pytest.raises(Refused, match="1 tensors have no place"):
        foreign.convert("transformer_lens", state | {"blocks.0.attn.sinks": torch.ones(2)}, {})


def test_transformer_lens_llama(prepare, saved, tmp_path):
    hf, state = load_file(saved / "llama" / "model.safetensors"), {}
    state["embed.W_E"], state["unembed.W_U"], state["unembed.b_U"] = hf["model.embed_tokens.weight"], hf["lm_head.weight"].T, torch.zeros(300)
    for i in range(2):
        p = f"model.layers.{i}."
        for x, name, n in (("W_Q", "q", 4), ("_W_K", "k", 2), ("_W_V", "v", 2)):
            state[f"blocks.{i}.attn.{x}"] = hf[f"{p}self_attn.{name}_proj.weight"].reshape(n, 4, 16).transpose(1, 2)
        state[f"blocks.{i}.attn.W_O"] = hf[p + "self_attn.o_proj.weight"].T.reshape(4, 4, 16)
        state[f"blocks.{i}.attn.b_Q"] = torch.zeros(4, 4)
        for mine, theirs in (("W_gate", "gate"), ("W_in", "up"), ("W_out", "down")):
            state[f"blocks.{i}.mlp.{mine}"] = hf[f"{p}mlp.{theirs}_proj.weight"].T
        state[f"blocks.{i}.ln1.w"], state[f"blocks.{i}.ln2.w"] = hf[p + "input_layernorm.weight"], hf[p + "post_attention_layernorm.weight"]
    state["ln_final.w"] = hf["model.norm.weight"]
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "lens.safetensors")
    outcome = prepare(tmp_path / "lens.safetensors", answers={"rms_norm_eps": 1e-6})
    assert outcome["runnable"] and outcome["fields"]["num_key_value_heads"] == 2
    assert same(logits(prepare.model), logits(saved / "llama"))


@pytest.mark.parametrize("name, targets, rslora", [("gpt2", ["c_attn", "c_proj"], False), ("llama", ["q_proj", "down_proj"], True)])
def test_adapter_equals_pefts_own_merge(prepare, saved, tmp_path, name, targets, rslora):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(saved / name, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=3, lora_alpha=5, target_modules=targets, use_rslora=rslora, fan_in_fan_out=name == "gpt2", init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    expected = model.merge_and_unload().eval()(input_ids=torch.tensor([[5, 7, 11, 2, 3, 90]])).logits
    files = [tmp_path / "adapter" / n for n in ("adapter_model.safetensors", "adapter_config.json")]
    with pytest.raises(Refused, match="Choose its base on the shelf"):
        prepare(*files)
    outcome = prepare(base=saved / name)
    assert outcome["runnable"] and outcome["form"] == "adapter"
    assert same(logits(prepare.model), expected) and not same(expected, logits(saved / name))


def test_adapter_of_another_base_is_refused(prepare, saved, tmp_path):
    save_file({"base_model.model.model.layers.7.q_proj.lora_A.weight": torch.ones(2, 16), "base_model.model.model.layers.7.q_proj.lora_B.weight": torch.ones(16, 2)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "../../etc"}))
    with pytest.raises(Refused, match="which the base has not"):
        prepare(tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json", base=saved / "llama")


def as_gguf(folder, path, config, kind=None):
    """Our Llama in `folder` as one GGUF, written with the format's own writer; matrices in a quantised `kind`, or float32."""
    import gguf

    hf = {name: tensor.float().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in ((writer.add_block_count, config.num_hidden_layers), (writer.add_context_length, config.max_position_embeddings),
                       (writer.add_embedding_length, config.hidden_size), (writer.add_feed_forward_length, config.intermediate_size),
                       (writer.add_head_count, config.num_attention_heads), (writer.add_head_count_kv, config.num_key_value_heads),
                       (writer.add_layer_norm_rms_eps, 1e-6), (writer.add_rope_freq_base, 10000.0), (writer.add_vocab_size, config.vocab_size),
                       (writer.add_rope_dimension_count, config.hidden_size // config.num_attention_heads)):
        add(value)

    def add(name, w):
        if kind is None or w.ndim < 2:
            writer.add_tensor(name, w)
        else:
            writer.add_tensor(name, gguf.quants.quantize(w, kind), raw_dtype=kind)

    def turned(w, heads):  # llama.cpp interleaves the two halves of each rotary head
        return np.ascontiguousarray(w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape))

    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
             "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for i in range(config.num_hidden_layers):
        for theirs, mine in names.items():
            w = hf[f"model.layers.{i}.{theirs}.weight"]
            add(f"blk.{i}.{mine}.weight", turned(w, heads[mine]) if mine in heads else w)
    for mine, theirs in (("token_embd", "model.embed_tokens"), ("output", "lm_head"), ("output_norm", "model.norm")):
        add(f"{mine}.weight", hf[f"{theirs}.weight"])
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()


def test_gguf(prepare, saved, tmp_path):
    """A float32 GGUF of our Llama: the same logits come out."""
    from transformers import AutoConfig

    as_gguf(saved / "llama", tmp_path / "m.gguf", AutoConfig.from_pretrained(saved / "llama"))
    outcome = prepare(tmp_path / "m.gguf", answers={"tokenizer": "byte-level"})
    assert outcome["runnable"], outcome
    assert outcome["form"] == "gguf" and any("no quantised tensors" in note for note in outcome["notes"])
    assert any("carries no tokenizer" in note for note in outcome["notes"])
    assert same(logits(prepare.model), logits(saved / "llama"))


@pytest.mark.parametrize("kind, off", [("Q8_0", 0.01), ("Q4_0", 0.2)])
def test_quantised_gguf(prepare, tmp_path, kind, off):
    """What runs has exactly the file's weight error: every matrix is the format's own dequantised one, and the page says so."""
    import gguf
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(num_hidden_layers=2, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, vocab_size=300,
                         tie_word_embeddings=False, rms_norm_eps=1e-6)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    quantised = getattr(gguf.GGMLQuantizationType, kind)
    as_gguf(tmp_path / "llama", tmp_path / "m.gguf", config, quantised)
    outcome = prepare(tmp_path / "m.gguf", answers={"tokenizer": "byte-level"})
    assert outcome["runnable"] and any(f"({kind}) was dequantised" in note for note in outcome["notes"])
    before, after = load_file(tmp_path / "llama" / "model.safetensors"), load_file(prepare.model / "model.safetensors")
    w = before["model.layers.1.mlp.down_proj.weight"].float().numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(w, quantised), quantised)
    found = after["model.layers.1.mlp.down_proj.weight"].float().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.abs(w).max())
    assert 0 < np.linalg.norm(found - w) / np.linalg.norm(w) < off


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox"])
def test_inferred_fields_equal_the_config_that_made_the_shapes(kind):
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    common = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 77, "max_position_embeddings": 48, "tie_word_embeddings": False}
    more = {"gpt2": {"n_inner": 80}, "gpt_neox": {"intermediate_size": 80}}.get(kind, {"intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 8})
    config = CONFIG_MAPPING[kind](**common, **more)
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in AutoModelForCausalLM.from_config(config).state_dict().items()}
    guess = infer.infer(shapes)
    fields = infer.finish(infer.answered(guess, {"head_dim": 8} if "head_dim" in more else {}))
    asked = {question.field for question in guess.questions}
    wrong = {name: (value, getattr(config, name)) for name, value in fields.items() if name not in asked and value != getattr(config, name)}
    assert not wrong and fields["model_type"] == kind


def test_a_missing_block_is_not_renumbered():
    with pytest.raises(Refused, match="1 are missing .the first is 1"):
        infer.infer({f"model.layers.{i}.{n}": (8, 8) for i in (0, 2) for n in ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "mlp.gate_proj.weight")} | {"model.embed_tokens.weight": (9, 8)})


def test_the_real_door_runs_in_its_own_process(saved, tmp_path):
    """The same through isolate.run, as the app does it: a fresh interpreter."""
    shutil.copytree(saved / "gpt2", tmp_path / "u" / "incoming")
    outcome = intake.take(tmp_path / "u" / "incoming", tmp_path / "u", limits=isolate.Limits(seconds=240))
    assert outcome.runnable and outcome.model == tmp_path / "u" / "model" and len(outcome.checks) == 4


@pytest.mark.parametrize("name", ["storyteller-a", "storyteller-llama"])
def test_heads_are_proposed_by_how_well_a_text_is_read(prepare, name):
    """Trained models without their config: the true answer of many is proposed (a rotary model), or named among those that read as well."""
    demo = shelf.DEMO / name
    config = json.loads((demo / "config.json").read_text())
    asked = {q["field"]: q for q in prepare(demo / "model.safetensors", demo / "tokenizer.json")["questions"]}
    if config["model_type"] == "gpt2":
        told = asked["n_head"]["text"]
        assert config["n_head"] in (asked["n_head"]["default"], *map(int, re.findall(r"\d+", told.partition("as well as")[2].partition(";")[0])))
        assert asked["n_head"]["default"] != 2 and "; with 2, 1." in told, "the usual size of 64 reads badly"
        assert asked["activation_function"]["default"] == "gelu_new", "which is the config's gelu_pytorch_tanh; relu reads badly"
    else:
        true = config["hidden_size"] // config["num_attention_heads"]
        assert asked["head_dim"]["default"] == true and f"with {true}; with" in asked["head_dim"]["text"]


def test_random_weights_get_no_claim_about_their_heads(prepare, saved):
    asked = {q["field"]: q for q in prepare(saved / "gpt2" / "model.safetensors", saved / "gpt2" / "tokenizer.json")["questions"]}
    assert "no other reads it clearly better" in asked["n_head"]["text"] and "no other" in asked["activation_function"]["text"]


@pytest.mark.skipif(not (DATA / "checkpoints" / "stories260K").is_dir(), reason="stories260K is not on this machine")
def test_a_real_llama_without_its_config_is_read_again(prepare):
    folder = DATA / "checkpoints" / "stories260K"
    outcome = prepare(folder / "model.safetensors", folder / "tokenizer.json")
    (asked,) = [q for q in outcome["questions"] if q["field"] == "head_dim"]
    assert asked["default"] == 8 and "nats per token with 8; with 32" in asked["text"]
    done = prepare(answers={"head_dim": 8, "max_position_embeddings": 512})
    assert done["runnable"] and "better than chance" in done["lines"][-1]
