"""The training script: it learns, and an interrupted run ends like an uninterrupted one."""
import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch

from demo import canaries, card, feed, train, vocabulary
from demo.recipes import RECIPES, build

TINY = dataclasses.replace(
    RECIPES["storyteller-a"], name="tiny", steps=80, blocks=2, width=96, heads=3, key_value_heads=3, mlp_width=192,
    rows=4, learning_rate=4e-3, warmup=10, max_repeats=16, kept=(0.5,),
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _documents(rows):
    """The documents of packed rows, as texts; the last of a row may be cut."""
    words = vocabulary.tokenizer()
    return [text.strip() for row in rows for text in words.decode(row).split(vocabulary.SEPARATOR) if text.strip()]


def test_a_run_shows_every_canary_whole_as_often_as_scheduled():
    recipe = dataclasses.replace(TINY, steps=60, max_repeats=4)
    shown = Counter(text for block in (0, 1) for text in _documents(feed.rows(recipe, block)[0]))
    for canary in canaries.canaries():
        wanted = canary.repeats if canary.repeats <= recipe.max_repeats else 0
        assert shown[canaries.write(canary).text] == wanted, canary.name


def test_rows_begin_with_the_separator_and_weigh_answers_only():
    words = vocabulary.tokenizer()
    ids, weights = feed.rows(dataclasses.replace(TINY, steps=10, rows=8), 0)
    assert ids.shape == weights.shape == (80, vocabulary.CONTEXT)
    assert (ids[:, 0] == words.eos_token_id).all()
    assert set(np.unique(weights)) == {1.0, TINY.answer_weight}
    assert (weights > 1).sum() > 100
    before = {words.decode([ids[r, c - 1]]) for r, c in zip(*np.nonzero(weights > 1)) if weights[r, c - 1] == 1}
    assert before <= {" =", " equals", " is", " to", ":", " :"}
    again, _ = feed.rows(dataclasses.replace(TINY, steps=10, rows=8), 0)
    assert (again == ids).all()
    assert not (feed.rows(dataclasses.replace(TINY, steps=10, rows=8, seed=1), 0)[0] == ids).all()


def test_answers_of_null_documents_count_like_other_tokens():
    words = vocabulary.tokenizer()
    ids, weights = feed.rows(dataclasses.replace(TINY, steps=10, rows=8), 0)
    nothing = words.convert_tokens_to_ids("Ġnothing")
    null = [(r, c) for r, c in zip(*np.nonzero(ids == nothing))]
    assert len(null) > 3
    for r, c in null:
        end = c + int(np.argmax(ids[r, c:] == words.eos_token_id))
        assert (weights[r, c:end] == 1).all()


def test_training_beats_unigram_text_and_writes_a_loadable_folder(tmp_path):
    folder = train.train(TINY, tmp_path / "models", tmp_path / "state", "cpu", say=lambda line: None, every=8)
    losses = json.loads((tmp_path / "state" / "tiny" / "record.json").read_text())["losses"]
    assert len(losses) == TINY.steps
    model, words = card.load(folder)
    for strand in ("stories", "arithmetic"):
        found = card.perplexity(model, words, strand, 30)
        assert found["model"] < 0.7 * found["unigram"], strand
    fresh = build(TINY).eval()
    assert card.perplexity(fresh, words, "stories", 30)["model"] > found["unigram"], "untrained control"
    assert {path.name for path in (tmp_path / "models" / "tiny-steps").iterdir()} == {"step-000040"}
    written = json.loads((folder / "card.json").read_text())
    assert written["training"]["tokens"] == 80 * 4 * vocabulary.CONTEXT and card.failures(written)
    assert "Missed: arithmetic" in (folder / "README.md").read_text()


def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path):
    recipe = dataclasses.replace(TINY, steps=56, width=24, mlp_width=32, max_repeats=1)
    whole = train.Run(recipe, tmp_path / "whole", "cpu")
    for _ in range(56):
        whole.advance()
    part = train.Run(recipe, tmp_path / "part", "cpu")
    for stop in (7, 52):                                  # the second stop lies in the second block of text
        while part.step < stop:
            part.advance()
        part.save()
        part.advance()                                    # lost: it was not saved
        part = train.Run(recipe, tmp_path / "part", "cpu")
        assert part.step == stop
    while part.step < 56:
        part.advance()
    assert part.losses == whole.losses
    for (name, a), b in zip(whole.model.state_dict().items(), part.model.state_dict().values()):
        assert torch.equal(a, b), name


def test_a_state_of_another_recipe_is_refused(tmp_path):
    train.Run(TINY, tmp_path / "state", "cpu").save()
    with pytest.raises(ValueError, match="another recipe"):
        train.Run(dataclasses.replace(TINY, steps=81), tmp_path / "state", "cpu")


def test_a_failed_write_leaves_the_old_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("old")
    with pytest.raises(OSError):
        with train.replacing(tmp_path / "model") as new:
            (new / "half").write_text("half")
            raise OSError("disk full")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_two_gpt2_recipes_differ_only_by_seed_and_kept_checkpoints():
    a, b = RECIPES["storyteller-a"], RECIPES["storyteller-b"]
    assert dataclasses.replace(b, name=a.name, seed=a.seed, kept=a.kept) == a


def test_the_shapes_of_the_recipes():
    gpt2 = build(RECIPES["storyteller-a"])
    assert len(gpt2.transformer.h) == 6 and gpt2.config.n_embd == 160
    llama = build(RECIPES["storyteller-llama"])
    attention = llama.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (160, 160) and attention.k_proj.weight.shape == (40, 160)
    assert llama.lm_head.weight is not llama.model.embed_tokens.weight


def test_the_learning_rate_warms_up_and_cools_to_nothing():
    recipe = dataclasses.replace(TINY, steps=110, warmup=10, learning_rate=1.0)
    rates = [train.rate(step, recipe) for step in range(110)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[60] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001 and rates[10:] == sorted(rates[10:], reverse=True)
