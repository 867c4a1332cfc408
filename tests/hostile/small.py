"""Small honest checkpoints that the tests then break, and a safetensors writer that writes whatever it is told."""

import json
import struct
from pathlib import Path

import numpy as np


def gpt2(folder: Path, layers: int = 2, width: int = 16, vocab: int = 300, seed: int = 0, **fields) -> Path:
    """A random GPT-2 saved by transformers itself, with a byte-level tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from models import vocabulary

    torch.manual_seed(seed)
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=2, vocab_size=vocab, n_positions=32, **fields)
    GPT2LMHeadModel(config).save_pretrained(folder)
    vocabulary.byte_level(vocab).save_pretrained(folder)
    return folder


def llama(folder: Path, layers: int = 2, tie: bool = False, seed: int = 0, **save) -> Path:
    """A random Llama with grouped-query heads (4 heads, 2 key-value heads, width 16)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from models import vocabulary

    torch.manual_seed(seed)
    config = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
                         vocab_size=300, max_position_embeddings=64, tie_word_embeddings=tie)
    LlamaForCausalLM(config).save_pretrained(folder, **save)
    vocabulary.byte_level(300).save_pretrained(folder)
    return folder


def edit(folder: Path, **fields) -> Path:
    """Change fields of config.json; None removes nothing, it writes null."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


def tensors(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    from safetensors.numpy import save_file

    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a safetensors file with any header (bytes or JSON) and any announced length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
