"""A config from names and shapes, where the upload brought none: what they tell is told, the rest is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from models.refusal import Refused, shown


@dataclass(frozen=True)
class Question:
    """Something shapes cannot tell. `default` is a proposal, shown as such; `options` are all it may be, if few."""

    field: str
    text: str
    default: int | float | str | bool
    options: tuple = ()


@dataclass(frozen=True)
class Guess:
    """Fields for config.json, a line on where each came from, and what must be asked."""

    fields: dict
    told: tuple[str, ...]
    questions: tuple[Question, ...]


def activation_question(options: tuple[str, ...], hint: str, field: str = "activation_function") -> Question:
    return Question(field, f"Which activation? {hint}.", options[0], options)


def epsilon_question(field: str) -> Question:
    return Question(field, "Which epsilon in the norms? Shapes cannot tell; 1e-5 is usual.", 1e-5)


def infer(shapes: dict[str, tuple[int, ...]]) -> Guess:
    """Recognise GPT-2, GPT-NeoX, Llama, Qwen2 and Qwen3 by their names; Refused for any other."""
    names = {name.removeprefix("transformer."): shape for name, shape in shapes.items()}
    try:
        if "h.0.attn.c_attn.weight" in names and "wpe.weight" in names:
            return _gpt2(names)
        if "gpt_neox.layers.0.attention.query_key_value.weight" in names:
            return _neox(names)
        bare = {name.removeprefix("model."): shape for name, shape in shapes.items()}
        if {"layers.0.self_attn.q_proj.weight", "layers.0.mlp.gate_proj.weight", "embed_tokens.weight"} <= set(bare):
            return _llama(bare)
    except (KeyError, IndexError, ValueError) as error:
        raise Refused(f"The tensor names look familiar but {shown(str(error), 80)} is missing or has an odd shape. Add the config.json saved with the weights.") from error
    some = shown(", ".join(list(shapes)[:3]), 160)
    raise Refused(f"Found no config.json, and the tensor names ({some}…) are of no architecture recognised by shape. Add the config.json saved with the weights; the tensors can be inspected without.")


def answered(guess: Guess, answers: dict) -> dict:
    """The fields with answers filled in; Refused for an answer that is not offered or not of the default's type."""
    fields = dict(guess.fields)
    for question in guess.questions:
        value = answers.get(question.field, question.default)
        wanted = float if isinstance(question.default, float) else type(question.default)
        if type(value) is int and wanted is float:
            value = float(value)
        if type(value) is not wanted or (question.options and value not in question.options):
            offered = f"one of {', '.join(map(str, question.options[:20]))}" if question.options else f"a value like {question.default}"
            raise Refused(f"{question.field} = {shown(value, 40)} is not possible here; expected {offered}.")
        fields[question.field] = value
    return fields


def _layers(names: dict, prefix: str) -> int:
    found = sorted({int(m[1]) for m in (re.match(re.escape(prefix) + r"(\d+)\.", name) for name in names) if m})
    if found != list(range(len(found))):
        missing = sorted(set(range(found[-1])) - set(found))
        raise Refused(f"The weights have blocks up to {found[-1]} but {len(missing)} are missing (the first is {missing[0]}). A shard is missing: add it.")
    return len(found)


def _gpt2(names: dict) -> Guess:
    from models.intake.foreign import heads_question

    vocab, width = names["wte.weight"]
    layers = _layers(names, "h.")
    fields = {"model_type": "gpt2", "n_layer": layers, "n_embd": width, "vocab_size": vocab, "n_positions": names["wpe.weight"][0],
              "n_inner": names["h.0.mlp.c_fc.weight"][1], "tie_word_embeddings": "lm_head.weight" not in names}
    told = (f"GPT-2 names: {layers} blocks of width {width}, vocabulary {vocab:,}, {fields['n_positions']:,} positions",)
    return Guess(fields, told, (heads_question("n_head", width), activation_question(("gelu_new", "gelu", "relu"), "GPT-2 itself uses gelu_new"), epsilon_question("layer_norm_epsilon")))


def _neox(names: dict) -> Guess:
    from models.intake.foreign import heads_question

    vocab, width = names["gpt_neox.embed_in.weight"]
    layers = _layers(names, "gpt_neox.layers.")
    fields = {"model_type": "gpt_neox", "num_hidden_layers": layers, "hidden_size": width, "vocab_size": vocab,
              "intermediate_size": names["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"][0], "tie_word_embeddings": False}
    told = (f"GPT-NeoX names: {layers} blocks of width {width}, vocabulary {vocab:,}",)
    questions = (
        heads_question("num_attention_heads", width), Question("rotary_pct", "Which part of each head is rotated? Pythia: 0.25.", 0.25),
        Question("use_parallel_residual", "Do attention and MLP run in parallel? Pythia: yes.", True),
        Question("max_position_embeddings", "How long a context was it trained on?", 2048),
        activation_question(("gelu", "gelu_new", "gelu_fast", "relu"), "Pythia uses gelu", "hidden_act"), epsilon_question("layer_norm_eps"),
    )
    return Guess(fields, told, questions)


def _llama(names: dict) -> Guess:
    vocab, width = names["embed_tokens.weight"]
    layers = _layers(names, "layers.")
    queries, keys = names["layers.0.self_attn.q_proj.weight"][0], names["layers.0.self_attn.k_proj.weight"][0]
    fields = {"hidden_size": width, "num_hidden_layers": layers, "vocab_size": vocab, "tie_word_embeddings": "lm_head.weight" not in names,
              "intermediate_size": names["layers.0.mlp.gate_proj.weight"][0], "hidden_act": "silu"}
    if "layers.0.self_attn.q_norm.weight" in names:
        kind, size = "qwen3", names["layers.0.self_attn.q_norm.weight"][0]
    elif "layers.0.self_attn.q_proj.bias" in names:
        kind, size = "qwen2", None
    else:
        kind, size = "llama", None
    told = [f"{kind} names: {layers} blocks of width {width}, vocabulary {vocab:,}, keys {queries // keys} times narrower than queries"]
    sizes = [size] if size else [s for s in range(2, min(keys, 512) + 1, 2) if keys % s == 0 and queries % s == 0]
    best = min(sizes, key=lambda s: abs(s - (128 if width >= 4096 else 64)))
    questions = (
        Question("head_dim", f"How large is a head? Queries have {queries} rows, keys {keys}.", best, tuple(sizes)),
        Question("rope_theta", "Which rotary base? Llama 2: 10000, Llama 3: 500000, Qwen: 1000000.", 10000.0), epsilon_question("rms_norm_eps"),
        Question("max_position_embeddings", "How long a context was it trained on?", 2048),
    )
    return Guess({"model_type": kind, **fields, "_rows": [queries, keys]}, tuple(told), questions)


def finish(fields: dict) -> dict:
    """Fields that follow from answers: head counts from rows and head size."""
    fields = dict(fields)
    rows = fields.pop("_rows", None)
    if rows:
        fields["num_attention_heads"], fields["num_key_value_heads"] = (n // fields["head_dim"] for n in rows)
    return fields
