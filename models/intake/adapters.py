"""A PEFT LoRA adapter merged into its base: W + scale · B A, exactly as PEFT merges, without following anything it names.

    scale = alpha / r, or alpha / √r with rank-stabilised LoRA (Kalajdzievski 2023)

A [r, in], B [out, r]; GPT-2's Conv1D stores W as [in, out], so the product is transposed there. DoRA, biases and other
kinds change the formula and are refused.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from models import configs, headers
from models.headers import strict_json
from models.refusal import Refused, shown

PLAIN = {"use_dora": False, "bias": "none", "layer_replication": None, "megatron_config": None, "alora_invocation_tokens": None, "loftq_config": None,
         "corda_config": None, "eva_config": None, "trainable_token_indices": None, "target_parameters": None, "use_qalora": False, "lora_bias": False}


def settings(folder: Path) -> dict:
    """The believed fields of adapter_config.json; Refused for an adapter that is not plain LoRA."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise Refused("Found adapter_model.safetensors without adapter_config.json; expected both. Add the one saved with the adapter.")
    if path.stat().st_size > configs.MAX_CONFIG:
        raise Refused("adapter_config.json is larger than any real one. Use the original.")
    table = strict_json(path.read_bytes(), "adapter_config.json", configs.MAX_CONFIG)
    if not isinstance(table, dict) or table.get("peft_type") != "LORA":
        raise Refused("adapter_config.json is not of a LoRA adapter (peft_type). Merge the adapter where you made it and upload the merged model.")
    odd = [name for name, plain in PLAIN.items() if table.get(name, plain) not in (plain, None, {}, [])]
    if odd:
        raise Refused(f"The adapter uses {', '.join(odd)}, which changes how it is merged; expected plain LoRA. Merge it with PEFT (merge_and_unload) and upload the result.")
    rank, alpha = table.get("r"), table.get("lora_alpha")
    if type(rank) is not int or not 0 < rank <= 65_536 or type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise Refused(f"adapter_config.json says r = {shown(rank, 20)}, lora_alpha = {shown(alpha, 20)}; expected two positive numbers. Use the original.")
    patterns = {key: {k: v for k, v in (table.get(key) or {}).items() if isinstance(k, str) and type(v) in (int, float)} for key in ("rank_pattern", "alpha_pattern")}
    if any(not re.fullmatch(r"[\w.]+", key) for pattern in patterns.values() for key in pattern):
        raise Refused("adapter_config.json chooses ranks by regular expressions; expected plain module names. Merge the adapter with PEFT and upload the result.")
    base = table.get("base_model_name_or_path")
    return {"r": rank, "alpha": alpha, "rslora": table.get("use_rslora") is True, "base": base[:200] if isinstance(base, str) else "", **patterns}


def merge(base: dict, adapter: Path, options: dict, conv1d: bool) -> tuple[dict, tuple[str, ...]]:
    """(the base's tensors with the adapter added, lines to tell). `conv1d`: the base stores block matrices as [in, out] (GPT-2)."""
    from safetensors.torch import load_file

    headers.read(adapter)
    parts: dict[str, dict] = {}
    merged, replaced = dict(base), 0
    for name, tensor in load_file(adapter).items():
        match = re.fullmatch(r"(?:base_model\.model\.)?(?P<module>.+?)\.lora_(?P<side>[AB])(?:\.default)?\.weight", name)
        if match:
            parts.setdefault(match["module"], {})[match["side"]] = tensor
            continue
        target = re.sub(r"\A(base_model\.model\.)?(.+?)(\.modules_to_save(\.default)?)?(\.weight|\.bias)\Z", r"\2\5", name)
        if target not in base or base[target].shape != tensor.shape or "lora_" in name:
            raise Refused(f"The adapter holds {name}, which is neither LoRA's A or B nor a tensor of the base. It belongs to another base or kind: choose its base, or merge it with PEFT.")
        merged[target], replaced = tensor.to(base[target].dtype), replaced + 1
    for module, sides in parts.items():
        merged[f"{module}.weight"] = _added(base, module, sides, options, conv1d)
    told = f"{len(parts)} matrices changed by LoRA of rank {options['r']}, alpha {options['alpha']:g}" + (f", {replaced} replaced whole" if replaced else "")
    return merged, (told,)


def _added(base: dict, module: str, sides: dict, options: dict, conv1d: bool):
    weight = base.get(f"{module}.weight")
    if weight is None or set(sides) != {"A", "B"} or sides["A"].ndim != 2 or sides["B"].ndim != 2 or sides["A"].shape[0] != sides["B"].shape[1]:
        raise Refused(f"The adapter changes {module}, which the base has not, or only half of it. It belongs to another base: choose the one it was trained on ({options['base'] or 'not named'}).")
    rank = sides["A"].shape[0]
    alpha = _pattern(options["alpha_pattern"], module, options["alpha"])
    if rank != _pattern(options["rank_pattern"], module, options["r"]):
        raise Refused(f"The adapter's rank at {module} is {rank}, its config says {options['r']}. Use the adapter_config.json saved with it.")
    delta = (alpha / (math.sqrt(rank) if options["rslora"] else rank)) * (sides["B"].float() @ sides["A"].float())  # [out, in]
    if conv1d and re.search(r"\.h\.\d+\.(attn|mlp)\.c_", module):
        delta = delta.T
    if delta.shape != weight.shape:
        raise Refused(f"The adapter's {module} is {tuple(delta.shape)}, the base's {tuple(weight.shape)}. It belongs to another base: choose the one it was trained on ({options['base'] or 'not named'}).")
    return (weight.float() + delta).to(weight.dtype)


def _pattern(patterns: dict, module: str, default: float) -> float:
    """PEFT matches a pattern's key as the end of the module's name, on a dot; keys are compared as text, never as regex."""
    return next((value for key, value in patterns.items() if module == key or module.endswith("." + key)), default)
