"""Where things are in a transformer: one small map per architecture, in TransformerLens's vocabulary.

A site is the input or the output of a real submodule, so capture needs no rewritten forward:

    resid_pre   input of the block            attn_in   after the first norm     z         input of attention's output matrix
    resid_mid   input of the second norm      attn_out  what attention adds      mlp_in    after the second norm
    resid_post  output of the block           mlp_pre   pre-activation (gate)    mlp_up    the other half of a gated MLP
    final       after the last norm           mlp_post  input of the down matrix mlp_out   what the MLP adds
    mlp_act     the activation itself, for a statistic that computes it (models.fused): mlp_pre goes in, mlp_post comes out

Matrices are always seen as [out, in], whatever the architecture stores (GPT-2's Conv1D is transposed).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.refusal import NotApplicable, Refused

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_in", "z", "attn_out", "mlp_in", "mlp_pre", "mlp_up", "mlp_post", "mlp_out")


@dataclass(frozen=True)
class Site:
    """One place in the model; `layer` is the block's index in the unmodified checkpoint, None for `final` and `logits`."""

    layer: int | None
    name: str

    @property
    def written(self) -> str:
        return self.name if self.layer is None else f"{self.name}.{self.layer}"


@dataclass(frozen=True)
class Layout:
    """Dotted paths of one architecture. Inside a block paths are relative to the block.

    `attn_matrices` and `mlp_matrices` name the weights that operators touch; `attn_post` and `mlp_post_norm` are norms on
    a sublayer's output (Gemma 2 and 3), where what is added to the stream is the norm's output.
    """

    family: str
    base: str  # the model without its head
    blocks: str
    embed: str
    final_norm: str
    unembed: str
    attn: str
    mlp: str
    attn_norm: str
    mlp_norm: str
    attn_output: str
    mlp_output: str
    mlp_input: str  # gives the pre-activation
    mlp_gated: str | None = None  # the matrix whose output multiplies the activation
    attn_inputs: tuple[str, ...] = ()
    attn_post: str | None = None
    mlp_post_norm: str | None = None
    parallel: bool = False  # attention and MLP read the same stream: no resid_mid

    def matrices(self) -> tuple[str, ...]:
        """Names of a block's weight matrices, attention first."""
        return (*self.attn_inputs, self.attn_output, self.mlp_input, *([self.mlp_gated] if self.mlp_gated else []), self.mlp_output)


GPT2 = Layout(
    "gpt2", "transformer", "transformer.h", "transformer.wte", "transformer.ln_f", "lm_head", "attn", "mlp", "ln_1", "ln_2",
    "attn.c_proj", "mlp.c_proj", "mlp.c_fc", attn_inputs=("attn.c_attn",),
)
LLAMA = Layout(
    "llama", "model", "model.layers", "model.embed_tokens", "model.norm", "lm_head", "self_attn", "mlp", "input_layernorm",
    "post_attention_layernorm", "self_attn.o_proj", "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj",
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
)
NEOX = Layout(
    "gpt_neox", "gpt_neox", "gpt_neox.layers", "gpt_neox.embed_in", "gpt_neox.final_layer_norm", "lm_head", "attention", "mlp",
    "input_layernorm", "post_attention_layernorm", "attention.dense", "mlp.dense_4h_to_h", "mlp.dense_h_to_4h",
    attn_inputs=("attention.query_key_value",), parallel=True,
)
GEMMA2 = Layout(
    "gemma2", "model", "model.layers", "model.embed_tokens", "model.norm", "lm_head", "self_attn", "mlp", "input_layernorm",
    "pre_feedforward_layernorm", "self_attn.o_proj", "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj",
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "post_attention_layernorm", "post_feedforward_layernorm",
)
LAYOUTS = {
    "gpt2": GPT2, "llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "gemma": LLAMA, "gemma2": GEMMA2,
    "gemma3_text": GEMMA2, "gpt_neox": NEOX,
}


def layout_for(config) -> Layout:
    """The map for a transformers config; Refused with the known families otherwise."""
    layout = LAYOUTS.get(config.model_type)
    if layout is None:
        raise Refused(f"There is no module map for “{config.model_type}”; known: {', '.join(LAYOUTS)}. The checkpoint can still be inspected.")
    if layout is NEOX and not config.use_parallel_residual:
        return Layout(**{**layout.__dict__, "parallel": False})
    return layout


def blocks(model: torch.nn.Module, layout: Layout) -> torch.nn.ModuleList:
    return model.get_submodule(layout.blocks)


def locate(model: torch.nn.Module, layout: Layout, site: Site) -> tuple[torch.nn.Module, str]:
    """(module, "input" or "output") whose tensor [sequence, position, channel] is the site."""
    if site.name == "final":
        return model.get_submodule(layout.final_norm), "output"
    if site.name == "logits":
        return model.get_submodule(layout.unembed), "output"
    stack = blocks(model, layout)
    if site.layer is None or not 0 <= site.layer < len(stack):
        raise Refused(f"Block {site.layer} does not exist; the model has blocks 0–{len(stack) - 1}.")
    if site.name not in SITES:
        raise Refused(f"“{site.name}” is not a site; known: {', '.join(SITES)}, final, logits.")
    if site.name == "resid_mid" and layout.parallel:
        raise NotApplicable(f"{layout.family} runs attention and MLP in parallel: there is no residual stream between them.")
    if site.name == "mlp_up" and layout.mlp_gated is None:
        raise NotApplicable(f"{layout.family} has no gated MLP, so no mlp_up.")
    block = stack[site.layer]
    path, side = {
        "resid_pre": ("", "input"), "resid_post": ("", "output"),
        "resid_mid": (layout.mlp_norm, "input"),
        "attn_in": (layout.attn_norm, "output"), "mlp_in": (layout.mlp_norm, "output"),
        "z": (layout.attn_output, "input"), "mlp_post": (layout.mlp_output, "input"),
        "mlp_pre": (layout.mlp_input, "output"), "mlp_up": (layout.mlp_gated or "", "output"),
        "attn_out": (layout.attn_post or layout.attn, "output"), "mlp_out": (layout.mlp_post_norm or layout.mlp, "output"),
    }[site.name]
    return (block.get_submodule(path) if path else block), side


def is_conv1d(module: torch.nn.Module) -> bool:
    """GPT-2's Conv1D stores [in, out]; told by name so that transformers need not be imported here."""
    return type(module).__name__ == "Conv1D"


def weight(module: torch.nn.Module) -> torch.Tensor:
    """The weight as [out, in]; a view, never a copy."""
    return module.weight.T if is_conv1d(module) else module.weight


@dataclass(frozen=True)
class Heads:
    """n_heads query heads over n_kv key/value heads of width d_head; n_heads / n_kv queries share one K and V."""

    n_heads: int
    n_kv: int
    d_head: int


def heads(config) -> Heads:
    n = config.num_attention_heads
    n_kv = getattr(config, "num_key_value_heads", None) or n
    return Heads(n, n_kv, getattr(config, "head_dim", None) or config.hidden_size // n)
