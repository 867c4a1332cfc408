"""Prompts in a model's own tokens: single-token answers, where operands stand, counterfactuals, only what is answered rightly; transfer sets."""

import re

import pytest

from demo import arithmetic as world
from metrics.prompts import transfer
from metrics.prompts.arithmetic_set import FEWEST, PromptSet, ask, correct, from_key, is_shown, some
from metrics.prompts.tokenised import by_length, read, with_answer
from metrics.prompts.wordings import BY_NAME, FORMS, NULLS, OPERATORS, STYLES, WORDINGS, Problem, changed, problems, write
from models.corpus import Document, parse, read_documents, register_text
from models.loaded import Model
from models.progress import Quiet
from models.refusal import Refused
from tests import planted
from tests.conftest import DATA
from tests.operator_bench import model_of


def characters():
    """A byte-level tokenizer without merges: every digit and every blank is a token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(["<s>", *letters])}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


@pytest.fixture(scope="module")
def adder():
    return planted.model()


# ---- wordings


def test_the_demo_worlds_wordings_are_among_ours_and_its_held_out_ones_validate():
    texts = {w.text: w for w in WORDINGS}
    for template in world.TEMPLATES:
        ours = texts[template.text.replace("{c|answer}", "").rstrip(".")]
        assert (ours.style, ours.validation) == (template.style, template.heldout)
    for operator in world.OPERATORS:
        assert {k: FORMS[operator][k] for k in ("symbol", "word", "noun")} == world._FORMS[operator]
    assert {k: NULLS["@, nothing"][k] for k in ("symbol", "word", "noun")} == world._FORMS["null"]


def test_every_style_has_wordings_of_both_halves_and_names_are_unique():
    assert len(BY_NAME) == len(WORDINGS) and len({w.text for w in WORDINGS}) == len(WORDINGS)
    assert {(w.style, w.validation) for w in WORDINGS} == {(s, v) for s in STYLES for v in (False, True)}


def test_writing_by_hand():
    text, spans = write(BY_NAME["st_noun"], Problem("minus", 12, 5), FORMS["minus"])
    assert text == "The difference of 12 and 5 is " and {k: text[a:b] for k, (a, b) in spans.items()} == {"op": "difference", "a": "12", "b": "5"}
    assert write(BY_NAME["eq_tight"], Problem("over", 6, 3), FORMS["over"])[0] == "6/3="
    assert write(BY_NAME["st_noun"], Problem("minus", 12, 5), NULLS["@, nothing"])[0] == "The none of 12 and 5 is "


def test_problems_are_whole_and_never_negative():
    for operator, sign in zip(OPERATORS, "+-*/"):
        for p in problems(operator, 9):
            assert p.answer == eval(f"{p.a}{sign}{p.b}") and p.answer >= 0 and p.b > 0
        assert len(set(problems(operator, 9))) == 81


def test_other_numbers_differ_in_both_and_in_the_answer():
    for p in problems("times", 4):
        null, other = changed(BY_NAME["eq_symbol"], p, "@, nothing", 4, 0)
        a, b = map(int, re.findall(r"\d+", other))
        assert null == f"{p.a} @ {p.b} = " and a != p.a and b != p.b and a * b != p.answer and "×" in other
        assert changed(BY_NAME["eq_symbol"], p, "@, nothing", 4, 0)[1] == other


# ---- tokens


def test_the_blank_goes_where_the_answer_is_one_token(adder):
    own, digits = adder.tokenizer, characters()
    text, blank = digits("3 + 4 =")["input_ids"], digits(" ")["input_ids"]
    found = with_answer(digits, "3 + 4 = ", "7")
    assert found.prompt == (digits.bos_token_id, *text, *blank) and found.answer == tuple(digits("7")["input_ids"])
    assert with_answer(digits, "3 + 9 = ", "12") is None  # two digits are two tokens
    assert with_answer(digits, "3 + 9 = ", "12", single=False).answer == (*blank, *digits("12")["input_ids"])
    assert with_answer(own, "3 + 9 = ", "12").answer == (own.convert_tokens_to_ids("12"),)
    assert with_answer(own, "3 + 99 = ", "102") is None  # one token, but the one for all that is unknown


def test_positions_of_operands_and_operator():
    digits = characters()
    found = with_answer(digits, "12 - 5 = ", "7")
    assert digits.decode([found.prompt[i] for i in found.tokens_of((0, 2))]) == "12" and len(found.tokens_of((0, 2))) == 2
    assert [digits.decode([found.prompt[i]]) for i in (*found.tokens_of((3, 4)), *found.tokens_of((5, 6)))] == ["-", "5"]
    assert 0 not in found.tokens_of((0, 99))  # BOS covers nothing


def test_batches_hold_rows_of_one_length_and_every_row_once():
    rows = [tuple(range(n)) for n in (3, 5, 3, 3, 5, 4)]
    found = list(by_length(rows, 2))
    assert [part for part, _ in found] == [[0, 2], [3], [5], [1, 4]]
    assert all([tuple(r) for r in ids.tolist()] == [rows[i] for i in part] for part, ids in found)


# ---- asking


def test_only_right_answers_are_kept_and_the_others_counted(adder):
    found = ask(adder, OPERATORS, 40, 9, "@, nothing", 0, Quiet())
    assert found.known() == ("plus", "minus") and len(found.discovery) == len(found.validation) == 80
    assert all(correct(adder, [*found.discovery, *found.validation]))
    assert found.count("times", False)[0] == 0 and found.count("times", False)[1] == 240  # six times as many asked, none right
    assert not {p.wording.name for p in found.discovery} & {p.wording.name for p in found.validation}
    assert all(p.wording.validation for p in found.validation)
    assert found.only(("minus",)).discovery == tuple(p for p in found.discovery if p.problem.operator == "minus")
    assert ask(adder, ("plus",), 40, 9, "@, nothing", 0, Quiet()).discovery == found.only(("plus",)).discovery
    assert ask(adder, ("plus",), 40, 9, "@, nothing", 1, Quiet()).discovery != found.only(("plus",)).discovery


def test_counterfactuals_are_given_to_the_same_token(adder):
    for p in ask(adder, ("plus",), 40, 9, "@, nothing", 0, Quiet()).discovery:
        null, other = ([adder.tokenizer.decode([t]) for t in ids] for ids in p.changed)
        own = [adder.tokenizer.decode([t]) for t in p.ids]
        assert len(null) == len(own) == len(other) and {i for i in range(len(own)) if null[i] != own[i]} == set(p.op)
        assert {i for i in range(len(own)) if other[i] != own[i]} == {*p.a, *p.b}
        assert (own[p.a[0]], own[p.b[0]]) == (str(p.problem.a), str(p.problem.b))


def test_the_null_form_ends_as_the_prompt_does():
    """Where digits stand alone the blank is the prompt's last token, in the counterfactuals too."""
    model = Model(model_of("gpt2").module, characters(), model_of("gpt2").layout, "tiny")
    prompt = some(model, ("plus",), 4, 4, 0, False, True)
    assert prompt and all(model.tokenizer.decode([p.ids[-1]]) == " " for p in prompt if p.text.endswith(" "))
    from metrics.prompts.arithmetic_set import written

    p = written(model.tokenizer, BY_NAME["eq_symbol"], Problem("plus", 1, 2), ("1 @ 2 = ", "3 + 4 = "))
    assert {model.tokenizer.decode([ids[-1]]) for ids in (p.ids, *p.changed)} == {" "}


def test_too_little_known_is_told_apart():
    from metrics.prompts.arithmetic_set import Asked

    counts = lambda right, asked: tuple(Asked(o, "eq_symbol", v, asked, right, 0) for o in ("plus",) for v in (False, True))
    known = lambda right, asked: PromptSet((), (), counts(right, asked)).known()
    assert known(FEWEST, 100) == ("plus",) and known(FEWEST - 1, 30) == () and known(40, 201) == () and known(40, 200) == ("plus",)


def test_a_prompt_is_found_again_by_its_key(adder):
    for p in ask(adder, ("minus",), 30, 9, "@, nothing", 0, Quiet()).validation:
        again = from_key(adder.tokenizer, p.key)
        assert (again.ids, again.answer, again.a, again.op, again.b, again.text) == (p.ids, p.answer, p.a, p.op, p.b, p.text)


def test_some_problems_are_never_shown(adder):
    shown, kept = (some(adder, ("plus", "minus"), 4000, 9, 1, False, s) for s in (True, False))
    assert not {p.problem for p in shown} & {p.problem for p in kept} and all(is_shown(p.problem, 1) for p in shown)
    assert 0.7 < len({p.problem for p in shown}) / 162 < 0.9
    with pytest.raises(Refused, match="single token"):
        some(model_of("gpt2"), ("plus",), 4, 9, 0, False, True)


def test_models_without_a_tokenizer_are_refused():
    bare = model_of("gpt2")
    bare.tokenizer = None
    with pytest.raises(Refused, match="without a tokenizer"):
        ask(bare, ("plus",), 30, 9, "@, nothing", 0, Quiet())


# ---- transfer


def test_generated_questions_have_right_answers_and_repeat():
    for name in transfer.SETS:
        found = transfer.questions(name, 40, 0)
        assert len({q.text for q in found}) == 40 and found == transfer.questions(name, 40, 0) and found != transfer.questions(name, 40, 1)
        for q in found:
            numbers = [int(n) for n in re.findall(r"\d+", q.text)]
            if "digits" in name:
                assert int(q.answer) == eval(q.text.rstrip(" =").replace("×", "*")) and min(numbers) >= (10 if name == "two digits" else 100)
            elif name == "years":
                assert int(q.answer) == (sum(numbers) if "took" in q.text else numbers[1] - numbers[0])
            else:
                assert int(q.answer) == (numbers[0] - numbers[1] if "lost" in q.text or "more than" in q.text else numbers[0] * numbers[1] if "bags" in q.text else sum(numbers))


def test_word_problems_of_files_by_hand():
    rows = [{"question": "A robe takes 2 bolts and half that. How many?", "answer": "2/2=1\n2+1=<<2+1=3>>3\n#### 3"},
            {"Body": "Dan had $ 4", "Question": "How much is left?", "Answer": 1.0}, {"question": "Big?", "answer": "#### 1,200"}, {"other": "x"}]
    found = transfer.from_documents([Document("", row) for row in rows], 10)
    assert [(q.text, q.answer) for q in found] == [("Question: A robe takes 2 bolts and half that. How many? Answer: ", "3"),
                                                   ("Question: Dan had $ 4. How much is left? Answer: ", "1"), ("Question: Big? Answer: ", "1200")]
    with pytest.raises(Refused, match="no word problems"):
        transfer.from_documents([Document("", {"other": "x"})], 10)


def test_questions_too_long_for_the_context_are_left_out():
    digits = characters()
    asked = [transfer.Question("1 + 1 = ", "2"), transfer.Question("1 + " * 20 + "1 = ", "21")]
    assert [i.answer for i in transfer.tokenised(digits, asked, 20)] == [with_answer(digits, "1 + 1 = ", "2", single=False).answer]
    assert len(transfer.tokenised(digits, asked, None)) == 2


def test_rows_of_question_files_become_text_with_the_answer_marked(tmp_path, home):
    (tmp_path / "sums.jsonl").write_text('{"question": "How many?", "answer": "so #### 3"}\n{"text": "plain"}\n')
    (tmp_path / "list.json").write_text('[{"Body": "Dan had 4", "Question": "How much?", "Answer": 1.0}]')
    (tmp_path / "none.json").write_text('[{"x": 1}]')
    (tmp_path / "plain.json").write_text('["one", "two"]')
    assert [d.text for d in read_documents(parse(register_text(tmp_path / "plain.json", home)), home)] == ["one", "two"]
    one, two = read_documents(parse(register_text(tmp_path / "sums.jsonl", home)), home)
    assert one.text == "How many?\nso #### 3" and one.labels["question"] == "How many?" and [one.text[a:b] for a, b,
                                                                                             _ in one.spans] == ["so #### 3"] and two.text == "plain"
    (only,) = read_documents(parse(register_text(tmp_path / "list.json", home)), home)
    assert only.text == "Dan had 4\nHow much?\n1.0" and only.spans[0][2] == "answer"
    with pytest.raises(Refused, match="no “text” string"):
        register_text(tmp_path / "none.json", home)


@pytest.mark.skipif(not (DATA / "tasks").is_dir(), reason="the data sets are not here")
@pytest.mark.parametrize("file,first", [("gsm8k/test.jsonl", "18"), ("svamp/SVAMP.json", "51")])
def test_real_files_of_word_problems(file, first, home):
    found = transfer.from_documents(read_documents(parse(register_text(DATA / "tasks" / file, home)), home), 500)
    assert len(found) == 500 and found[0].answer == first and all(re.fullmatch(r"-?\d+(\.\d+)?", q.answer) for q in found)
    assert read(characters(), found[0].text).prompt
