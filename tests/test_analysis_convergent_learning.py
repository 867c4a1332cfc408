"""Units of two networks on one text: a planted order comes back whole, a shuffled text gives nothing, an untrained network little."""

import dataclasses

import numpy as np
import pytest
import torch

import analysis.convergent_learning as subject
from analysis.contract import Run, Shape
from analysis.convergent_learning import tables, words
from analysis.convergent_learning.measure import BEST, FRESH, ONE, SHUFFLED
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics.permutation.spec import random_maps
from metrics.permutation.transformer import symmetry_of
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from tests.operator_bench import FAMILIES, Text, model_of, text_for

PARAMS = subject.Params(groups=4, predicted=12, resamples=100)


def computed(*models, n_sequences=48, length=32, shift=0, **params):
    text = text_for(models[0], n_sequences=n_sequences, length=length)
    ids = [text.ids, text.ids.roll(shift, 0) if shift else text.ids]
    return subject.compute(tuple(Text(m, i, text.keep) for m, i in zip(models, ids)), dataclasses.replace(PARAMS, **params), Quiet())


def run(result, **params):
    return Run("A → B", "demo/a → demo/b", result, dataclasses.replace(PARAMS, **params), {})


@pytest.fixture(scope="module", params=FAMILIES)
def planted(request):
    """(result, the order of B's MLP units by block) for B = A with its units renamed."""
    a = model_of(request.param)
    symmetry = symmetry_of(a)
    maps = random_maps(symmetry.spec, torch.Generator().manual_seed(3))
    return computed(a, symmetry.permuted(a, maps)), maps


def test_a_planted_order_comes_back(planted):
    result, maps = planted
    for i, layer in enumerate(result.layers):
        assert (result.partner[i] == np.argsort(maps[f"mlp.{layer}"].numpy())).all()
    assert (result.best == result.partner).all()
    assert np.allclose(result.r[ONE], 1, atol=1e-6) and np.allclose(result.mean[ONE], 1, atol=1e-6)
    assert np.allclose(result.explained[0], 1, atol=1e-5)
    assert np.abs(result.r[SHUFFLED]).max() < 0.35 and abs(words.overall(result, SHUFFLED)) < 0.06
    assert np.nanmedian(result.explained[1]) <= 0.01


def test_groups_of_a_renamed_network_hold_a_unit_and_its_copy(planted):
    result, _ = planted
    for i in range(len(result.layers)):
        assert (result.group_a[i] == result.group_b[i][result.partner[i]]).all()
        assert (result.sizes[i, :, 0] == result.sizes[i, :, 1]).all() and result.sizes[i].sum() == 2 * result.units_a.shape[1]


def test_the_same_model_twice_is_its_own_partner():
    a = model_of("gpt2")
    result = computed(a, a)
    assert (result.partner == np.arange(result.partner.shape[1])).all() and np.allclose(result.r[:2], 1)


def test_networks_that_share_nothing_but_the_text_come_out_between_luck_and_one():
    result = computed(model_of("gpt2"), model_of("gpt2", seed=7))
    assert words.overall(result, SHUFFLED) < 0.1 < words.overall(result, ONE) < 0.9
    assert abs(words.overall(result, ONE) - words.overall(result, FRESH)) < 0.15  # neither has learned: B is no better than a fresh one
    assert (np.nanmean(result.r[BEST], 1) >= np.nanmean(result.r[ONE], 1) - 0.05).all()


def test_r_is_numpys_and_is_measured_where_partners_were_not_chosen():
    a, b = model_of("gpt2"), model_of("gpt2", seed=7)
    text = text_for(a, n_sequences=48, length=32)
    result = computed(a, b)
    acts = []
    for m in (a, b):
        seen = []
        module, side = m.site(1, "mlp_post")
        handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.no_grad():
            m.module(input_ids=text.ids[24:])
        handle.remove()
        acts.append(seen[0][text.keep[24:]].double().numpy())
    expected = np.corrcoef(acts[0].T, acts[1].T)[: acts[0].shape[1], acts[0].shape[1] :]
    n = np.arange(acts[0].shape[1])
    assert np.allclose(result.r[ONE, 1], expected[n, result.partner[1]], atol=1e-5)
    assert np.allclose(result.mean[ONE, 1, 0], result.r[ONE, 1].mean(), atol=1e-5) and result.mean[ONE, 1, 1] <= result.mean[ONE, 1, 0] <= result.mean[ONE, 1, 2]


def test_wide_mlps_are_sampled_and_removed_ones_left_out():
    a, b = model_of("gpt2"), model_of("gpt2")
    b.remove(frozenset({(1, "mlp")}))
    result = computed(a, b, units=20, untrained=False)
    assert result.units_a.shape[1] == 20 and 1 not in result.layers and not words.fresh(result)
    assert tables.partners(result).num_rows == 20 * len(result.layers)
    b.remove(frozenset((i, "mlp") for i in range(b.n_layers)))
    with pytest.raises(NotApplicable, match="share no block"):
        computed(a, b)


def test_other_tokens_and_too_few_sequences_are_refused():
    a = model_of("gpt2")
    with pytest.raises(NotApplicable, match="different tokens"):
        computed(a, a, shift=1)
    with pytest.raises(Refused, match="at least 4"):
        computed(a, a, n_sequences=3, length=100)


def test_cards_words_and_the_round_trip(planted, tmp_path):
    store = Store(tmp_path)
    arrays, kept, plain = encode(planted[0])
    store.put("0" * 64, arrays=arrays, tables=kept, record={"plain": plain})
    result = decode(subject.Result, store.get("0" * 64))
    assert "100 %" in subject.answer([run(result)]) and len(subject.headlines([run(result)])) == 4
    for card in subject.figures([run(result)]):
        assert card.data.num_rows and card.reading and "nan" not in card.reading + card.alt + card.caption
        for theme in THEMES.values():
            for draw in card.views.values():
                draw(theme)
    assert subject.cost(Shape(6, 160, 640, 8, 512, 2_000_000), 8192, PARAMS) > 0
