"""State dicts in nanoGPT's and TransformerLens's names, turned into transformers' where the mapping is certain.

Certain means: every tensor has one place to go, the result computes the same function, and what shapes cannot tell
(activation, number of heads, rotary base, epsilon) is asked, never assumed. Anything left over is a refusal.

Shapes: D width, H heads, G key-value heads, K head size, M MLP width, V vocabulary, P positions.
nanoGPT: linear layers [out, in] where GPT-2 of transformers stores [in, out]; biases may be absent (then zero).
TransformerLens: W_Q [H, D, K], W_O [H, K, D], W_in [D, M], W_out [M, D], W_U [D, V].
"""

from __future__ import annotations

import re

from models.intake.infer import Guess, Question, activation_question, epsilon_question
from models.refusal import Refused, shown

_MASKS = re.compile(r"(\.attn\.(bias|masked_bias|mask|IGNORE)|rotary_(sin|cos)|\.rotary_emb\.inv_freq)\Z")
_NANO_LINEAR = re.compile(r"\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight\Z")


def recognise(shapes: dict[str, tuple[int, ...]]) -> str | None:
    """nanogpt, transformer_lens or None, from names and shapes."""
    if "embed.W_E" in shapes and any(name.startswith("blocks.0.attn.") for name in shapes):
        return "transformer_lens"
    attention, embedding = shapes.get("transformer.h.0.attn.c_attn.weight"), shapes.get("transformer.wte.weight")
    if attention and embedding and len(attention) == 2 and attention == (3 * embedding[-1], embedding[-1]):
        return "nanogpt"
    return None


def convert(kind: str, state: dict, settings: dict) -> tuple[dict, Guess]:
    """(tensors in transformers' names, the config as far as it can be told)."""
    state = {name: tensor for name, tensor in state.items() if not _MASKS.search(name)}
    try:
        if kind == "nanogpt":
            return _nanogpt(state, settings)
        return _lens_llama(state) if "pos_embed.W_pos" not in state else _lens_gpt2(state)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        raise Refused(f"The weights have {kind} names, but {shown(str(error), 120)} does not fit: they are incomplete or of a changed model. Export them with transformers' save_pretrained.") from error


def _nanogpt(state: dict, settings: dict) -> tuple[dict, Guess]:
    import torch

    out = {name: tensor.T if _NANO_LINEAR.search(name) else tensor for name, tensor in state.items()}
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer.h."))
    width = state["transformer.wte.weight"].shape[1]
    hidden = state["transformer.h.0.mlp.c_fc.weight"].shape[0]
    sizes = {"ln_1": width, "attn.c_attn": 3 * width, "attn.c_proj": width, "ln_2": width, "mlp.c_fc": hidden, "mlp.c_proj": width}
    absent = [f"transformer.h.{i}.{part}.bias" for i in range(layers) for part in sizes] + ["transformer.ln_f.bias"]
    absent = [name for name in absent if name not in out]
    for name in absent:
        out[name] = torch.zeros(sizes[re.sub(r"transformer\.h\.\d+\.", "", name).removesuffix(".bias")] if ".h." in name else width)
    head = state.get("lm_head.weight")
    tied = head is None or torch.equal(head, state["transformer.wte.weight"])
    fields = {
        "model_type": "gpt2", "n_layer": layers, "n_embd": width, "vocab_size": state["transformer.wte.weight"].shape[0],
        "n_positions": state["transformer.wpe.weight"].shape[0], "n_inner": hidden, "tie_word_embeddings": tied, "layer_norm_epsilon": 1e-5,
    }
    told = [f"nanoGPT names: {layers} blocks of width {width}, linear layers turned from [out, in] to GPT-2's [in, out]"]
    if absent:
        told.append(f"{len(absent)} biases absent (bias=False): written as zeros, which compute the same")
    questions = [activation_question(("gelu", "gelu_new", "relu"), "nanoGPT uses gelu since 2023, minGPT and older nanoGPT gelu_new")]
    if isinstance(settings.get("n_head"), int) and settings["n_head"] > 0:
        fields["n_head"] = settings["n_head"]
        told.append(f"n_head = {settings['n_head']}: from model_args in the file")
    else:
        questions.insert(0, heads_question("n_head", width))
    return out, Guess(fields, tuple(told), tuple(questions))


def heads_question(field: str, width: int) -> Question:
    """Shapes do not tell heads apart where queries, keys and values lie in one matrix."""
    options = tuple(n for n in range(1, min(width, 256) + 1) if width % n == 0)
    best = min(options, key=lambda n: abs(width / n - 64))
    return Question(field, f"How many attention heads? The shapes allow any divisor of {width}.", best, options)


def _lens_gpt2(state: dict) -> tuple[dict, Guess]:
    import torch

    heads, width, size = state["blocks.0.attn.W_Q"].shape
    if heads * size != width:
        raise Refused(f"TransformerLens weights with {heads} heads of size {size} and width {width}: GPT-2 needs {heads} × {size} = width. No class of transformers has this shape; inspect it instead.")
    if "blocks.0.mlp.W_in" not in state:
        raise Refused("These are TransformerLens weights of an attention-only model; no class of transformers has that. Its tensors can still be inspected.")
    if "blocks.0.mlp.W_gate" in state:
        raise Refused("These TransformerLens weights have learned positions and a gated MLP; no class of transformers has both. Inspect them instead.")
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    take = _Taker(state)
    flat = lambda w: w.permute(1, 0, 2).reshape(width, width)  # [H, D, K] -> [D, H K]
    out = {"transformer.wte.weight": take("embed.W_E"), "transformer.wpe.weight": take("pos_embed.W_pos")}
    folded = "blocks.0.ln1.w" not in state
    for i in range(layers):
        here, there = f"blocks.{i}.", f"transformer.h.{i}."
        out[there + "attn.c_attn.weight"] = torch.cat([flat(take(f"{here}attn.W_{x}")) for x in "QKV"], 1)
        out[there + "attn.c_attn.bias"] = torch.cat([take(f"{here}attn.b_{x}").reshape(width) for x in "QKV"])
        out[there + "attn.c_proj.weight"] = take(here + "attn.W_O").reshape(width, width)
        out[there + "attn.c_proj.bias"] = take(here + "attn.b_O")
        for mine, theirs in (("W_in", "c_fc.weight"), ("b_in", "c_fc.bias"), ("W_out", "c_proj.weight"), ("b_out", "c_proj.bias")):
            out[f"{there}mlp.{theirs}"] = take(f"{here}mlp.{mine}")
        for mine, theirs in (("ln1", "ln_1"), ("ln2", "ln_2")):
            out[f"{there}{theirs}.weight"], out[f"{there}{theirs}.bias"] = _norm(take, here + mine, width, folded)
    out["transformer.ln_f.weight"], out["transformer.ln_f.bias"] = _norm(take, "ln_final", width, folded)
    out["lm_head.weight"] = take("unembed.W_U").T
    _constant_bias(take.pop("unembed.b_U"))
    take.nothing_left()
    vocab, positions = out["transformer.wte.weight"].shape[0], out["transformer.wpe.weight"].shape[0]
    fields = {"model_type": "gpt2", "n_layer": layers, "n_embd": width, "n_head": heads, "vocab_size": vocab, "n_positions": positions,
              "n_inner": out["transformer.h.0.mlp.c_fc.weight"].shape[1], "tie_word_embeddings": torch.equal(out["lm_head.weight"], out["transformer.wte.weight"])}
    told = (f"TransformerLens names: {layers} blocks of width {width}, {heads} heads of size {size}, learned positions: a GPT-2",
            *(("layer norms were folded into the weights: written as weight one, bias zero, which compute the same",) if folded else ()))
    return out, Guess(fields, told, (activation_question(("gelu_new", "gelu", "relu"), "TransformerLens writes it in cfg.act_fn"), epsilon_question("layer_norm_epsilon")))


def _lens_llama(state: dict) -> tuple[dict, Guess]:
    import torch

    if "blocks.0.mlp.W_gate" not in state or "blocks.0.ln1.b" in state:
        raise Refused("These TransformerLens weights have no learned positions and are not of Llama's form (gated MLP, RMS norms); the mapping is not certain. Export them with transformers' save_pretrained.")
    heads, width, size = state["blocks.0.attn.W_Q"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    take = _Taker(state)
    rows = lambda w: w.permute(0, 2, 1).reshape(-1, width)  # [H, D, K] -> [H K, D]
    out, groups, folded = {"model.embed_tokens.weight": take("embed.W_E")}, heads, "blocks.0.ln1.w" not in state
    for i in range(layers):
        here, there = f"blocks.{i}.", f"model.layers.{i}."
        for x in "QKV":
            w = take(f"{here}attn._W_{x}" if f"{here}attn._W_{x}" in state else f"{here}attn.W_{x}")
            groups = w.shape[0] if x == "K" else groups
            out[f"{there}self_attn.{x.lower()}_proj.weight"] = rows(w)
        out[there + "self_attn.o_proj.weight"] = take(here + "attn.W_O").reshape(heads * size, width).T
        for mine, theirs in (("W_gate", "gate_proj"), ("W_in", "up_proj"), ("W_out", "down_proj")):
            out[f"{there}mlp.{theirs}.weight"] = take(f"{here}mlp.{mine}").T
        for mine, theirs in (("ln1", "input_layernorm"), ("ln2", "post_attention_layernorm")):
            out[f"{there}{theirs}.weight"] = torch.ones(width) if folded else take(f"{here}{mine}.w")
    out["model.norm.weight"] = torch.ones(width) if folded else take("ln_final.w")
    out["lm_head.weight"] = take("unembed.W_U").T
    _constant_bias(take.pop("unembed.b_U"))
    for name in [name for name in take.state if re.search(r"\.(_?b_[QKVO]|b_in|b_out|b_gate)\Z", name)]:
        if take(name).abs().max() != 0:
            raise Refused(f"{name} is not zero and Llama has no such bias; the mapping is not certain. Export the model with transformers' save_pretrained.")
    take.nothing_left()
    fields = {"model_type": "llama", "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "num_key_value_heads": groups,
              "head_dim": size, "intermediate_size": out["model.layers.0.mlp.gate_proj.weight"].shape[0],
              "vocab_size": out["model.embed_tokens.weight"].shape[0], "tie_word_embeddings": False}
    told = (f"TransformerLens names: {layers} blocks of width {width}, {heads} heads ({groups} key-value) of size {size}, gated MLP, RMS norms: a Llama",)
    questions = (Question("rope_theta", "Which rotary base? Shapes cannot tell.", 10000.0), epsilon_question("rms_norm_eps"),
                 Question("max_position_embeddings", "How long a context was it trained on?", 2048))
    return out, Guess(fields, told, questions)


def _norm(take: _Taker, name: str, width: int, folded: bool):
    import torch

    return (torch.ones(width), torch.zeros(width)) if folded else (take(name + ".w"), take(name + ".b"))


def _constant_bias(bias) -> None:
    """A bias on the logits that is one number for all tokens changes no probability; any other has no place in these classes."""
    if bias is not None and float(bias.max() - bias.min()) > 1e-6:
        raise Refused("The unembedding has a bias (folded layer norm); transformers' class has none, so the mapping is not exact. Export without fold_ln, or with save_pretrained.")


class _Taker:
    """Hands out tensors by name and knows which were never asked for."""

    def __init__(self, state: dict):
        self.state = dict(state)

    def __call__(self, name: str):
        return self.state.pop(name)

    def pop(self, name: str):
        return self.state.pop(name, None)

    def nothing_left(self) -> None:
        if self.state:
            raise Refused(f"{len(self.state)} tensors have no place in transformers' class (the first is {shown(next(iter(self.state)), 80)}); the mapping is not certain. Inspect them instead.")
