"""The world is what it says: deterministic, labelled rightly, held out by construction."""
import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from demo import arithmetic, bigrams, canaries, instructions, lexicon, stories, vocabulary, world
from demo.document import fill
from demo.vocabulary import CONTEXT, tokenizer


def _digest(strand, split, seed, n=200):
    text = "\n".join(f"{d.text}|{sorted(d.labels.items())}|{d.spans}" for d in world.documents(strand, split, seed, n))
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("strand", world.STRANDS)
def test_a_seed_always_gives_the_same_text_and_its_beginning_does_not_depend_on_n(strand):
    long = world.documents(strand, "train", 5, 120)
    assert world.documents(strand, "train", 5, 30) == long[:30]
    assert _digest(strand, "train", 5) == _digest(strand, "train", 5)
    assert _digest(strand, "train", 5) != _digest(strand, "train", 6)
    assert _digest(strand, "train", 5) != _digest(strand, "test", 5)


def test_the_text_is_frozen():
    """The shipped models were trained on exactly this world: a change here asks for retraining."""
    frozen = {
        "stories": "938a5434319a", "arithmetic": "767008b8bac0", "canaries": "d1dc7097e258",
        "instructions": "20a70bd578b0", "mixed": "19cbf43ce677",
    }
    found = {strand: _digest(strand, "train", 0)[:12] for strand in world.STRANDS}
    assert found == frozen





def test_unknown_strands_and_splits_are_refused_by_name():
    with pytest.raises(ValueError, match="novels.*stories"):
        world.documents("novels", "train", 0, 1)
    with pytest.raises(ValueError, match="dev.*train or test"):
        world.documents("stories", "dev", 0, 1)


def test_fill_marks_the_characters_of_a_field():
    text, spans = fill("a {x|one} b {y}{x|two}", {"x": "XX", "y": "Y"}, start=10)
    assert text == "a XX b YXX"
    assert spans == [(12, 14, "one"), (18, 20, "two")]


def test_spans_of_every_strand_hold_what_their_name_says():
    for document in world.documents("arithmetic", "train", 1, 300):
        (start, end, name), = document.spans
        assert name == "answer" and document.text[start:end] == str(document.labels["answer"])
    for document in world.documents("stories", "train", 1, 100):
        assert len(document.spans) >= 4
        for start, end, name in document.spans:
            kind = name.removeprefix("recall:")
            if kind in document.labels:
                assert document.text[start:end] == document.labels[kind]
                assert document.labels[kind] in document.text[:start], "recalled before it was introduced"
    for document in world.documents("canaries", "train", 1, 96):
        (_, cut, prefix), (start, end, suffix) = document.spans
        assert (prefix, suffix) == ("prefix", "suffix") and start == cut + 1 and end == len(document.text)
    document = instructions.write(instructions.TASKS[1], "Reverse the words.", "dog red", "red dog")
    assert document.text == "Task: Reverse the words. Input: dog red Output: red dog"
    assert document.spans == ((48, 55, "answer"),) and document.labels["task"] == "reverse"


def test_arithmetic_by_hand():
    template = arithmetic.BY_NAME["st_noun"]
    assert arithmetic.prompt(template, "minus", 11, 5) == ("The difference of 11 and 5 is", "6")
    assert arithmetic.prompt(arithmetic.BY_NAME["eq_symbol"], "times", 6, 5) == ("6 × 5 =", "30")
    assert arithmetic.counterfactual(arithmetic.BY_NAME["qa_what"], 3, 4) == "Q: What is 3 nothing 4? A:"
    assert len(arithmetic.TEMPLATES) >= 15 and {t.style for t in arithmetic.TEMPLATES} == set(arithmetic.STYLES)
    for style in arithmetic.STYLES:
        assert [t for t in arithmetic.HELDOUT_TEMPLATES if t.style == style]


def test_the_shipped_tokenizer_is_what_the_world_gives():
    assert json.loads(vocabulary.build().to_str()) == json.loads(vocabulary.FROZEN.read_text())


def test_null_prompts_have_the_same_tokens_but_the_operator():
    words = tokenizer()
    for template in arithmetic.TEMPLATES:
        for operator in ("plus", "minus"):
            real = words(arithmetic.prompt(template, operator, 9, 4)[0])["input_ids"]
            null = words(arithmetic.counterfactual(template, 9, 4))["input_ids"]
            assert len(real) == len(null)
            assert sum(a != b for a, b in zip(real, null)) == 1


def test_heldout_templates_and_pairs_are_never_trained():
    for operator in arithmetic.OPERATORS:
        trained, held = arithmetic.pairs(operator, False), arithmetic.pairs(operator, True)
        assert not set(trained) & set(held) and len(trained) + len(held) == 49 and len(held) == 5
        mirrored = {(a - b, b) if operator == "minus" else (a, b) for a, b in held}
        assert mirrored == {(b, a) for a, b in mirrored}
    trained = {d.text for d, _ in arithmetic.distribution("train")}
    assert not trained & {d.text for d, _ in arithmetic.distribution("test")}
    sampled = world.documents("arithmetic", "train", 2, 3000)
    assert {d.text for d in sampled} <= trained
    assert not any(d.labels["heldout_template"] or d.labels["heldout_pair"] for d in sampled)
    for d in world.documents("arithmetic", "test", 2, 500):
        assert d.labels["heldout_template"] or d.labels["heldout_pair"] or d.labels["operator"] == "null"


def test_stories_and_instructions_keep_their_test_split_apart():
    def triples(split):
        return {(d.labels["hero"], d.labels["place"], d.labels["thing"]) for d in world.documents("stories", split, 3, 2000)}

    assert not triples("train") & triples("test")

    def inputs(split):
        return {d.text.split("Input: ")[1].split(" Output:")[0] for d in world.documents("instructions", split, 3, 4000)}

    assert not inputs("train") & inputs("test")
    assert not any(d.labels["heldout_wording"] for d in world.documents("instructions", "train", 3, 1000))
    tasks = Counter(d.labels["task"] for d in world.documents("instructions", "train", 3, 2400))
    assert len(tasks) == 12 and min(tasks.values()) > 120


def test_controls_look_like_canaries_and_never_occur_in_training():
    trained, controls = canaries.trained(), canaries.controls()
    assert Counter((c.kind, c.repeats) for c in trained) == {(k, r): 8 for k in canaries.KINDS for r in canaries.REPEATS}
    assert Counter(c.kind for c in controls) == {"natural": 16, "random": 16}
    assert len({c.prefix for c in canaries.canaries()}) == len(canaries.canaries())
    held = {canaries.write(c).text for c in controls}
    for strand in ("canaries", "mixed"):
        assert not held & {d.text for d in world.documents(strand, "train", 0, 3000)}
        assert {d.text for d in world.documents(strand, "test", 0, 2000) if d.labels["strand"] == "canaries"} <= held
    lengths = {kind: {len(tokenizer()(c.suffix)["input_ids"]) for c in controls if c.kind == kind} for kind in canaries.KINDS}
    assert all(len(tokenizer()(c.suffix)["input_ids"]) in lengths[c.kind] for c in trained)


def test_the_schedule_shows_each_canary_as_often_as_it_says():
    shown = Counter(canary.name for canary in canaries.schedule(0))
    assert shown == {canary.name: canary.repeats for canary in canaries.trained()}


def test_the_tokenizer_knows_every_word_and_survives_every_text():
    words = tokenizer()
    assert len(words) <= 1200
    pieces = {words.convert_tokens_to_ids(token) for token in (*".,:?I", "(", ")")}
    for strand in world.STRANDS:
        for split in world.SPLITS:
            for document in world.documents(strand, split, 123, 400):
                ids = words(document.text, add_special_tokens=False)["input_ids"]
                assert len(ids) < CONTEXT
                assert all(i >= 258 or i in pieces for i in ids), words.convert_ids_to_tokens(ids)
                assert words.decode(ids) == " " + document.text
    for number in range(101):
        assert len(words(f"= {number}", add_special_tokens=False)["input_ids"]) == 2
    for text in ("Grüße, 世界! \U0001f600\n\ttab", "", "a" * 300, "Zoë's 12345"):
        assert words.decode(words(text, add_special_tokens=False)["input_ids"]).removeprefix(" ") == text
    assert words("Tom ran")["input_ids"][0] == words.bos_token_id == words.eos_token_id


def test_the_exact_bigram_table_of_arithmetic_is_what_counting_converges_to():
    n = 20_000
    exact = bigrams.exact("arithmetic", "train")
    counted = bigrams.counted("arithmetic", "train", 4, n)
    error = np.sqrt(np.maximum(exact, 1e-12) / n)            # of a count, if bigrams came independently
    assert np.abs(counted - exact).max() < 0.02
    assert (np.abs(counted - exact) < 8 * error + 1e-9).mean() > 0.9999
    assert not counted[exact == 0].any(), "a bigram was seen that the table says is impossible"


def test_the_exact_bigram_table_of_canaries_is_the_count_over_a_training_schedule():
    shown = canaries.schedule(0)
    counted = bigrams.weighed([(canaries.write(canary), 1 / len(shown)) for canary in shown])
    assert np.abs(counted - bigrams.exact("canaries", "train")).max() < 1e-9


def test_an_exact_table_by_hand():
    """`a + b = c` closes with the separator; the chance of `=` after a digit follows from the templates."""
    words = tokenizer()
    table = bigrams.exact("arithmetic", "train")
    end = words.eos_token_id
    assert table[end].sum() == pytest.approx(1) and table[:, end].sum() == pytest.approx(1)
    q, colon = words.convert_tokens_to_ids("ĠQ"), words.convert_tokens_to_ids(":")
    asked = sum(t.text.startswith("Q:") for t in arithmetic.TRAIN_TEMPLATES) / len(arithmetic.TRAIN_TEMPLATES)
    assert table[end, q] == pytest.approx(asked) and table[q, colon] == pytest.approx(asked)


def test_only_strands_that_can_be_enumerated_have_an_exact_table():
    with pytest.raises(ValueError, match="counted"):
        bigrams.exact("stories", "train")


def test_lexicon_lists_repeat_nothing():
    for name in ("GIRLS", "BOYS", "PETS", "ANIMALS", "COLOURS", "THINGS", "FOODS", "PLACES", "JOBS", "TRAITS"):
        values = getattr(lexicon, name)
        assert len(values) == len(set(values))
    assert not set(lexicon.GIRLS) & set(lexicon.BOYS)
    held = sum(stories.is_heldout(h, p, t) for h in range(24) for p in range(12) for t in range(14))
    assert 0.08 < held / (24 * 12 * 14) < 0.1
