"""The feature browser: a planted token feature is found from every side, bands by hand, steering of nothing is nothing, bad input in words."""

import numpy as np
import pytest
import torch

import analysis.feature_browser as subject
from analysis.contract import Run
from analysis.feature_browser.codes import Codes, examples, of_feature
from analysis.theme import THEMES
from metrics.steering import next_log_probabilities, written_on
from models.layout import Site
from models.progress import Quiet
from models.refusal import Refused
from models.saes import Sae, shelf
from tests.operator_bench import model_of, text_for
from tests.test_analysis_feature_survival import Fixed

TOKEN, FEATURE, DEAD = 9, 3, 7  # the word w5


@pytest.fixture
def planted(home):
    """At the model's input (positions zeroed) one feature reads one token's embedding and stands above what any other token reaches."""
    model = model_of("gpt2")
    embed = model.module.get_submodule(model.layout.embed).weight
    model.module.transformer.wpe.weight.zero_()
    toward = embed[TOKEN] / embed[TOKEN].norm()
    reach = (embed @ toward).sort(descending=True)
    assert int(reach.indices[0]) == TOKEN
    d = embed.shape[1]
    w = torch.randn(d, 12, generator=torch.Generator().manual_seed(1)) * 0.1
    bias = torch.full((12,), -0.05)
    w[:, FEATURE], bias[FEATURE] = toward, -(reach.values[0] + reach.values[1]) / 2
    w[:, DEAD], bias[DEAD] = 0, -1
    sae = Sae(w, bias, torch.randn(12, d, generator=torch.Generator().manual_seed(2)), torch.zeros(d), "standard", Site(0, "resid_pre"), model="tiny/gpt2")
    return model, shelf.keep(sae, home)


def ask(model, name, **more):
    text = text_for(model, n_sequences=30, length=24)
    return subject.compute((Fixed(model, text.ids, text.keep),), subject.Params(**{"sae": name, "new_tokens": 5, **more}), Quiet()), text


def run(result, label="A", **more):
    return Run(label, "demo/a", result, subject.Params(**more), {"corpus": "demo/mixed"})


def test_a_token_feature_is_found_from_every_side(planted):
    model, name = planted
    r, text = ask(model, name, prompt="w1 w5 w2", token="w5", feature=FEATURE)
    at = (text.ids == TOKEN) & text.keep
    at[:, 0] = False
    assert r.fired[FEATURE] == len(r.values) == int(at.sum()) and r.fired[DEAD] == 0
    assert {int(r.token[w[8]]) for w in r.window} == {TOKEN} and (r.seen[:, 8] > 0).all()
    assert r.search == TOKEN and r.search_seen == int(at.sum()) and r.fires[0] == FEATURE and r.fires_off[0] == 0
    assert r.at.nonzero()[0].tolist() == [2] and FEATURE in r.prompt_features[2]  # after the BOS
    auto, _ = ask(model, name, prompt="w5 w5", feature=-1)
    assert auto.fired[auto.feature] > 0


def test_what_never_fires_says_so_and_other_text_has_no_such_feature(planted):
    model, name = planted
    r, _ = ask(model, name, prompt="w1 w2 w3", feature=DEAD)
    assert len(r.window) == 0 and "never fires" in subject.answer([run(r)])
    assert FEATURE not in r.prompt_features and (r.at == 0).all()
    assert subject.figures([run(r)])


def test_steering_by_nothing_changes_nothing_and_by_something_does(planted):
    model, name = planted
    r, _ = ask(model, name, prompt="w1 w5 w2", feature=FEATURE, strength=0.0)
    assert r.added == 0 and np.allclose(r.kl, 0, atol=1e-12) and len(set(r.continuation)) == 1
    r, _ = ask(model, name, prompt="w1 w5 w2", feature=FEATURE, strength=3.0)
    assert r.kl[0] == 0 and r.kl[1] > 0 and r.kl[2] > 0 and r.added > 0
    ids, site, direction = [0, 5, 9], Site(0, "resid_pre"), torch.randn(16, generator=torch.Generator().manual_seed(0))
    plain = next_log_probabilities(model, site, ids, None)
    both = [next_log_probabilities(model, site, ids, s * direction) for s in (1.0, -1.0)]
    assert not torch.allclose(both[0], plain) and not torch.allclose(both[0], both[1])
    assert written_on(model, site, ids, 0 * direction, 6, 0.7, 3) == written_on(model, site, ids, None, 6, 0.7, 3)
    assert torch.equal(next_log_probabilities(model, site, ids, None), plain)  # nothing stays behind


def test_bands_by_hand():
    ids, keep = np.zeros((4, 10), int), np.ones((4, 10), bool)
    z = np.zeros(40)
    z[[3, 5, 12, 25, 33, 34]] = [4.0, 2.5, 3.5, 0.5, 1.5, 1.2]
    window, band = examples(z, ids, keep)
    top = [int(w[8]) for w, b in zip(window, band) if b == 0]
    assert top == [3, 12, 33, 25]  # the largest of each sequence, strongest first
    assert {int(w[8]): int(b) for w, b in zip(window, band) if b} == {5: 2, 34: 3}  # 2.5 in 75–50 %, 1.2 in 50–25 %
    codes = Codes(np.array([[2, 5], [5, -1]]), np.array([[3.0, 1.0], [2.0, 0.0]]), np.zeros(6), np.zeros(6), 0)
    assert of_feature(codes, 5).tolist() == [1.0, 2.0] and of_feature(codes, 2).tolist() == [3.0, 0.0]


def test_cards_are_drawn_for_one_and_two_models(planted):
    model, name = planted
    r, _ = ask(model, name, prompt="w1 w5 w2", token="w5", feature=FEATURE)
    for runs in ([run(r)], [run(r), run(r, "B")]):
        cards = subject.figures(runs)
        assert [c.name for c in cards] == ["prompt", "density", "activations", "examples", "tokens", "neighbours", "search", "steering", "next"]
        for card in cards:
            assert card.data.num_rows and card.reading and list(card.views) == (["A", "B"] if len(runs) > 1 else [""])
            for draw in card.views.values():
                for theme in THEMES.values():
                    draw(theme).to_json()
    assert f"feature={FEATURE}" in cards[0].links[str(FEATURE)] and len(subject.headlines([run(r)])) == 4


@pytest.mark.parametrize("more, words", [({"feature": 99}, "does not exist"), ({"token": "w1 w2"}, "2 tokens"), ({"prompt": "w1 " * 200}, "Shorten"), ({"sae": "demo/saes/none"}, "no SAE")])
def test_bad_input_is_refused_in_words(planted, more, words):
    with pytest.raises(Refused, match=words):
        ask(*planted, **more)
