"""Merges beside their parents: losses are those of the models, R by construction, the frame asks for the right models, words and figures."""

import dataclasses

import numpy as np
import pytest
import torch

import analysis.merging as subject
from analysis import run as running
from analysis.contract import Run
from analysis.merging import words
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics.losses import NLL, TOKENS, sequence_losses
from metrics.permutation.spec import random_maps
from metrics.permutation.transformer import symmetry_of
from models.corpus import parse as parse_corpus
from models.progress import Quiet
from models.refusal import Refused
from models.variant import Step, Variant, parse
from operators.merging import average, pleas
from tests.operator_bench import FAMILIES, Text, model_of, text_for

PARAMS = subject.Params(methods="average average:align=weights pleas", nulls=3, resamples=100, second="demo/mixed")
MERGES = ((average, average.Params()), (average, average.Params(align="weights")), (pleas, pleas.Params(fit=False)))


def capture_of(model, variant):
    text = text_for(model, n_sequences=12, length=16)
    out = Text(model, text.ids, text.keep)
    out.variant, out.corpus = variant, parse_corpus("demo/mixed:12x16")
    return out


def computed(a, b, **params):
    """As the frame computes it: captures of A and B, then of their merges."""
    parents = (parse("demo/a"), parse("demo/b"))
    subjects = [capture_of(m, v) for m, v in zip((a, b), parents)]
    for variant, (operator, chosen) in zip(subject.also_of(parents, PARAMS), MERGES):
        made = a.copy("merged")
        operator.apply(made, operator.decide((a, b), chosen, None, Quiet()))
        subjects.append(capture_of(made, variant))
    params = dataclasses.replace(PARAMS, **params)
    return Run("A → B", "demo/a → demo/b", subject.compute(tuple(subjects), params, Quiet()), params, {}), subjects


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_and_itself_in_another_order(family):
    """Ordered, the merge is A: no price, R 1 with A and with B in A's order, distance 0. As they are it is not."""
    a = model_of(family)
    symmetry = symmetry_of(a)
    run, subjects = computed(a, symmetry.permuted(a, random_maps(symmetry.spec, torch.Generator().manual_seed(0))))
    r, price = run.result, words.cost(run, 0)
    plain, ordered, partial = range(3)
    assert price[ordered, 0] == pytest.approx(0, abs=1e-4) and abs(price[plain, 0]) > 0.01
    assert r.r[ordered, 0, 0] == pytest.approx(np.ones(20), abs=1e-3) and r.r[ordered, 1, 1] == pytest.approx(np.ones(20), abs=1e-3) and r.r[ordered, 1, 0, 0] < 0.5
    assert r.distance[ordered, 0] < 1e-3 < r.distance[plain, 0] and r.distance[plain] == pytest.approx(np.ones(2), abs=0.05)  # folding the norms of a mean is not the mean of the folded
    assert np.isnan(r.r[partial]).all() and np.isnan(r.distance[partial]).all() and r.parameters[-1] > r.parameters[0]
    for i, capture in enumerate(subjects):
        assert np.array_equal(r.nll[0][i], sequence_losses(capture.subject, capture.ids, capture.keep)[NLL])
    assert r.null.shape == (3, 20) and r.null[:, 0].max() < 0.6


def test_the_price_by_hand():
    """Sums (4, 0) and (0, 8) of two parents, (6, 6) of a merge, on sequences of 2 tokens: 12/4 above 12/8 per token is 1.5."""
    r = subject.Result(("a", "b"), ("(a+b)~average",), ("demo/mixed",), [np.array([[4.0, 0.0], [0.0, 8.0], [6.0, 6.0]])], [np.array([2.0, 2.0])], np.zeros((1, 2, 2, 20)), np.zeros((2, 20)), np.ones((1, 2)), np.ones(3, np.int64))
    run = Run("A → B", "", r, PARAMS, {})
    assert words.cost(run, 0)[0, 0] == pytest.approx(1.5) and words.losses(run, 0)[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert "**average**: 1.50 nats" in subject.answer([run])


def test_figures_words_and_the_store(tmp_path):
    run, _ = computed(model_of("llama"), model_of("llama", 1))
    arrays, tables, plain = encode(run.result)
    store = Store(tmp_path)
    store.put("0" * 64, arrays=arrays, tables=tables, record={"plain": plain})
    again = dataclasses.replace(run, result=decode(subject.Result, store.get("0" * 64)))
    assert subject.answer([again]) == subject.answer([run]) and "demo/mixed" in subject.answer([run]) and len(subject.headlines([again])) == 3
    for card in subject.figures([again]):
        assert card.data.num_rows and "nan" not in card.reading + card.alt
        for theme in THEMES.values():
            for draw in card.views.values():
                draw(theme)
    assert run.result.tokens[0].sum() == sequence_losses(model_of("llama"), *(lambda t: (t.ids, t.keep))(text_for(model_of("llama"), 12, 16)))[TOKENS].sum()


def test_the_frame_asks_for_the_merges_of_all_models():
    request = running.request("merging", ("demo/storyteller-a", "demo/storyteller-b"), "demo/mixed:4x32", {"methods": "average ties:keep=0.3"})
    assert [v.written for v in running.also(request)] == ["(demo/storyteller-a+demo/storyteller-b)~average", "(demo/storyteller-a+demo/storyteller-b)~ties:keep=0.3"]
    a, b = parse("demo/a"), parse("demo/b")
    assert subject.also_of((a, b, b), PARAMS) == tuple(Variant("merge", steps=(Step("average", params),), parents=(a, b, b)) for params in ((), (("align", "weights"),)))
    with pytest.raises(Refused, match="No merge"):
        subject.also_of((a, b), subject.Params(methods=" "))
    with pytest.raises(Refused, match="no operator"):
        running.also(running.request("merging", ("demo/storyteller-a", "demo/storyteller-b"), "demo/mixed:4x32", {"methods": "blend"}))
    with pytest.raises(Refused, match="must merge"):
        running.also(running.request("merging", ("demo/storyteller-a", "demo/storyteller-b"), "demo/mixed:4x32", {"methods": "wanda"}))
    assert words.step_of("(a~wanda:on=x+b)~average:align=activations,on=demo/mixed:8x32") == "average:align=activations"
