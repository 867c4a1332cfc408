"""Skills: answers as greedy decoding gives them, books that hold the answer and books that do not, equal models lose nothing; a variant
that is really smaller has the same logits; operations by hand."""

import numpy as np
import pytest
import torch

import analysis.compression_skills as subject
from analysis import run as door
from analysis.compression_skills import words
from analysis.compression_skills.questions import SKILLS, questions
from analysis.compression_skills.speed import ratio, time_in_turn
from analysis.contract import Run, Shape
from analysis.theme import THEMES
from cache.codec import encode
from metrics.answers import answers
from metrics.model_flops import flops_per_token
from models import shelf
from models.progress import Quiet
from models.smaller import without_removed
from models.variant import parse as grammar
from operators import drop_layers, low_rank, parse
from tests.operator_bench import FAMILIES, model_of, planned, text_for

A = "demo/storyteller-a"
needs_demo = pytest.mark.skipif(not any(e.source == A for e in shelf.demo_models()), reason="the demo model is not trained yet")


# answers


def greedy(model, prompt, n):
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    return tuple(ids[len(prompt):])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_what_greedy_decoding_writes(family):
    model = model_of(family)
    prompts = [(0, 5, 9), (0, 7), (0, 3, 4, 5, 6, 20)]
    said = [greedy(model, p, n) for p, n in zip(prompts, (4, 1, 3))]
    assert answers(model, prompts, said).right.all()
    other = [tuple((t + (k == len(s) - 1)) % 32 for k, t in enumerate(s)) for s in said]  # only the last token is another
    found = answers(model, prompts, other)
    assert not found.right.any() and (found.log_p < answers(model, prompts, said).log_p).all()
    one = model.logits(torch.tensor([prompts[1]]))[0, -1].double().log_softmax(-1)[said[1][0]]
    assert answers(model, prompts, said).log_p[1] == pytest.approx(float(one), abs=1e-5)
    together, alone = answers(model, prompts, said, batch=32).log_p, answers(model, prompts, said, batch=1).log_p
    assert together == pytest.approx(alone, abs=1e-5)


# questions


def test_books_hold_the_answer_and_wrong_ones_do_not(home):
    asked = questions(home, 40, 0)
    assert {q.skill for q in asked} == set(SKILLS) and asked == questions(home, 40, 0) != questions(home, 40, 1)
    for q in asked:
        assert q.answer and q.text.endswith(" ") and q.answer in q.book
        if q.skill == "arithmetic":
            assert q.wrong.rstrip(".").split()[-1] != q.answer and q.text + q.answer not in q.book  # the same fact in other words, and another fact
        else:
            assert q.answer not in q.wrong and q.answer not in q.text
    assert len([q for q in asked if q.skill == "arithmetic"]) == 40
    seen = {q.text for q in asked if q.skill == "passages known by heart"}
    assert not seen & {q.text for q in asked if q.skill == "passages never seen"}


# the whole


@pytest.fixture
def lab(home):
    door.lab.cache_clear()
    yield door.lab(home)
    door.lab.cache_clear()


def computed(lab, b, **fields):
    params = subject.Params(**{"questions": 16, "repeats": 0, "resamples": 200, **fields})
    captures = tuple(lab.capture(v, None) for v in (parse(A), parse(b)))
    result = subject.compute(captures, params, Quiet())
    return Run("A → B", f"{A} → {b}", result, params, {})


@needs_demo
def test_equal_models_lose_nothing_and_controls_stay_at_zero(lab):
    run = computed(lab, f"{A}~drop_layers")
    r = run.result
    assert (r.change[np.isfinite(r.change)] == 0).all() and not r.lost.any() and not r.won.any() and (r.p == 1).all()
    assert r.accuracy_a[1, words.CLOSED, 0] > 0.9 and r.accuracy_a[2, words.CLOSED, 0] == 0  # known by heart; never seen
    assert r.accuracy_a[0, words.CLOSED, 0] > 0.8
    assert "no skill falls by more than chance" in subject.answer([run]) and r.flops_a == r.flops_b and not r.faster
    assert r.n_inputs == len(r.skill) and r.left_out == 0


@needs_demo
def test_a_broken_model_loses_what_it_knew(lab):
    run = computed(lab, f"{A}~drop_layers:mlp=0.1.2.3.4.5", repeats=2)
    r = run.result
    assert r.accuracy_b[1, words.CLOSED, 0] == 0 and r.change[1, words.CLOSED, 0] < -0.9 and r.p[1, words.CLOSED] < 0.01
    assert r.lost[1, words.CLOSED] > 10 and r.sure_change[1, words.CLOSED, 0] < -1
    assert "falls from" in subject.answer([run])
    assert r.faster and len(r.seconds_a) == 2 and r.flops_b < 0.6 * r.flops_a and "6 sublayers skipped" in r.how
    heads = subject.headlines([run])
    assert len(heads) == 4 and heads[1].label == "Extraction, B" and heads[1].value == 0 and heads[-1].label == "Time of a pass"
    encode(r)  # nothing of it is torch's
    for theme in THEMES.values():
        for card in subject.figures([run]):
            assert card.data.num_rows and card.alt
            for view in card.views.values():
                view(theme)


@needs_demo
def test_what_is_only_smaller_says_so(lab):
    run = computed(lab, f"{A}~round_to_nearest", questions=8)
    r = run.result
    assert not r.faster and len(r.seconds_a) == 0 and "integer codes" in r.how and r.flops_b == r.flops_a
    assert "Not faster here" in subject.answer([run])
    assert "A and B" not in "".join(h.note for h in subject.headlines([run]))


# really smaller


@pytest.mark.parametrize("family", FAMILIES)
def test_skipped_parts_give_the_same_logits(family):
    a = model_of(family, n_layers=4)
    b = planned(drop_layers, a, blocks=(1,), attn=(0,), mlp=(3,))[1]
    ids, smaller = text_for(a).ids, without_removed(b)
    with torch.inference_mode():
        assert (smaller(input_ids=ids, use_cache=False).logits - b.logits(ids)).abs().max() < 1e-5
    assert len(smaller.get_submodule(a.layout.blocks)) == 3 and len(b.blocks) == 4
    assert flops_per_token(smaller, 24) < flops_per_token(b.module, 24)
    assert without_removed(a) is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fields", [{"keep": 0.5}, {"keep": 0.6, "which": "mlp"}, {"keep": 0.8, "allocation": "welore"}], ids=str)
def test_two_thin_products_give_the_same_logits(family, fields):
    a = model_of(family)
    plan, b = planned(low_rank, a, metric="svd", **fields)
    ids, thin = text_for(a).ids, low_rank.physical(a, plan)
    with torch.inference_mode():
        assert (thin(input_ids=ids, use_cache=False).logits - b.logits(ids)).abs().max() < 1e-4
    assert flops_per_token(thin, 24) < flops_per_token(a.module, 24)
    before = flops_per_token(a.module, 24)
    assert flops_per_token(a.module, 24) == before  # the original kept its matrices


def test_operations_by_hand():
    """GPT-2 of width 16, 2 blocks, vocabulary 32: per block c_attn 16·48, c_proj 16·16, c_fc 16·64, c_proj 64·16; head 16·32; attention
    4 · 16 · 24 / 2 a block."""
    model = model_of("gpt2", n_layers=2)
    matrices = 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 16 * 32
    assert flops_per_token(model.module, 24) == 2 * matrices + 2 * (4 * 16 * 24 / 2)


def test_time_is_taken_in_turn_and_its_ratio_has_an_interval():
    a, b = model_of("gpt2", n_layers=1).module, model_of("gpt2", n_layers=6).module
    one, other = time_in_turn(a, b, 32, 16, 12, Quiet())
    assert one.shape == other.shape == (12,) and (one > 0).all() and (other > 0).all()
    middle, low, high = ratio(one, other)
    assert low <= middle <= high and middle > 1.5
    assert np.isnan(ratio(np.zeros(0), np.zeros(0))).all()


@needs_demo
def test_the_lab_says_what_would_run(lab):
    for recipe, smaller, word in (("drop_layers:blocks=3", True, "1 of 6 blocks left out"), ("low_rank:metric=svd,keep=0.5", True, "two thin factors"), ("magnitude", False, "bitmap"), ("flap:share=0.3", True, "fewer operations"), ("crash:clusters=5,rest=remove", True, "1 of 6 blocks"),
                                  ("slice_gpt:slice=0.2", False, "no place for a stream narrower"), ("magnitude~drop_layers:blocks=3", True, "1 of 6 blocks")):
        module, said = lab.physical(parse(f"{A}~{recipe}"))
        assert (module is not None) == smaller and word in said
    assert lab.physical(grammar(A))[0] is None
    narrow, said = lab.physical(parse("demo/storyteller-llama~drop_layers:blocks=2~slice_gpt:slice=0.2"))
    assert narrow.config.hidden_size < 160 and narrow.config.num_hidden_layers == 5


def test_the_estimate_counts_questions_and_passes():
    shape = Shape(6, 160, 640, 8, 942, 2_000_000)
    few, many = subject.Params(questions=8, repeats=0), subject.Params(questions=80, repeats=10)
    assert subject.cost(shape, 0, many) > 10 * subject.cost(shape, 0, few) > 0
