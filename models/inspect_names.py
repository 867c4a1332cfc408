"""Which block and which part of a transformer a tensor belongs to, by its name alone; for tables and drawings only."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"(?:^|\.)(?:h|layers?|blocks?|blk)\.(\d{1,6})\.")
_PARTS = (  # first match wins; inside a block, then outside
    ("norm", re.compile(r"(ln_?\d|ln1|ln2|norm)", re.IGNORECASE)),
    ("attention", re.compile(r"attn|attention|\.(q|k|v|o)_proj|query|key_value", re.IGNORECASE)),
    ("experts", re.compile(r"experts?\b|router|\.moe", re.IGNORECASE)),
    ("mlp", re.compile(r"mlp|ffn|feed_forward|fc\d|dense|gate_proj|up_proj|down_proj", re.IGNORECASE)),
)
_OUTSIDE = (
    ("position", re.compile(r"wpe|pos_embed|position", re.IGNORECASE)),
    ("head", re.compile(r"lm_head|unembed|embed_out|(^|\.)output\.weight", re.IGNORECASE)),
    ("embedding", re.compile(r"wte|embed|word_embeddings", re.IGNORECASE)),
    ("final norm", re.compile(r"ln_f|norm", re.IGNORECASE)),
)


def block_of(name: str) -> int | None:
    """Index of the block a tensor lies in, None outside of all."""
    match = _BLOCK.search(name)
    return int(match[1]) if match else None


def part_of(name: str) -> str:
    """attention, mlp, experts, norm, embedding, position, head, final norm or other."""
    match = _BLOCK.search(name)
    inside = name[match.end():] if match else name
    for part, pattern in _PARTS if match else _OUTSIDE:
        if pattern.search(inside):
            return part
    return "other"
