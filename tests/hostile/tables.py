"""safetensors whose header lies, and shards that do not belong together."""

import json
import shutil

from hostile import small
from hostile.cases import case


def file(into, header, data: bytes = b"", length: int | None = None, name: str = "model.safetensors"):
    (into / name).write_bytes(small.raw(header, data, length))


FOUR = bytes(16)


@case("safetensors", "is empty")
def empty_file(into, good, canary):
    (into / "model.safetensors").write_bytes(b"")


@case("safetensors", "has 8 bytes")
def eight_bytes(into, good, canary):
    (into / "model.safetensors").write_bytes(bytes(8))


@case("safetensors", "it is cut short")
def header_longer_than_the_file(into, good, canary):
    file(into, {"a": small.entry([4], 0, 16)}, FOUR, length=5_000)


@case("safetensors", "announces a header of 1,099,511,627,776 bytes")
def header_of_a_terabyte(into, good, canary):
    file(into, {"a": small.entry([4], 0, 16)}, FOUR, length=1 << 40)


@case("safetensors", "is cut short")
def data_cut_short(into, good, canary):
    shutil.copy(good / "model.safetensors", into)
    with (into / "model.safetensors").open("r+b") as opened:
        opened.truncate(5_000)


@case("safetensors", "overlaps the one before it")
def overlapping_tensors(into, good, canary):
    file(into, {"a": small.entry([4], 0, 16), "b": small.entry([4], 8, 24)}, bytes(24))


@case("safetensors", "leaves a gap of 8 bytes")
def gap_between_tensors(into, good, canary):
    file(into, {"a": small.entry([4], 0, 16), "b": small.entry([4], 24, 40)}, bytes(40))


@case("safetensors", "64 bytes follow the last tensor")
def bytes_after_the_last_tensor(into, good, canary):
    file(into, {"a": small.entry([4], 0, 16)}, bytes(80))


@case("safetensors", "needs 32 bytes, but its place in the file has 16")
def dtype_that_lies(into, good, canary):
    file(into, {"a": small.entry([4], 0, 16, "F64")}, FOUR)


@case("safetensors", "has the dtype F1024")
def unknown_dtype(into, good, canary):
    file(into, {"a": small.entry([4], 0, 16, "F1024")}, FOUR)


@case("safetensors", "needs [0-9,]+ bytes, but its place")
def shape_of_2_to_the_94(into, good, canary):
    file(into, {"a": small.entry([1 << 47, 1 << 47], 0, 16)}, FOUR)


@case("safetensors", "has the shape")
def negative_shape(into, good, canary):
    file(into, {"a": small.entry([-1, -4], 0, 16)}, FOUR)


@case("safetensors", "has the shape")
def shape_of_fractions(into, good, canary):
    file(into, {"a": small.entry([4.0], 0, 16)}, FOUR)


@case("safetensors", "has the shape")
def shape_of_a_million_axes(into, good, canary):
    file(into, {"a": small.entry([1] * 1_000_000, 0, 4)}, bytes(4))


@case("safetensors", "rising whole numbers")
def offsets_backwards(into, good, canary):
    file(into, {"a": small.entry([4], 16, 0)}, FOUR)


@case("safetensors", "appears twice")
def one_name_twice(into, good, canary):
    one = json.dumps(small.entry([4], 0, 16))
    file(into, f'{{"a": {one}, "a": {one}}}'.encode(), FOUR)


@case("safetensors", "not valid JSON")
def header_that_is_no_json(into, good, canary):
    file(into, b"{not json at all", FOUR)


@case("safetensors", "nested deeper|not valid JSON|needs more memory")
def header_nested_a_million_deep(into, good, canary):
    file(into, b'{"a":' * 1_000_000, FOUR)


@case("safetensors", "not text in UTF-8")
def header_that_is_no_text(into, good, canary):
    file(into, b'{"\xff\xfe": 1}', FOUR)


@case("safetensors", "is not a number")
def header_with_infinity(into, good, canary):
    file(into, b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 16]}}', FOUR)


@case("safetensors", "whose name no framework writes")
def script_in_a_name(into, good, canary):
    file(into, {"<script>fetch('/upload')</script>": small.entry([4], 0, 16)}, FOUR)


@case("safetensors", "whose name no framework writes")
def name_that_turns_the_line_round(into, good, canary):
    file(into, {"wte.\u202eweight\n": small.entry([4], 0, 16)}, FOUR)


@case("safetensors", "whose name no framework writes")
def name_of_a_megabyte(into, good, canary):
    file(into, {"a" * 1_000_000: small.entry([4], 0, 16)}, FOUR)


@case("safetensors", "__metadata__ of model.safetensors is not a table of text")
def metadata_that_is_no_text(into, good, canary):
    file(into, {"__metadata__": {"a": {"b": 1}}, "a": small.entry([4], 0, 16)}, FOUR)


@case("safetensors", "holds no tensor")
def no_tensor_at_all(into, good, canary):
    file(into, {"__metadata__": {"format": "pt"}})


@case("safetensors", "lists 200,001 tensors")
def too_many_tensors(into, good, canary):
    file(into, {f"t{i}": small.entry([0], 0, 0) for i in range(200_001)})


@case("safetensors", "or says more")
def unknown_field_in_an_entry(into, good, canary):
    file(into, {"a": {**small.entry([4], 0, 16), "loader": "os.system"}}, FOUR)


@case("safetensors", "does not start like a safetensors|unknown|announces")
def web_page_as_weights(into, good, canary):
    (into / "model.safetensors").write_bytes(b"<!DOCTYPE html><html><body>404</body></html>" * 20)


@case("safetensors", "not what its ending says")
def json_as_weights(into, good, canary):
    (into / "model.safetensors").write_text('{"version": 1, "oid": "sha256:0"}' * 10)


def sharded(into, good):
    """The honest model in two shards with an index; returns the index to be broken."""
    arrays = list(small.tensors(good).items())
    half, index = len(arrays) // 2, {}
    from safetensors.numpy import save_file

    for number, part in enumerate((arrays[:half], arrays[half:]), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(dict(part), into / name, metadata={"format": "pt"})
        index |= dict.fromkeys(dict(part), name)
    shutil.copy(good / "config.json", into)
    return {"metadata": {}, "weight_map": index}


def write_index(into, index):
    (into / "model.safetensors.index.json").write_text(json.dumps(index))


@case("shards", "must be a plain file name inside the folder")
def index_points_upwards(into, good, canary):
    index = sharded(into, good)
    index["weight_map"]["transformer.wte.weight"] = "../../secret/model.safetensors"
    write_index(into, index)


@case("shards", "must be a plain file name inside the folder")
def index_points_to_an_absolute_path(into, good, canary):
    index = sharded(into, good)
    index["weight_map"]["transformer.wte.weight"] = str(good / "model.safetensors")
    write_index(into, index)


@case("shards", "must be a plain file name inside the folder")
def index_points_to_a_pickle(into, good, canary):
    index = sharded(into, good)
    index["weight_map"]["transformer.wte.weight"] = "pytorch_model.bin"
    write_index(into, index)


@case("shards", "is missing .1 of 2")
def shard_missing_by_index(into, good, canary):
    write_index(into, sharded(into, good))
    (into / "model-00002-of-00002.safetensors").unlink()


@case("shards", "is missing .1 of 2")
def shard_missing_without_index(into, good, canary):
    sharded(into, good)
    (into / "model-00001-of-00002.safetensors").unlink()


@case("shards", "The shards are of different models or saves")
def index_and_shards_disagree(into, good, canary):
    index = sharded(into, good)
    index["weight_map"]["transformer.h.7.ln_1.weight"] = "model-00001-of-00002.safetensors"
    write_index(into, index)


@case("shards", "the shards are of different saves")
def shards_of_two_saves(into, good, canary):
    sharded(into, good)
    shutil.copy(good / "model.safetensors", into / "model-00002-of-00002.safetensors")


@case("shards", "Shards of different saves lie together")
def shards_counted_differently(into, good, canary):
    sharded(into, good)
    (into / "model-00002-of-00002.safetensors").rename(into / "model-00002-of-00003.safetensors")


@case("shards", "and no index")
def two_models_in_one_upload(into, good, canary):
    shutil.copy(good / "model.safetensors", into / "one.safetensors")
    shutil.copy(good / "model.safetensors", into / "two.safetensors")
    shutil.copy(good / "config.json", into)


@case("shards", "has no weight_map")
def index_that_is_no_table(into, good, canary):
    sharded(into, good)
    write_index(into, ["a"])
