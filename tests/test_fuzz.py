"""Random input at every text door: it is read right or refused in a sentence, never anything else.

Headers are compared with the safetensors library itself: whatever we accept, it must accept, with the same tensors.
"""

import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hostile import small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import configs, headers, regexes, uploads, variant, weights
from models.refusal import Refused

FAST = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12)
ENTRY = st.fixed_dictionaries({
    "dtype": st.sampled_from(["F32", "F16", "BF16", "I8", "BOOL", "F4", "F99", ""]) | JSON,
    "shape": st.lists(st.integers(-1, 9) | st.sampled_from([2**31, 2**63, 2**64]), max_size=4) | JSON,
    "data_offsets": st.tuples(st.integers(-1, 80), st.integers(-1, 200)).map(list) | JSON,
})


def sentence(refusal: Refused) -> None:
    text = str(refusal)
    assert text.endswith(".") and "\n" not in text and len(text) < 1_000 and "<" not in text


def read(data: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        try:
            return headers.read(path), path.read_bytes()
        except Refused as refusal:
            sentence(refusal)
            return None, None


def library_agrees(header, data: bytes) -> None:
    from safetensors import safe_open

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(data)
        with safe_open(path, framework="np") as reader:
            assert {t.name: list(t.shape) for t in header.tensors} == {name: reader.get_slice(name).get_shape() for name in reader.keys()}


@FAST
@given(st.binary(max_size=200))
def test_any_bytes_as_a_file(data):
    header, raw = read(data)
    if header is not None:
        library_agrees(header, raw)


@FAST
@given(st.binary(max_size=120), st.integers(0, 2**64 - 1) | st.integers(0, 200))
def test_any_announced_length(data, length):
    header, raw = read(struct.pack("<Q", length) + data)
    if header is not None:
        library_agrees(header, raw)


@FAST
@given(st.dictionaries(st.sampled_from(["a", "b.weight", "__metadata__", "<b>", ""]), ENTRY | JSON, max_size=4), st.integers(0, 300))
def test_any_table_as_a_header(table, n_bytes):
    header, raw = read(small.raw(table, bytes(n_bytes)))
    if header is not None:
        library_agrees(header, raw)


@FAST
@given(st.lists(st.tuples(st.sampled_from(["F32", "F16", "I8", "F64"]), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=6), st.data())
def test_an_honest_file_is_read_and_one_changed_byte_of_its_header_is_not_misread(tensors, data):
    table, position = {}, 0
    for i, (dtype, shape) in enumerate(tensors):
        n = headers.BITS[dtype] // 8
        for side in shape:
            n *= side
        table[f"t{i}"] = small.entry(shape, position, position + n, dtype)
        position += n
    whole = small.raw(table, bytes(position))
    header, _ = read(whole)
    assert {t.name: (t.dtype, list(t.shape)) for t in header.tensors} == {f"t{i}": (dtype, shape) for i, (dtype, shape) in enumerate(tensors)}
    place = data.draw(st.integers(0, len(whole) - position - 1))
    changed = bytearray(whole)
    changed[place] = data.draw(st.integers(0, 255))
    header, raw = read(bytes(changed))
    if header is not None:
        library_agrees(header, raw)


@FAST
@given(st.dictionaries(st.sampled_from(["model_type", "n_layer", "vocab_size", "rope_scaling", "auto_map", "_attn_implementation", "x"]) | st.text(max_size=10), JSON, max_size=6))
def test_any_table_as_a_config(table):
    try:
        clean = configs.clean(table)
    except Refused as refusal:
        sentence(refusal)
        return
    assert not [name for name in clean.fields if name.startswith("_") or "implementation" in name or name in configs.CODE]
    configs.clean(json.loads(json.dumps(clean.fields)))


@FAST
@given(JSON, st.lists(st.sampled_from(["a.safetensors", "../a.safetensors", "/a.safetensors", "b.safetensors", "a.bin", "..", ""]), max_size=3))
def test_any_index(table, shards):
    with tempfile.TemporaryDirectory() as folder:
        small.rewrite(Path(folder), {"t0": np.zeros(2, "f4")})
        Path(folder, "model.safetensors").rename(Path(folder, "a.safetensors"))
        index = {"weight_map": {f"t{i}": shard for i, shard in enumerate(shards)}} if shards else table
        Path(folder, weights.INDEX).write_text(json.dumps(index))
        try:
            read_back = weights.read(Path(folder))
        except Refused as refusal:
            sentence(refusal)
            assert shards != ["a.safetensors"]
        else:
            assert shards == ["a.safetensors"] and read_back.files == ("a.safetensors",)


RECIPE = st.text(st.sampled_from("demo/strylab~:=,.@!|0123456789-_ \x00<>'\"é"), max_size=60)


@FAST
@given(RECIPE | st.text(max_size=60) | st.builds(lambda s: "demo/a~drop_layers:blocks=" + s, RECIPE))
def test_any_text_as_a_recipe(text):
    try:
        parsed = variant.parse(text)
    except Refused as refusal:
        assert str(refusal).endswith(".")
        return
    assert variant.parse(parsed.written).written == parsed.written and ".." not in parsed.base


@FAST
@given(st.text(max_size=80))
def test_any_text_as_a_ticket_a_name_and_an_id(text):
    with tempfile.TemporaryDirectory() as folder:
        for attempt in (lambda: uploads.owner_of(Path(folder), text), lambda: uploads.status(Path(folder), "ann", text)):
            with pytest.raises(Refused) as refusal:
                attempt()
            sentence(refusal.value)
        try:
            begun = uploads.begin(Path(folder), "ann", {text: 5})
            assert uploads.NAME.match(text) and Path(folder, "uploads", begun.id, "incoming").is_dir()
        except Refused as refusal:
            sentence(refusal)


PATTERNS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\d{1,3}(?=(?:\d{3})*\b)", " {2,}", r"\p{N}{1,3}", "▁",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_of_real_tokenizers_are_trusted(pattern):
    """GPT-2, Llama 3 and Qwen 2, GPT-4o, DeepSeek, Cohere and smaller ones."""
    assert regexes.endless(pattern) is None


@pytest.mark.parametrize("pattern", [r"(a+)+", r"(a*)*b", r"((a|b)+c?)*d", r"(?:x+x+)+y", r"([a-z]+)*\d", r"(a{2,})+", r"(.*)\1", r"(?<n>a)\k<n>", "a" * 5_000, r"(?:(?:a+))+", r"([)]+)+"])
def test_patterns_that_may_never_end_are_not(pattern):
    assert regexes.endless(pattern)
