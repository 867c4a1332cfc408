"""The one matrix that matters keeps the most bits; every budget is exact; what was found opens as the same model; luck is told from search."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

import analysis.evopress as subject
from analysis import run as door
from analysis.contract import Run, Shape
from analysis.evopress import measure, words
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics.divergence import KL, token_divergence
from metrics.evolution import evolve, offspring_of, random_assignment, switched
from metrics.mixture import Mixture
from models.params import read_params
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from models.shape import shape_of
from operators import OPERATORS, drop_layers, mixed_levels, parse
from tests.operator_bench import FAMILIES, Text, model_of, planned, text_for
from tests.test_analysis_layer_redundancy import Interrupted

PARAMS = subject.Params(generations=8, offspring=6, controls=5, resamples=200, levels="8/4/3/2", more="group:8")
every_family = pytest.mark.parametrize("family", FAMILIES)


def captures(model, params=PARAMS, length=12, n=8):
    """The model, then it at each level, as the frame hands them over."""
    text = text_for(model, n_sequences=n, length=length)
    donors = [model if level == "keep" else planned(OPERATORS[params.operator], model, read_params(OPERATORS[params.operator].Params, {params.dial: level, "group": "8"}))[1]
              for level in params.levels.split("/")]
    return tuple(Text(m, text.ids, text.keep) for m in (model, *donors))


def computed(model, params=PARAMS, progress=None, **text):
    return subject.compute(captures(model, params, **text), params, progress or Quiet())


def run(result, label="A", params=PARAMS):
    return Run(label, f"demo/{label}", result, params, {})


def sensitive(family):
    """Nothing but the MLP of block 2 matters: what every other sublayer adds to the stream is a small part of what it was."""
    model = model_of(family)
    for layer in range(3):
        for name in (model.layout.attn_output, model.layout.mlp_output):
            if (layer, name) != (2, model.layout.mlp_output):
                bias = model.blocks[layer].get_submodule(name).bias
                model.set_matrix(layer, name, 0.003 * model.matrix(layer, name), None if bias is None else 0.003 * bias)
    return model


def test_a_switch_by_hand_and_budgets_that_stay():
    bits = np.array([[8, 4, 2], [8, 4, 2], [16, 8, 4]])
    rng = np.random.default_rng(0)
    after = {tuple(a) for _ in range(60) if (a := switched(np.array([1, 1, 1]), bits, rng)) is not None}
    assert after == {(0, 1, 2), (1, 0, 2)}  # +4 for a small one is paid by the large one; +8 for the large one cannot be paid
    for _ in range(200):
        table = np.sort(rng.integers(1, 40, (6, 4)), 1)[:, ::-1]
        start = rng.integers(0, 4, 6)
        spent = lambda a: table[np.arange(6), a].sum()
        child = offspring_of(start, table, rng)
        assert child is None or spent(child) == spent(start)
        assert spent(random_assignment(start, table, rng, 10)) == spent(start)


def test_evolution_never_gets_worse_and_follows_its_seed():
    bits = np.tile([8, 4, 3, 2], (10, 1))
    worth = np.random.default_rng(1).uniform(0, 1, 10)
    fitness = lambda a, share, g: float((worth * 2.0 ** -bits[np.arange(10), a]).sum()) + (0 if share == 1 else np.random.default_rng(g).normal(0, 1e-3))
    make = lambda seed: evolve(np.full(10, 2), bits, fitness, generations=40, offspring=16, survivors=((4, 0.25),), seed=seed)
    one, two = make(0), make(0)
    assert (np.diff(one.fitness) <= 0).all() and one.fitness[-1] < one.fitness[0] and one.fitness == two.fitness and np.array_equal(one.best, two.best)
    assert bits[np.arange(10), one.best].sum() == 30 and all(bits[np.arange(10), a].sum() == 30 for a in one.assignments)
    still = evolve(np.full(10, 2), bits, fitness, generations=0, offspring=16, survivors=(), seed=0)
    assert still.fitness == [fitness(np.full(10, 2), 1.0, 0)] and (still.best == 2).all()


@every_family
def test_a_mixture_costs_what_the_variant_costs(family):
    model = model_of(family)
    given = captures(model)
    units = measure.units_of(model, "matrix")
    mix = Mixture(model, [c.subject for c in given[1:]], units, given[0].ids, given[0].keep)
    levels = tuple(i % 4 for i in range(len(units)))
    _, variant = planned(mixed_levels, model, assign=levels, more="group:8")
    ids, keep = given[0].ids, given[0].keep
    kl = token_divergence(model.logits(ids)[keep], variant.logits(ids)[keep], torch.full((int(keep.sum()),), -1))[:, KL]
    assert mix.kl(levels).sum() == pytest.approx(float(kl.double().sum()), rel=1e-3)
    assert mix.kl([-1] * len(units)).sum() == pytest.approx(0, abs=1e-4)
    assert int(mix.bits()[np.arange(len(units)), levels].sum()) == sum(variant.bits.values())
    part = mix.kl(levels, [1])
    assert np.isfinite(part).sum() == mix.size and np.allclose(part[np.isfinite(part)], mix.kl(levels)[np.isfinite(part)], rtol=1e-4)


@every_family
def test_the_sensitive_matrix_keeps_the_most_bits(family):
    model = sensitive(family)
    r = computed(model)
    spent = lambda a: int(r.bits[np.arange(len(a)), a].sum())
    assert spent(r.found) == spent(r.additive) == r.budget == spent(np.full(len(r.found), r.target)) and all(spent(a) == r.budget for a in r.random_assignments)
    at = int(r.single[:, 3].argmax())
    assert r.layer[at] == 2 and r.name[at].startswith("mlp") and r.found[at] < r.target and r.found[at] == r.found.min()
    assert r.held[0, 0] < 0.8 * r.held[1, 0] and r.held[0, 0] <= np.median(r.control)
    assert "block 2 mlp" in subject.answer([run(r)])
    assert (np.diff(r.fitness) <= 0).all()


def test_where_no_level_costs_anything_nothing_is_claimed():
    """Negative control: weights that lie on the coarsest grid already. Every assignment is exact."""
    model = model_of("gpt2")
    _, on_grid = planned(OPERATORS["round_to_nearest"], model, bits=2, group=8)
    on_grid.bits.clear()
    r = computed(on_grid, dataclasses.replace(PARAMS, levels="keep/2", target="2", generations=1, unit="block"))
    assert r.held[0, 0] == pytest.approx(r.held[1, 0], abs=1e-5)
    assert "no better than uniform" in subject.answer([run(r)]) or r.held[0, 0] < 1e-5


def test_what_was_found_opens_as_that_model(home):
    request = door.request("evopress", ("demo/storyteller-a",), "demo/mixed:8x32", {"operator": "magnitude", "dial": "sparsity", "levels": "0.3/0.5/0.7", "target": "0.5", "unit": "block",
                                                                                     "generations": "2", "offspring": "4", "controls": "2"})
    door.execute(request.to_json())
    r = door.load(request).result
    variant = parse(f"demo/storyteller-a~{r.step}")
    lab = door.lab(door.home())
    model, made = lab.model(variant.root), lab.model(variant)
    ids, keep = (getattr(lab.capture(variant.root, request.corpus), k)[1::2] for k in ("ids", "keep"))
    kl = token_divergence(model.logits(ids)[keep], made.logits(ids)[keep], torch.full((int(keep.sum()),), -1))[:, KL].mean()
    assert float(kl) == pytest.approx(r.held[0, 0], rel=1e-3)
    assert sum(b for n, b in made.bits.items()) == r.budget


def test_levels_are_ordinary_variants_and_bad_ones_are_refused():
    also = lambda **fields: subject.also(parse("demo/storyteller-a"), dataclasses.replace(subject.Params(), **fields))
    assert [v.written for v in also(levels="4/keep", target="keep")] == ["demo/storyteller-a~round_to_nearest:bits=4", "demo/storyteller-a"]
    for fields, why in ((dict(levels="4"), "two or more"), (dict(levels="4/4"), "different"), (dict(target="5"), "none of the levels"), (dict(more="group"), "not written like")):
        with pytest.raises(Refused, match=why):
            also(**fields)
    with pytest.raises(NotApplicable, match="serves several blocks"):
        also(operator="relaxed_recursive", dial="rank", levels="8/keep", target="8")
    with pytest.raises(Refused, match="no operator"):
        door.key(door.request("evopress", ("demo/storyteller-a",), None, {"operator": "magic"}))
    model = model_of("gpt2")
    _, other = planned(drop_layers, model, blocks=(1,))
    text = text_for(model, n_sequences=8)
    with pytest.raises(NotApplicable, match="levels cannot be mixed"):
        subject.compute((text, Text(model, text.ids, text.keep), Text(other, text.ids, text.keep)), dataclasses.replace(PARAMS, levels="keep/1", target="keep"), Quiet())
    with pytest.raises(Refused, match="at least 4"):
        computed(model, n=3)


def test_a_resumed_search_is_the_whole_one():
    model = model_of("llama")
    params = dataclasses.replace(PARAMS, unit="block")
    whole, cut = computed(model, params), Interrupted(after=14)
    with pytest.raises(KeyboardInterrupt):
        computed(model, params, cut)
    assert len(cut.kept["kl"]) > 8
    cut.after = None
    again = computed(model, params, cut)
    assert np.array_equal(whole.found, again.found) and np.array_equal(whole.fitness, again.fitness) and np.array_equal(whole.held, again.held)


def test_figures_answer_and_store(tmp_path):
    blocks, few = (dataclasses.replace(PARAMS, unit=unit, generations=1, levels="4/3/2") for unit in ("block", "matrix"))
    for runs in ([run(computed(model_of("gpt2"), few), params=few)], [run(computed(model_of("gpt2", seed=s), blocks), label, blocks) for s, label in ((0, "A"), (1, "B"))]):
        for figure in subject.figures(runs):
            assert isinstance(figure.data, pa.Table) and figure.data.num_rows and figure.alt and figure.caption
            for view in figure.views.values():
                for theme in THEMES.values():
                    view(theme).to_dict()
        link = subject.figures(runs)[0].links["2"]
        assert link.startswith("compression_cost?a=demo/A&b=~mixed_levels:of=round_to_nearest") and parse("demo/storyteller-a" + link.partition("b=")[2].replace(",more=group:8", ""))
        assert len(subject.headlines(runs)) == 4 and "At exactly" in words.answer(runs)
    arrays, tables, plain = encode(runs[0].result)
    store = Store(tmp_path)
    store.put("0" * 64, arrays=arrays, tables=tables, record={"plain": plain})
    assert decode(measure.Result, store.get("0" * 64)).step == runs[0].result.step
    assert subject.cost(Shape(4, 16, 64, 2, 32, 10_000), 100, PARAMS) > 0 and len(shape_of(model_of("gpt2")).matrices) == 12
