"""A block that does nothing is skipped, one that is there twice is run twice; where every block matters nothing is found."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

import analysis.chain_search as subject
from analysis.chain_search import drawing, measure, words
from analysis.contract import Run, Shape
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics.chain_tree import edited, random_chain, random_of_length, random_search, tree_search
from metrics.chains import Runner
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from operators import parse, skip_loop
from tests.operator_bench import FAMILIES, model_of, planned, text_for
from tests.test_analysis_layer_redundancy import Interrupted, silenced
from tests.tiny import WORDS

PARAMS = subject.Params(simulations=40, depth=2, controls=12, resamples=200, price=0.2)
every_family = pytest.mark.parametrize("family", FAMILIES)


def computed(model, params=PARAMS, progress=None, **text):
    return subject.compute((text_for(model, **{"n_sequences": 12, "length": 16, **text}),), params, progress or Quiet())


def run(result, label="A", params=PARAMS):
    return Run(label, f"demo/{label}", result, params, {})


def test_edits_by_hand():
    chains = {c: (kind, block) for kind, block, c in edited((0, 1, 2), 4)}
    assert chains == {(1, 2): ("skip", 0), (2,): ("skip", 0), (0, 2): ("skip", 1), (0,): ("skip", 1), (0, 1): ("skip", 2), (0, 0, 1, 2): ("repeat", 0),
                      (0, 1, 1, 2): ("repeat", 1), (0, 1, 2, 2): ("repeat", 2), (1, 0, 2): ("swap", 0), (0, 2, 1): ("swap", 1)}
    assert all(kind != "repeat" for kind, _, _ in edited((0, 1, 2), 3)) and edited((0,), 1) == []
    assert (0, 1, 0, 1, 2) in {c for _, _, c in edited((0, 1, 2), 5)}
    rng = np.random.default_rng(0)
    assert all(1 <= len(random_chain((0, 1, 2, 3), 4, 3, rng)) <= 4 for _ in range(50))
    same = random_of_length((0, 1, 2, 3), 4, 3, 5, 2, 0, (0, 1, 2))
    assert len(same) == 5 and all(len(c) == 3 and c != (0, 1, 2) for c in same)


def test_the_tree_finds_a_planted_chain_with_fewer_measurements_than_the_blind_search():
    """Cost is the number of edits to a chain three edits away: the tree follows the slope, the random walk does not."""
    root, aim = tuple(range(12)), (0, 1, 2, 4, 5, 6, 6, 7, 8, 10, 11)

    def distance(chain):
        table = np.arange(len(aim) + 1)
        for i, c in enumerate(chain, 1):
            row = np.concatenate([[i], np.zeros(len(aim), int)])
            for j, a in enumerate(aim, 1):
                row[j] = min(row[j - 1] + 1, table[j] + 1, table[j - 1] + (c != a))
            table = row
        return 0.5 * float(table[-1])

    found = [tree_search(root, 12, distance, simulations=1200, depth=4, explore=0.2, seed=seed) for seed in range(3)]
    blind = [random_search(root, 12, distance, chains=len(f.costs), depth=4, seed=seed) for seed, f in enumerate(found)]
    mean = lambda all_: np.mean([s.costs[s.cheapest] for s in all_])
    assert mean(found) < mean(blind) and min(f.costs[f.cheapest] for f in found) == 0
    again = tree_search(root, 12, distance, simulations=1200, depth=4, explore=0.2, seed=0)
    assert again.costs == found[0].costs  # by its seed alone


@every_family
def test_a_silent_block_is_left_out_at_no_loss(family):
    r = computed(silenced(model_of(family, n_layers=4), 2))
    assert r.found == "0.1.3" and r.found_loss[0] < 1e-6 and (r.control_loss > 1e-3).all()
    assert np.nanargmin(r.edit_change[0]) == 2 and r.edit_change[0, 2] < -0.04 and "without 2" in subject.answer([run(r)]) and "none are as close" in subject.answer([run(r)])


@every_family
def test_a_block_that_is_there_twice_may_run_twice_in_place_of_its_copy(family):
    """Planted: block 2 is block 1. At no price on length, chains that run either twice are all exact, and nothing else of that length is."""
    model = model_of(family, n_layers=4)
    _, doubled = planned(skip_loop, model, chain=(0, 1, 1, 3))
    r = computed(doubled, dataclasses.replace(PARAMS, price=0.0, simulations=60))
    exact = {c for c, x in zip(r.chain, r.loss) if x < 1e-6}
    assert {"0.1.2.3"} < exact <= {"0.1.2.3", "0.2.1.3", "0.1.1.3", "0.2.2.3"}


@every_family
def test_where_every_block_matters_nothing_is_found(family):
    r = computed(model_of(family, n_layers=4), dataclasses.replace(PARAMS, price=0.01))
    assert words.nothing(r) and "No chain is cheaper" in subject.answer([run(r)]) and r.found_loss[0] < 1e-6


@every_family
def test_the_loss_is_that_of_the_variant_which_runs_the_chain(family):
    model = model_of(family, n_layers=4)
    text = text_for(model, n_sequences=6, length=12)
    _, variant = planned(skip_loop, model, chain=(0, 2, 2, 3))
    cost = Runner(model, text.ids, text.keep).cost((0, 2, 2, 3))
    targets = text.ids[:, 1:][text.keep[:, 1:]]
    ln_p = variant.logits(text.ids)[:, :-1].log_softmax(-1)[text.keep[:, 1:]].gather(1, targets[:, None])
    assert cost[1].sum() == pytest.approx(-float(ln_p.double().sum()), rel=1e-4)
    assert np.allclose(Runner(model, text.ids, text.keep).cost((0, 1, 2, 3))[0], 0, atol=1e-5)


def test_one_prompt_is_searched_alone():
    model = model_of("gpt2", n_layers=4)
    params = dataclasses.replace(PARAMS, prompt=" ".join(WORDS[:6]), loss="next token", price=0.0)
    r = computed(model, params)
    assert r.n_tokens == 7 and r.n_sequences == 1 and r.n_held == 0 and np.isnan(r.found_loss[1])
    text = subject.answer([run(r, params=params)])
    assert "on which it was chosen" in text or "No chain is cheaper" in text
    with pytest.raises(Refused, match="expected 3 to 64"):
        computed(model, dataclasses.replace(params, prompt=WORDS[0]))
    single = model_of("gpt2", n_layers=2)
    single.remove(frozenset({(0, "attn"), (0, "mlp")}))
    with pytest.raises(NotApplicable, match="Only one block"):
        computed(single)
    with pytest.raises(Refused, match="at least 4"):
        computed(model, n_sequences=3)


def test_a_resumed_search_is_the_whole_one():
    model = model_of("llama", n_layers=4)
    whole, cut = computed(model), Interrupted(after=25)
    with pytest.raises(KeyboardInterrupt):
        computed(model, PARAMS, cut)
    assert len(cut.kept["chains"]) > 10
    cut.after = None
    again = computed(model, PARAMS, cut)
    assert np.array_equal(whole.chain, again.chain) and np.array_equal(whole.loss, again.loss) and np.array_equal(whole.control_loss, again.control_loss)


def test_figures_answer_and_store(tmp_path):
    model = model_of("gpt2", n_layers=4)
    runs = [run(computed(silenced(model.copy("a"), 2))), run(computed(silenced(model.copy("b"), 1)), "B")]
    for some in (runs[:1], runs):
        for figure in subject.figures(some):
            assert isinstance(figure.data, pa.Table) and figure.data.num_rows and figure.alt and figure.caption
            for view in figure.views.values():
                for theme in THEMES.values():
                    view(theme).to_dict()
    card = subject.figures(runs[:1])[0]
    link = card.links[runs[0].result.found]
    assert link.startswith("compression_cost?a=demo/A&b=~skip_loop:chain=0.1.3") and parse("demo/storyteller-a" + link.partition("b=")[2]).steps
    assert len(subject.headlines(runs)) == 4 and subject.cost(Shape(4, 16, 64, 2, 32, 10_000), 100, PARAMS) > 0
    arrays, tables, plain = encode(runs[0].result)
    store = Store(tmp_path)
    store.put("0" * 64, arrays=arrays, tables=tables, record={"plain": plain})
    assert decode(measure.Result, store.get("0" * 64)).found == runs[0].result.found
    assert drawing.chain(runs, THEMES["dark"]).data[1].y == (0, 1, 3)
    assert torch.is_grad_enabled()
