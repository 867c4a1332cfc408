"""Pools as researchers keep them: the same rows from every kind of file, chats and answers marked, bad files refused, nothing held while reading."""

import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from models.corpus import parse, read_documents, register_text
from models.documents import read_file
from models.refusal import Refused
from tests import tiny

ROWS = [{"prompt": "w1 w2", "response": "w3, \"w4\"\nw5", "kind": "count", "n": 3}, {"prompt": "w6", "response": "w7", "kind": "sört", "n": 4}]


def written(folder, name, rows=ROWS):
    table, path = pa.Table.from_pylist(rows), folder / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(table, path, row_group_size=max(1, len(rows) // 20))
    elif name.endswith((".csv", ".tsv")):
        pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(delimiter="\t" if name.endswith("tsv") else ","))
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return path


KINDS = ("pool.jsonl", "pool.ndjson", "pool.json", "pool.csv", "pool.tsv", "pool.parquet")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_holds_the_same_documents(tmp_path, home, name):
    one, two = read_file(written(tmp_path, name))
    assert one.text == 'w1 w2\nw3, "w4"\nw5' and one.text[slice(*one.spans[0][:2])] == ROWS[0]["response"] and one.spans[0][2] == "answer"
    assert [str(d.labels["kind"]) for d in (one, two)] == ["count", "sört"] and str(two.labels["n"]) == "4" and "response" not in one.labels
    tokens = parse(register_text(tmp_path / name, home) + ":9x16:padded").tokens_for(tiny.tokenizer(), home)
    assert tokens.labels["kind"].tolist() == ["count", "sört"] and tokens.spans["answer"][1].tolist() == [False, False, True, False, False, False][:tokens.ids.shape[1]]


CHAT = "Hello\nHi.\nCount: a b\n2"


@pytest.mark.parametrize("row, text, answers", [
    ({"messages": [{"role": r, "content": c} for r, c in zip(("user", "assistant", "user", "assistant"), CHAT.split("\n"))]}, CHAT, ["Hi.", "2"]),
    ({"conversations": [{"from": r, "value": c} for r, c in zip(("human", "gpt", "human", "gpt"), CHAT.split("\n"))]}, CHAT, ["Hi.", "2"]),
    ({"instruction": "Sort.", "input": "b a", "output": "a b"}, "Sort.\nb a\na b", ["a b"]),
    ({"instruction": "Sort.", "input": "", "output": "a b"}, "Sort.\na b", ["a b"]),
    ({"prefix": "one two ", "suffix": " three"}, "one two three", ["three"]),
    ({"text": "plain", "response": "a label"}, "plain", []),
], ids=["messages", "conversations", "instruction", "empty input", "prefix", "text"])
def test_rows_by_hand(tmp_path, row, text, answers):
    for name in ("pool.jsonl", "pool.parquet"):
        (found,) = read_file(written(tmp_path, name, [row]))
        assert found.text == text and [found.text[a:b] for a, b, _ in found.spans] == answers


@pytest.mark.parametrize("name, content, says", [
    ("bad.csv", b'a,text\n1,"open', "cannot be read as CSV"), ("latin.csv", "text\ncafé\n".encode("latin-1"), "not UTF-8"), ("empty.csv", b"", "is empty"),
    ("none.csv", b"a,b\n1,2\n", "row 1, has no “text” string.*Found a, b"), ("bad.parquet", b"PAR1 not at all", "cannot be read as Parquet"), ("empty.parquet", b"", "is empty"),
    ("binary.jsonl", b"{\0}", "binary"), ("latin.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', "line 2"), ("header.csv", b"text\n", "holds no documents"),
], ids=lambda x: x if isinstance(x, str) and "." in x else "")
def test_bad_files_are_refused(tmp_path, home, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=says):
        register_text(tmp_path / name, home)


def test_a_saved_data_set_is_a_pool(tmp_path, home):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"text": f"w{i % 20}", "kind": "ab"[i % 2]} for i in range(50)])
    data.select(range(40)).shuffle(seed=0).save_to_disk(tmp_path / "mine", num_shards=3)
    found = list(read_documents(parse(register_text(tmp_path / "mine", home)), home))
    assert [(d.text, d.labels) for d in found] == [(r["text"], {"kind": r["kind"]}) for r in datasets.load_from_disk(str(tmp_path / "mine"))]
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "splits")
    with pytest.raises(Refused, match="holds the splits train"):
        register_text(tmp_path / "splits", home)
    source = register_text(tmp_path / "splits" / "train", home)
    assert len(list(read_documents(parse(source), home))) == 50
    next((tmp_path / "splits" / "train").glob("*.arrow")).write_bytes(b"no")
    with pytest.raises(Refused, match="changed"):
        list(read_documents(parse(source), home))


def test_a_data_set_s_id_is_streamed_row_by_row(tmp_path, home, monkeypatch):
    """The library's own streaming, of a local file in place of the hub's."""
    datasets = pytest.importorskip("datasets")
    from models import hub_text

    written(tmp_path, "train.parquet", [{"prompt": f"w{i}", "response": "w0", "kind": "ab"[i % 2]} for i in range(9)])
    real = datasets.load_dataset
    monkeypatch.setattr(hub_text, "dataset_revision", lambda name: "c0ffee")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, revision, streaming, token: real("parquet", data_files={"train": str(tmp_path / "train.parquet")}, split=split, streaming=streaming))
    tokens = parse("hub/ann/pool:train:4x8:padded").tokens_for(tiny.tokenizer(), home)
    assert tokens.ids.shape == (4, 3) and tokens.labels["kind"].tolist() == ["a", "b", "a", "b"] and tokens.spans["answer"].sum() == 4
    with pytest.raises(Refused, match="split “test” of the data set ann/pool cannot be read"):
        parse("hub/ann/pool:4x8:padded").tokens_for(tiny.tokenizer(), home)


def test_without_a_network_a_data_set_is_refused_in_a_sentence(home, monkeypatch):
    from huggingface_hub import HfApi

    def unreachable(self, name):
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    with pytest.raises(Refused, match="data set ann/pool could not be found on the hub .ConnectionError.; check the name and the network, or give a local file"):
        parse("hub/ann/pool").content_fingerprint(home)


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.csv", "pool.parquet"])
def test_reading_a_long_file_holds_next_to_nothing_of_it(tmp_path, name):
    """20,000 rows of 500 characters, 10 MB: read to the end within a tenth of that."""
    rng = np.random.default_rng(0)
    rows = [{"text": "".join(map(chr, rng.integers(97, 123, 500))), "n": i} for i in range(20_000)]
    file = written(tmp_path, name, rows)
    del rows
    tracemalloc.start()
    count = sum(1 for _ in read_file(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and peak < 4e6, f"{peak / 1e6:.1f} MB"


def test_pieces_are_the_whole_cut_up(tmp_path, home):
    rng = np.random.default_rng(1)
    rows = [{"text": " ".join(f"w{w}" for w in rng.integers(0, 28, rng.integers(0, 12))), "kind": str(i % 3)} for i in range(25)]
    corpus = parse(register_text(written(tmp_path, "pool.jsonl", rows), home) + ":20x10:padded")
    whole, pieces = corpus.tokens_for(tiny.tokenizer(), home), list(corpus.pieces(tiny.tokenizer(), home, 8))
    assert [len(t.ids) for t, _ in pieces] == [8, 8, 4] and [x for _, texts in pieces for x in texts] == [r["text"] for r in rows if r["text"]][:20]
    assert [row[k].tolist() for t, _ in pieces for row, k in zip(t.ids, t.keep)] == [row[k].tolist() for row, k in zip(whole.ids, whole.keep)]
    assert np.concatenate([t.labels["kind"] for t, _ in pieces]).tolist() == whole.labels["kind"].tolist()


def test_more_sequences_than_memory_holds_are_read_in_pieces_only(tmp_path, home):
    (tmp_path / "long.txt").write_text("\n\n".join(f"w{i % 20} w{(3 * i) % 20} w1" for i in range(600)))
    corpus = parse(register_text(tmp_path / "long.txt", home) + ":200000x8:padded")
    assert sum(len(tokens.ids) for tokens, _ in corpus.pieces(tiny.tokenizer(), home, 128)) == 600
    with pytest.raises(Refused, match="200,000 sequences are held in memory here; expected at most 100,000"):
        corpus.tokens_for(tiny.tokenizer(), home)
