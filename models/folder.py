"""A variant as a Hugging Face folder that plain transformers loads, checked by loading it."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch

from models.loaded import Model
from models.refusal import Refused
from models.variant import Variant

TOLERANCE = 1e-4  # largest difference of a logit in float32; leaving out a block that adds exactly zero reorders nothing
SIXTEEN_BITS = 0.25  # the same where the variant runs in bfloat16 or float16


def export(model: Model, variant: Variant, identity: str, folder: Path, commit: str = "", smaller: tuple[object | None, str] = (None, "")) -> str:
    """Write `model` to `folder` (made by this call) and load it again; returns one sentence for the reader.

    `smaller` is what Lab.physical gives: it is written where plain transformers can load it, else the reason is told. Blocks
    removed whole are left out; where an architecture's blocks are not alike by position, so that the shorter model differs,
    they stay as zeros instead. Raises Refused when the loaded folder does not give the same logits.
    """
    if model.forward_only:
        raise Refused(f"{variant.written} changes how the model runs and not its weights ({'; '.join(model.forward_only)}), which no weight file can carry. "
                      "Take the recipe away without that step.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    limit = TOLERANCE if variant.dtype == "float32" else SIXTEEN_BITS
    gone = model.n_layers - len(model.layers)
    forms = [(smaller[0], smaller[1])] if smaller[0] is not None and _plain(smaller[0]) else []
    forms += [(without_blocks(model), f"{gone} of {model.n_layers} blocks left out")] if gone else []
    for module, words in [*forms, (model.module, "")]:
        temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=folder.parent))
        try:
            module.save_pretrained(temporary, state_dict=own_tensors(module))
            if model.tokenizer is not None:
                model.tokenizer.save_pretrained(temporary)
            difference = largest_difference(model, temporary)
            if difference <= limit:
                masked = sorted((layer, kind) for layer, kind in model.removed if words == "" or layer in model.layers)
                text = words or (f"{len(masked)} removed parts kept as zeros" if masked else f"all {model.n_layers} blocks kept")
                (temporary / "README.md").write_text(card(model, variant, identity, text, difference, commit))
                _put(temporary, folder)
                size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
                return f"{text}; {size / 1e6:.3g} MB of weights; loaded again, the largest difference of a logit is {difference:.2g}."
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    found = "has tensors that do not fit its config" if difference == float("inf") else f"differs by {difference:.2g} in a logit (expected at most {limit:g})"
    raise Refused(f"Loaded again by transformers, {variant.written} {found}; nothing was written.")


def _plain(module) -> bool:
    """Whether every part is one that transformers makes: it has no place for skipped sublayers or thin factors."""
    from models.smaller import Nothing, Thin

    return not any(isinstance(part, (Nothing, Thin)) for part in module.modules())


def own_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The module's tensors with one of its own for each block that shares another's, because the format has no sharing; a head
    that its config ties to the embedding stays tied."""
    head = module.get_output_embeddings()
    tied = head.weight.data_ptr() if head is not None and module.config.get_text_config().tie_word_embeddings else None
    seen, tensors = {tied}, {}
    for name, tensor in module.state_dict().items():
        place = tensor.data_ptr()
        tensors[name] = tensor.clone() if place in seen and place != tied else tensor
        seen.add(place)
    return tensors


def _put(temporary: Path, folder: Path) -> None:
    temporary.chmod(0o755)
    for file in temporary.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner only
    if folder.is_dir():
        folder.rmdir()  # empty, as the caller has made sure
    temporary.rename(folder)


def without_blocks(model: Model) -> torch.nn.Module:
    """The module with wholly removed blocks taken out and its config shortened; tensors are shared with `model`."""
    module = model.copy(model.written).module
    parent, _, name = model.layout.blocks.rpartition(".")
    blocks = module.get_submodule(model.layout.blocks)
    setattr(module.get_submodule(parent), name, torch.nn.ModuleList(blocks[i] for i in model.layers))
    text = module.config.get_text_config()
    text.num_hidden_layers = len(model.layers)
    for field in ("layer_types", "mlp_layer_types", "no_rope_layers"):  # per-block lists that transformers keeps in configs
        given = getattr(text, field, None)
        if isinstance(given, list) and len(given) == model.n_layers:
            setattr(text, field, [given[i] for i in model.layers])
    return module


def largest_difference(model: Model, folder: Path) -> float:
    """Largest |difference| of a logit between the variant as it runs here and the folder as transformers loads it, on
    two sequences of random tokens; infinite when transformers cannot fill the model from it."""
    from transformers import AutoModelForCausalLM

    dtype = next(model.module.parameters()).dtype
    try:
        loaded, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, trust_remote_code=False)
    except RuntimeError:  # shapes that the config does not promise
        return float("inf")
    if any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        return float("inf")
    length = min(32, getattr(model.config, "max_position_embeddings", 32))
    ids = torch.randint(model.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        there = loaded.eval().to(model.device)(input_ids=ids.to(model.device), use_cache=False).logits
    return float((there.float() - model.logits(ids).float()).abs().max())


def card(model: Model, variant: Variant, identity: str, removed: str, difference: float, commit: str) -> str:
    """README.md of the folder: what it is, how it was made, what was checked."""
    config = model.module.config
    bits = f"- {len(model.bits)} tensors stand for quantized or pruned values and are written in full; the format has no place for their codes\n" if model.bits else ""
    recipe = json.dumps(variant.to_json(), indent=1)
    return f"""---
library_name: transformers
tags: [microtome, compressed]
---
# {variant.label}

Made by Microtome{f" at commit {commit}" if commit else ""} from `{variant.origin}` by the recipe `{variant.written}`.

- architecture {type(model.module).__name__}, {config.get_text_config().vocab_size:,} tokens, weights in {variant.dtype}
- {removed}
{bits}- content hash of checkpoint and recipe: `{identity}`
- checked: loaded again with transformers, the largest difference of a logit on random tokens is {difference:.2g}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("this/folder", dtype="{variant.dtype}")
tokenizer = AutoTokenizer.from_pretrained("this/folder")
```

The recipe, whole:

```json
{recipe}
```
"""
