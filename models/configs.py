"""config.json from outside: which fields are believed, and how large they may be.

A config has named code to run (CVE-2026-4372), other folders, quantisation back ends and 200,000 layers. So nothing is
passed through: architectures are a list, fields are those of the architecture's own config class, strings come from lists,
whole numbers are bounded, and what is dropped is told. `clean` is light (JSON only, used while a page is drawn);
`build` makes transformers' config object from what `clean` returned, in the process that loads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from models import headers
from models.refusal import Refused, shown

MAX_CONFIG = 4 << 20  # bytes; vocabularies inside old configs reach one
ARCHITECTURES = (
    "gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "codegen", "opt", "bloom", "openai-gpt", "biogpt", "xglm",
    "llama", "mistral", "mixtral", "ministral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text",
    "phi", "phi3", "phimoe", "olmo", "olmo2", "olmo3", "olmoe", "falcon", "stablelm", "starcoder2", "cohere", "cohere2",
    "granite", "granitemoe", "smollm3", "gpt_oss", "nemotron", "helium", "glm", "glm4", "nanochat", "apertus", "arcee",
    "exaone4", "persimmon", "seed_oss", "ernie4_5", "hunyuan_v1_dense", "mpt",
)
CODE = ("auto_map", "custom_pipelines", "custom_generate", "transformers_weights", "fusion_config", "kernel_config")
QUIET = {  # said by every config, decided by us
    "architectures", "transformers_version", "torch_dtype", "dtype", "model_type", "_name_or_path", "name_or_path", "id2label",
    "label2id", "num_labels", "problem_type", "output_hidden_states", "output_attentions", "return_dict", "task_specific_params",
    "use_cache", "is_encoder_decoder", "chunk_size_feed_forward", "gradient_checkpointing", "summary_activation",
}
LIMITS = {  # inclusive; every other whole number stays below DEFAULT_LIMIT
    "num_hidden_layers": 1_024, "n_layer": 1_024, "n_layers": 1_024, "num_layers": 1_024,
    "num_attention_heads": 4_096, "num_key_value_heads": 4_096, "n_head": 4_096, "n_heads": 4_096, "num_heads": 4_096,
    "num_experts": 1_024, "num_local_experts": 1_024, "hidden_size": 1 << 17, "n_embd": 1 << 17, "d_model": 1 << 17,
    "head_dim": 1 << 14, "intermediate_size": 1 << 20, "n_inner": 1 << 20, "ffn_dim": 1 << 20, "vocab_size": 1 << 22,
    "max_position_embeddings": 1 << 24, "n_positions": 1 << 24, "n_ctx": 1 << 24, "max_seq_len": 1 << 24,
}
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
DEFAULT_LIMIT = 1 << 24
OLD_NAMES = {  # read by transformers for older checkpoints without being fields of today's classes
    "rope_theta", "rope_scaling", "partial_rotary_factor", "rotary_pct", "rotary_emb_base", "rotary_dim", "n_ctx", "head_dim",
    "sliding_window", "alibi", "multi_query", "rope_local_base_freq", "sliding_window_pattern", "query_pre_attn_scalar",
}
_WORD = re.compile(r"[A-Za-z0-9_.\-]{0,64}\Z")


@dataclass(frozen=True)
class CleanConfig:
    """The believed fields of a config.json, and one line for each field that was left out and is worth telling."""

    fields: dict
    left_out: tuple[str, ...]

    @property
    def model_type(self) -> str:
        return self.fields["model_type"]


def read(folder: Path) -> CleanConfig:
    """Read and clean `folder/config.json`; Refused when it is missing, not JSON or asks for what no model has."""
    path = folder / "config.json"
    if not path.is_file():
        raise Refused("Found no config.json beside the weights; expected the one saved with them. Add it, or let the upload page infer one from the shapes.")
    if path.stat().st_size > MAX_CONFIG:
        raise Refused(f"config.json has {path.stat().st_size:,} bytes; at most {MAX_CONFIG:,} are read. Use the original.")
    return clean(headers.strict_json(path.read_bytes(), "config.json", MAX_CONFIG))


def clean(raw: object) -> CleanConfig:
    """Bounded plain values only; knows no architecture's fields yet (see `build`)."""
    if not isinstance(raw, dict):
        raise Refused("config.json is not a table of fields. Use the one saved with the weights.")
    kind = raw.get("model_type")
    if not isinstance(kind, str) or not _WORD.match(kind):
        raise Refused(f"config.json names no architecture (model_type is {shown(kind, 40)}); expected for instance gpt2 or llama. Add model_type.")
    if raw.get("quantization_config") is not None:
        raise Refused("config.json asks for quantised weights (quantization_config); this app runs plain float weights. Dequantise the model and save it again.")
    fields, left_out = {"model_type": kind}, []
    for name, value in raw.items():
        if name in QUIET:
            continue
        if name in CODE or name.startswith("_") or "implementation" in name:
            left_out.append(f"{shown(name, 60)}: names code, never followed")
        elif not _WORD.match(name):
            left_out.append(f"{shown(name, 60)}: not a field's name")
        elif value is None or _plain(name, value):
            fields[name] = value
        else:
            left_out.append(f"{name}: not a plain value")
    return CleanConfig(fields, tuple(left_out))


def _plain(name: str, value: object, depth: int = 0) -> bool:
    """True for a value that may be kept; Refused for a number that no model has; False for what is dropped."""
    if isinstance(value, bool):
        return True
    if isinstance(value, int):
        return _bounded(name, value)
    if isinstance(value, float):
        return abs(value) < 1e12
    if isinstance(value, str):
        return bool(_WORD.match(value))
    if isinstance(value, list):
        return len(value) <= 2_048 and depth < 3 and all(_plain(name, item, depth + 1) for item in value)
    if isinstance(value, dict):
        return len(value) <= 64 and depth < 2 and all(_WORD.match(k) and (v is None or _plain(k, v, depth + 1)) for k, v in value.items())
    return False


def _bounded(name: str, value: int) -> bool:
    limit = LIMITS.get(name, DEFAULT_LIMIT)
    low = 1 if name in LIMITS else -DEFAULT_LIMIT
    if not low <= value <= limit:
        written = f"{value:,}" if abs(value) < 10**18 else f"a number of {value.bit_length()} bits"
        raise Refused(f"config.json says {name} = {written}; expected {max(low, 0):,} to {limit:,}. Correct it to what the weights were saved with.")
    return True


def n_layers(fields: dict) -> int | None:
    """The number of blocks that a config announces, under whichever name; None where it says nothing."""
    return next((fields[name] for name in LAYERS if isinstance(fields.get(name), int)), None)


def build(config: CleanConfig):
    """(config, left out): transformers' config object from believed fields of its own class, and a line for each other field."""
    import dataclasses

    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config.model_type
    if kind not in ARCHITECTURES or kind not in CONFIG_MAPPING:
        raise Refused(
            f"The architecture “{kind}” is not one this app runs ({len(ARCHITECTURES)} are, from gpt2 and llama to qwen3). "
            "Its tensors can still be inspected on the checkpoint page.",
            details=ARCHITECTURES,
        )
    known = CONFIG_MAPPING[kind]
    names = ({f.name for f in dataclasses.fields(known)} | set(known.attribute_map) | OLD_NAMES) - QUIET
    fields = {name: value for name, value in config.fields.items() if name in names}
    left_out = tuple(f"{name}: not a field of {kind}" for name in config.fields if name not in names | {"model_type"})
    try:
        return known.from_dict({**fields}), left_out
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, StrictDataclassError) as error:
        raise Refused(f"config.json is not a {kind} config: {first_line(error)}. Use the one saved with the weights.") from error


def first_line(error: Exception) -> str:
    """The text of another library's error, on one line, plain and short."""
    return shown(error, 160).rstrip(".")
