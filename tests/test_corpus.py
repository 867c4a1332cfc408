"""Text cut into sequences: counted by hand on a word-level tokenizer, and bad text refused in words."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from models import corpus as corpora
from models.corpus import Corpus, Document, parse, register_text
from models.refusal import Refused


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(["<bos>", "<eos>", "<pad>", "<unk>", "a", "b", "c", "d", "e"])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def with_documents(monkeypatch, documents):
    monkeypatch.setattr(corpora, "read_documents", lambda corpus, home: iter(documents))


def test_packing_by_hand(tokenizer, monkeypatch, tmp_path):
    documents = [Document("a b", {"strand": "x"}), Document("c d e", {"strand": "y"}, ((4, 5, "answer"),)), Document("a", {"strand": "z"})]
    with_documents(monkeypatch, documents)
    tokens = Corpus("text/t", n_sequences=2, length=5).tokens_for(tokenizer, tmp_path)
    # stream: a b <eos> c | d e <eos> a, BOS in front of each
    assert tokens.ids.tolist() == [[0, 4, 5, 1, 6], [0, 7, 8, 1, 4]]
    assert tokens.keep.all() and tokens.n_tokens == 10
    assert tokens.labels["strand"].tolist() == ["x", "y"]
    assert tokens.spans["answer"].tolist() == [[False] * 5, [False, False, True, False, False]]


def test_padding_by_hand(tokenizer, monkeypatch, tmp_path):
    with_documents(monkeypatch, [Document("a b c", {"n": 3}), Document("d", {"n": 1}, ((0, 1, "answer"),))])
    tokens = Corpus("text/t", n_sequences=9, length=16, packing="padded").tokens_for(tokenizer, tmp_path)
    assert tokens.ids.tolist() == [[0, 4, 5, 6], [0, 7, 2, 2]]
    assert tokens.keep.tolist() == [[True] * 4, [True, True, False, False]]
    assert tokens.spans["answer"].tolist() == [[False] * 4, [False, True, False, False]]
    assert tokens.labels["n"].tolist() == [3, 1] and tokens.n_tokens == 6


def test_written_form_round_trips():
    for text in ("demo/stories", "demo/mixed:train:64x128:seed3", "text/notes:padded:nobos", "hub/owner/name:12x32"):
        assert parse(text).written == text


@pytest.mark.parametrize("text", ["", "stories", "demo/", "demo/../x", "demo/stories:0x128", "demo/stories:4x99999", "demo/stories:loud", "file:///etc"])
def test_bad_written_forms(text):
    with pytest.raises(Refused):
        parse(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        found = parse(text)
    except Refused:
        return
    assert parse(found.written) == found


@pytest.mark.parametrize("name, content, says", [
    ("empty.txt", b"  \n", "is empty"), ("binary.txt", b"a\0b", "binary"), ("latin.txt", "café".encode("latin-1"), "not UTF-8"),
    ("bad.jsonl", b'{"text": "a"}\n{"txt": 1}\n', "line 2"), ("worse.jsonl", b"{\n", "not JSON"),
])
def test_bad_files_are_refused(tmp_path, home, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=says):
        register_text(tmp_path / name, home)


def test_registered_file_and_its_fingerprint(tmp_path, home, tokenizer):
    file = tmp_path / "My notes.jsonl"
    file.write_text('{"text": "a b c d", "who": "me"}\n{"text": "e"}\n')
    source = register_text(file, home)
    corpus = parse(f"{source}:1x4:nobos")
    tokens = corpus.tokens_for(tokenizer, home)
    assert tokens.ids.tolist() == [[4, 5, 6, 7]] and tokens.labels["who"].tolist() == ["me"]
    assert corpora.label_names(source, home) == ("who",) and corpora.label_names("hub/a/b", home) == ()
    before = corpus.content_fingerprint(home)
    file.write_text('{"text": "a"}\n')
    register_text(file, home)
    assert before == corpus.content_fingerprint(home) and len(corpora.texts(home)) == 2


def test_prefix_and_suffix_rows_mark_the_suffix(tmp_path, home, tokenizer):
    file = tmp_path / "list.jsonl"
    file.write_text('{"prefix": "w1 w2 ", "suffix": " w3 w4 w5", "repeats": 3}\n{"prefix": "w6", "suffix": "w7 w8", "repeats": 0}')
    tokens = parse(register_text(file, home) + ":8x16:padded").tokens_for(tokenizer, home)
    assert tokens.spans["suffix"].tolist() == [[False, False, False, True, True, True], [False, False, True, True, False, False]]
    assert tokens.labels["repeats"].tolist() == [3, 0] and "prefix" not in tokens.labels


def test_a_file_that_changed_behind_its_alias_is_refused(tmp_path, home, tokenizer):
    file = tmp_path / "t.txt"
    file.write_text("a b c d e")
    source = register_text(file, home)
    file.write_text("e e e e e")
    with pytest.raises(Refused, match="changed"):
        parse(f"{source}:1x4").tokens_for(tokenizer, home)


def test_too_short(tokenizer, monkeypatch, tmp_path):
    with_documents(monkeypatch, [Document("a b", {})])
    with pytest.raises(Refused, match="fewer than one sequence"):
        Corpus("text/t", length=64).tokens_for(tokenizer, tmp_path)


def test_uniform_tokens_need_no_text_and_leave_special_ones_out(tokenizer, tmp_path):
    tokens = parse("ids/uniform:200x11").tokens_for(tokenizer, tmp_path)
    assert tokens.ids.shape == (200, 11) and (tokens.ids[:, 0] == 0).all() and tokens.keep.all()
    counts = np.bincount(tokens.ids[:, 1:].ravel(), minlength=9)
    assert not counts[:4].any() and np.abs(counts[4:] - 400).max() < 90  # five words alike, five standard deviations
    again, other, train = (parse(f"ids/uniform{more}:200x11").tokens_for(tokenizer, tmp_path).ids for more in (":seed0", ":seed1", ":train"))
    assert (again == tokens.ids).all() and (other != tokens.ids).any() and (train != tokens.ids).any()
    assert parse("ids/uniform:200x11").content_fingerprint(tmp_path) and parse("ids/uniform:200x11").written == "ids/uniform:200x11"
    with pytest.raises(Refused, match="is not a corpus"):
        parse("ids/other")


def test_a_file_of_the_server_is_not_opened_for_others(tmp_path, monkeypatch):
    file = tmp_path / "secrets.txt"
    file.write_text("a secret")
    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    with pytest.raises(Refused, match="cannot be opened while the app serves others"):
        register_text(file, tmp_path)
    monkeypatch.delenv("MICROTOME_PUBLIC")
    assert register_text(file, tmp_path).startswith("text/secrets-")
