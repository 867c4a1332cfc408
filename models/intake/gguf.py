"""A GGUF file through transformers' own reader, dequantised: what runs afterwards has the file's weight error, not its integer arithmetic."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

from models import skeleton
from models.configs import first_line
from models.intake.pickles import write
from models.refusal import Refused, shown


def convert(path: Path, folder: Path) -> tuple[str, ...]:
    """Write model.safetensors, config.json and tokenizer.json into `folder`; runs in the fenced process (the file is from outside)."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with skeleton.quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
    except (*skeleton.BUILD_ERRORS, OSError, EOFError, UnicodeError, struct.error) as error:
        raise Refused(f"{path.name} cannot be read as a GGUF ({first_line(error)}). It is damaged, or of an architecture transformers does not read: use the safetensors checkpoint.") from error
    lost = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if lost:
        raise Refused(f"{path.name} does not fill the model: {len(lost)} tensors are missing, left over or of another shape (the first is {shown(lost[0], 80)}). Use the safetensors checkpoint.", details=tuple(map(str, lost)))
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    write({name: tensor for name, tensor in model.state_dict().items() if name not in tied}, folder / "model.safetensors")
    fields = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(fields, default=str))
    return (_kept(path), _tokenizer(path, folder))


def _kept(path: Path) -> str:
    """What of the file's numbers runs."""
    import gguf

    kinds = sorted({tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors} - {"F32", "F16", "BF16"})
    if not kinds:
        return f"{path.name} holds floats, no quantised tensors; they run as float32"
    return (f"{path.name} ({', '.join(kinds)}) was dequantised to float32 by transformers; analyses run on these weights: they carry the "
            "quantisation's error, not its integer arithmetic")


def _tokenizer(path: Path, folder: Path) -> str:
    import gguf
    from transformers import AutoTokenizer

    beside = path.parent / "tokenizer.json"
    if beside.is_file():
        shutil.copyfile(beside, folder / "tokenizer.json")
        return "its tokenizer is the tokenizer.json beside it"
    if gguf.GGUFReader(path).get_field("tokenizer.ggml.model") is None:
        return "it carries no tokenizer: choose one"
    try:
        with skeleton.quiet():
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    except (*skeleton.BUILD_ERRORS, OSError) as error:
        return f"its tokenizer could not be read ({first_line(error)}): choose one"
    return "tokenizer read from the GGUF"
