"""Two networks, unit by unit: a planted order is found and merges without loss, an unrelated model does not; three models; words."""

import dataclasses

import numpy as np
import pytest
import torch

import analysis.singular_alignment as subject
from analysis.contract import Run, Shape
from analysis.singular_alignment import words
from analysis.singular_alignment.several import Several
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics.permutation import methods
from metrics.permutation.singular import GAMMAS
from metrics.permutation.spec import random_maps
from metrics.permutation.transformer import symmetry_of, tied, untied
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from tests.operator_bench import FAMILIES, Text, model_of, text_for

PARAMS = subject.Params(learn_steps=3, fit=8, points=5, nulls=6, resamples=100)


def captures(*models):
    text = text_for(models[0], n_sequences=16, length=16)
    return tuple(Text(m, text.ids, text.keep) for m in models)


def computed(*models, **params):
    return subject.compute(captures(*models), dataclasses.replace(PARAMS, **params), Quiet())


def planted(a, seed=0):
    symmetry = symmetry_of(a)
    return symmetry.permuted(a, random_maps(symmetry.spec, torch.Generator().manual_seed(seed)))


def run(result, **params):
    return Run("A → B", "demo/a → demo/b", result, dataclasses.replace(PARAMS, **params), {})


def drawn(result):
    for card in subject.figures([run(result)]):
        assert card.data.num_rows and card.reading and card.alt and "nan" not in card.reading
        for draw in card.views.values():
            draw(THEMES["light"])


@pytest.fixture(scope="module")
def result():
    a = model_of("gpt2")
    return computed(a, planted(a))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_order_is_found_by_weights_and_merges_without_loss(family):
    a = model_of(family)
    r = computed(a, planted(a))
    weights, none, chance = (r.methods.index(m) for m in (methods.WEIGHTS, methods.NONE, methods.RANDOM))
    total, null = r.total()
    assert total[weights] == pytest.approx(np.ones(len(GAMMAS))) and abs(total[none, 0]) < 0.3 and np.abs(null[:, 0]).max() < 0.3
    assert r.barrier[weights, :, 0] == pytest.approx([0, 0], abs=1e-5) and abs(r.barrier[none, 1, 0]) > 0.01
    assert r.reduction[weights] == pytest.approx(100, abs=1e-3) and abs(r.reduction[chance]) < 20
    assert (r.fit_cosine > 0.9999).all() and (r.fit_other < 0.9999).all() and np.median(r.fit_null) < 0.8
    assert r.merged()[weights] == pytest.approx(np.ones(len(GAMMAS))) and r.taylor[weights] == pytest.approx(0, abs=1e-6)
    assert r.cut_agreement[0] > 0.5 and abs(r.nll[:, 0] - r.nll[0, 0]).max() == 0  # the ends are the models themselves
    assert np.nanmax(np.abs(r.spectrum_a - r.spectrum_b)) < 1e-5


def test_a_rotated_stream_is_found_too():
    from metrics.permutation.transformer import folded

    a = model_of("llama")
    flat = folded(a)
    symmetry = symmetry_of(flat, rotate=True)
    b = symmetry.permuted(flat, random_maps(symmetry.spec, torch.Generator().manual_seed(0)))
    b.config.tie_word_embeddings = a.config.tie_word_embeddings
    r = computed(a, b, stream="rotated", learn_steps=0)
    k = r.methods.index(methods.WEIGHTS)
    assert r.barrier[k, :, 0] == pytest.approx([0, 0], abs=1e-4) and r.total()[0][k, 0] == pytest.approx(1, abs=1e-5)
    assert computed(a, b, stream="permuted", learn_steps=0).total()[0][k, 0] < 0.9
    assert "resid" not in r.unit_spaces and methods.LEARNED not in r.methods
    drawn(r)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unrelated_model_keeps_its_barrier(family):
    """The negative control: no order makes two random functions one, and a random order aligns nothing."""
    r = computed(model_of(family), model_of(family, 5))
    total, null = r.total()
    weights, chance = r.methods.index(methods.WEIGHTS), r.methods.index(methods.RANDOM)
    assert total[weights, 0] < 0.6 and r.reduction[weights] < 50
    assert null[:, 0].min() - 0.1 < total[chance, 0] < null[:, 0].max() + 0.1
    assert (r.fit_cosine < 0.95).all()
    found, search = total[weights], r.search()
    g = [0, 6]  # γ = 0 and 0.3: what the search finds here is what it finds between any two
    assert (search[:, g] > null[:, g].max(0)).all() and (np.abs(found[g] - search[:, g].mean(0)) < 0.06).all() and (found[g] > null[:, g].max(0)).all()
    drawn(r)


def test_a_model_with_itself_is_already_in_order():
    a = model_of("gpt2")
    r = computed(a, a.copy("b"))
    k = r.methods.index(methods.NONE)
    assert r.distance == 0 and (r.fit_partner == r.fit_unit).all() and r.total()[0][k] == pytest.approx(np.ones(len(GAMMAS))) and r.search()[:, 0].max() < 0.6
    assert r.barrier[k, :, 0] == pytest.approx([0, 0], abs=1e-6) and "the same weights" in subject.answer([run(r)])
    drawn(r)


def test_a_model_and_itself_with_a_head_of_its_own_are_the_same():
    """A merge with a rotated stream has come apart from its embedding; its parent's head is taken from the embedding then."""
    a = model_of("gpt2")
    b = untied(a.copy("b"))
    assert tied(a) and not tied(b) and torch.equal(a.logits(torch.tensor([[1, 2, 3]])), b.logits(torch.tensor([[1, 2, 3]])))
    for pair in ((a, b), (b, a)):
        r = computed(*pair)
        k = r.methods.index(methods.NONE)
        assert r.distance == 0 and r.total()[0][k] == pytest.approx(np.ones(len(GAMMAS))) and r.barrier[k, :, 0] == pytest.approx([0, 0], abs=1e-6)
    assert tied(a)


def test_numbers_are_the_plain_ones(result):
    r = result
    assert r.nll.shape == (5, 5, 8) and r.methods[-1] == methods.RANDOM and r.share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    loss = r.nll.sum(-1) / r.tokens.sum()
    line = r.share * loss[0, -1] + (1 - r.share) * loss[0, 0]
    assert r.barrier[:, 1, 0] == pytest.approx((loss - line)[:, 2]) and r.barrier[:, 0, 0] == pytest.approx((loss - line).max(1))
    each, null = r.r(0.31)
    g = list(GAMMAS).index(0.3)
    assert each == pytest.approx(r.r_sums[:, :, g] / np.sqrt(r.ranks_a * r.ranks_b)[:, g]) and null.shape == (6, len(r.piece))
    read = np.isfinite(r.along).any(1)
    assert read.sum() == 6 * 3 and (r.along[read][np.isfinite(r.along[read])] <= 1).all() and ((r.chance[read] > 0.1) & (r.chance[read] < 0.3)).all()
    assert len(r.learned_losses) == 3 and r.head_cosine.shape == (3, 2, 2)


def test_it_survives_the_store_and_gamma_only_redraws(result, tmp_path):
    arrays, tables, plain = encode(result)
    store = Store(tmp_path)
    store.put("0" * 64, arrays=arrays, tables=tables, record={"plain": plain})
    back = decode(subject.Result, store.get("0" * 64))
    assert subject.answer([run(back)]) == subject.answer([run(result)])
    drawn(back)
    from models.params import key_params

    assert "gamma" not in key_params(PARAMS)
    assert "γ = 0.6" in subject.answer([run(result, gamma=0.62)]) and "γ = 0.3" in subject.answer([run(result)])
    assert all(h.value is not None for h in subject.headlines([run(result)])) and len(subject.headlines([run(result)])) == 4


def test_three_models_where_two_are_the_first_in_other_orders():
    a = model_of("llama")
    r = computed(a, planted(a, 1), planted(a, 2), learn_steps=0)
    s = Several(**r.several)
    off = ~np.eye(3, dtype=bool)
    assert s.pair_barrier[1][off] == pytest.approx(np.zeros(6), abs=1e-5) and s.pair_barrier[2][off] == pytest.approx(np.zeros(6), abs=1e-5)
    assert np.abs(s.pair_barrier[0][off]).max() > 0.01 and s.cycle == pytest.approx(np.zeros((1, 3))) and s.kinds == ("mlp", "heads", "resid")
    assert s.average[1, 0] == pytest.approx(s.parents[0, 0], abs=1e-5) and s.average_barrier[2] == pytest.approx(0, abs=1e-5)
    corner = np.argmax(s.corner_weights[:, 1])
    assert s.corner_loss[:, corner] == pytest.approx([s.parents[1, 0]] * 3, abs=1e-5) and s.distance[-1] == pytest.approx(0, abs=1e-6)
    assert "MergeMany" in subject.answer([run(r)])
    drawn(r)


def test_three_unrelated_models_do_not_close_the_cycle():
    r = computed(*(model_of("gpt2", seed) for seed in (0, 1, 2)), learn_steps=0)
    s = Several(**r.several)
    assert s.cycle[0, s.kinds.index("mlp")] > 0.5 and s.pair_barrier.shape == (3, 3, 3) and np.isnan(s.pair_barrier[:, 0, 0]).all()
    assert s.distance[-1] < s.distance[0]
    drawn(r)


def test_bad_questions_are_refused_in_words():
    a = model_of("gpt2")
    with pytest.raises(NotApplicable, match="different equations"):
        computed(a, model_of("llama"))
    with pytest.raises(NotApplicable, match="only models of one shape"):
        computed(a, model_of("gpt2", n_layers=2))
    with pytest.raises(Refused, match="leave none to measure on"):
        computed(a, a, fit=16)
    first, second = captures(a, a)
    second.ids = second.ids + 1
    with pytest.raises(NotApplicable, match="different tokens"):
        subject.compute((first, second), PARAMS, Quiet())


def test_the_estimate_grows_with_what_is_asked():
    shape = Shape(6, 160, 640, 8, 942, 2_000_000)
    assert subject.cost(shape, 5000, PARAMS) < subject.cost(shape, 5000, dataclasses.replace(PARAMS, learn_steps=100)) < subject.cost(shape, 50_000, dataclasses.replace(PARAMS, learn_steps=100))
