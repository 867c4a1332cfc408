"""Bigram tables by hand, exact against counted, streaming, and text that stays apart from what is measured."""

import json
from itertools import islice

import numpy as np
import pytest
import torch

from demo import bigrams as demo_bigrams
from demo.vocabulary import tokenizer
from models import bigrams
from models.corpus import Corpus, parse, read_documents, register_text
from models.refusal import Refused
from tests import tiny


def dense(table):
    out = np.zeros((table.n_vocab, table.n_vocab))
    for token in range(table.n_vocab):
        at = slice(*table.start[table.slot[token] : table.slot[token] + 2])
        out[token, table.column[at]] = table.p[at]
    return out


def test_by_hand_with_an_unseen_token_and_an_unseen_pair():
    """0 1 0 1 0 2: after 0 comes 1, 1, 2; after 1 always 0; 2 is never a previous token and gets the unigram of what follows."""
    table = bigrams.count([[0, 1, 0, 1, 0, 2]], 3, "hand")
    assert np.allclose(dense(table), [[0, 2 / 3, 1 / 3], [1, 0, 0], [2 / 5, 2 / 5, 1 / 5]])
    assert table.n_pairs == 5 and table.n_unseen == 1
    found = table.surprisal(np.array([0, 0, 1, 1, 2]), np.array([1, 2, 0, 2, 2]))
    assert np.allclose(found, [np.log2(1.5), np.log2(3), 0, np.inf, np.log2(5)])
    assert np.allclose(table.entropy(np.array([0, 1])), [np.log2(3) - 2 / 3, 0])
    row, column, p = table.rows(torch.tensor([1, 2, 0]))
    assert row.tolist() == [0, 1, 1, 1, 2, 2] and column.tolist() == [0, 0, 1, 2, 1, 2]
    assert torch.allclose(p, torch.tensor([1, 2 / 5, 2 / 5, 1 / 5, 2 / 3, 1 / 3]))


def test_nothing_counted_is_uniform():
    table = bigrams.count([], 4, "none")
    assert np.allclose(dense(table), 0.25) and np.allclose(table.surprisal(np.array([3]), np.array([1])), 2)


def test_pairs_do_not_cross_sequences_and_stop_at_most():
    whole = bigrams.count([[0, 1], [1, 0], [0, 2]], 3, "x")
    assert whole.n_pairs == 3 and np.isinf(whole.surprisal(np.array([1]), np.array([1])))
    assert bigrams.count([[0, 1, 2, 0, 1]] * 9, 3, "x", most=6).n_pairs == 6


def test_merging_chunks_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    lines = [rng.integers(0, 9, 7).tolist() for _ in range(200)]
    once = bigrams.count(lines, 9, "x")
    monkeypatch.setattr(bigrams, "AT_ONCE", 25)
    often = bigrams.count(lines, 9, "x")
    assert all(np.array_equal(getattr(once, f), getattr(often, f)) for f in ("slot", "start", "column", "p"))
    counts = np.zeros((9, 9))
    for line in lines:
        np.add.at(counts, (line[:-1], line[1:]), 1)
    assert np.allclose(dense(once), counts / counts.sum(1, keepdims=True)) and np.allclose(dense(bigrams.from_table(counts, "x")), dense(once))


def test_exact_arithmetic_is_what_counting_tends_to(tmp_path):
    words, corpus = tokenizer(), parse("demo/arithmetic:8x32")
    exact = bigrams.exact(corpus, words, len(words))
    counted = bigrams.of_text(corpus, words, len(words), 200_000, tmp_path)
    assert exact.n_pairs == 0 and counted.n_pairs == 200_000
    seen = np.unique(corpus.tokens_for(words, tmp_path).ids)
    a, b = dense(exact)[seen], dense(counted)[seen]
    often = np.flatnonzero(demo_bigrams.exact("arithmetic", "train")[seen].sum(1) > 0.05)
    assert len(often) > 5 and 0.5 * np.abs(a - b)[often].sum(1).max() < 0.1
    assert bigrams.exact(parse("demo/stories"), words, len(words)) is None
    assert bigrams.exact(corpus, tiny.tokenizer(), 32) is None  # another tokenizer: the table would name other tokens


def test_a_file_is_cut_into_what_is_measured_and_the_rest(tmp_path):
    lines = [json.dumps({"text": f"w{i % 28} w{(i * 7) % 28} w{(i * 3) % 28} u{i}"}) for i in range(60)]
    file = tmp_path / "text.jsonl"
    file.write_text("\n".join(lines))
    corpus = parse(register_text(file, tmp_path) + ":4x16")
    words = tiny.tokenizer()
    other, documents = bigrams.apart(corpus, words, tmp_path)
    rest = [d.text for d in documents]
    measured, used = [], 0
    for document in read_documents(corpus, tmp_path):  # packed: documents until 4 × 15 tokens are there
        if used >= 4 * 15:
            break
        measured.append(document.text)
        used += 5
    assert len(rest) > 40 and not set(rest) & set(measured)
    assert bigrams.of_text(corpus, words, 32, 10**6, tmp_path).n_pairs >= 5 * len(rest) - 1
    whole = Corpus(corpus.source, n_sequences=1_000, length=16)
    with pytest.raises(Refused, match="no text beyond"):
        bigrams.of_text(whole, words, 32, 100, tmp_path)


def test_demo_text_is_counted_on_the_training_split(tmp_path):
    other, documents = bigrams.apart(parse("demo/stories:4x64"), tokenizer(), tmp_path)
    assert other.split == "train" and len(list(islice(documents, 3))) == 3
    again, _ = bigrams.apart(parse("demo/stories:train:4x64"), tokenizer(), tmp_path)
    assert again.split == "train" and again.seed == 1


def test_a_bos_before_a_cut_piece_is_not_imitated():
    keep = torch.ones(2, 5, dtype=torch.bool)
    words = tiny.tokenizer()
    assert bigrams.counted_positions(Corpus("text/x", length=5), words, keep).sum(1).tolist() == [4, 4]
    for corpus in (Corpus("text/x", length=5, bos=False), Corpus("text/x", length=5, packing="padded")):
        assert bigrams.counted_positions(corpus, words, keep).all()
