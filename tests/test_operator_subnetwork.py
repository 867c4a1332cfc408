"""A subnetwork as a variant: what is shown, by hand and on a planted model; its controls."""

from dataclasses import replace

import pytest
import torch

from metrics.sparsity import pack, unpack
from metrics.stored_bits import split_key
from models.progress import Quiet
from models.shape import shape_of
from operators import parse, subnetwork
from tests.operator_bench import Text, model_of, planned
from tests.planted_bigrams import PLANTED, planted
from tests.test_mask_training import measure

PARAMS = subnetwork.Params(penalty=0.5, steps=200, rows=16, rate=1e-2, growth=1800 ** (1 / 200))


def shown(model, text, what):
    plan = subnetwork.decide(model, replace(PARAMS, shown=what), text, Quiet())
    out = model.copy(what)
    subnetwork.apply(out, plan)
    return out, {m.key: unpack(plan.kept[m.key], m.n_in) for m in shape_of(model).matrices}


@pytest.fixture(scope="module")
def four():
    model, table, ids = planted()
    ids = ids[:1_500]
    text = Text(model, ids, torch.ones_like(ids, dtype=torch.bool))
    return model, table, {what: shown(model, text, what) for what in ("alone", "without", "random-alone", "without-random")}


def test_one_row_by_hand():
    """A row of 16 inputs of the 64 × 16 matrix, of which inputs 1 and 15 stay: 2 values of 32 bits and 16 bits of bitmap."""
    model = model_of("gpt2", n_layers=2)
    mask = torch.zeros(64, 16, dtype=torch.bool)
    mask[3, [1, 15]] = True
    variant = model.copy("hand")
    subnetwork.apply(variant, subnetwork.Plan({"0.mlp.c_fc": pack(mask)}, {"0.mlp.c_fc": torch.tensor(2 * 32.0 + 64 * 16)}))
    kept = variant.matrix(0, "mlp.c_fc")
    assert kept.nonzero().tolist() == [[3, 1], [3, 15]] and torch.equal(kept[mask], model.matrix(0, "mlp.c_fc")[mask])
    assert torch.equal(variant.matrix(1, "mlp.c_fc"), model.matrix(1, "mlp.c_fc"))


def test_the_four_shown_belong_together(four):
    model, _, found = four
    alone, without, random, without_random = (found[k][1] for k in ("alone", "without", "random-alone", "without-random"))
    for key, mask in alone.items():
        assert torch.equal(without[key], ~mask) and torch.equal(without_random[key], ~random[key])
        assert int(random[key].sum()) == int(mask.sum())
        assert torch.equal(found["alone"][0].matrix(*split_key(key)) + found["without"][0].matrix(*split_key(key)), model.matrix(*split_key(key)))


def test_the_planted_subnetwork_follows_the_table_and_the_others_do_not(four):
    model, table, found = four
    _, _, ids = planted()
    r = {what: measure(variant, table, ids)[0] for what, (variant, _) in found.items()}
    masks = found["alone"][1]
    assert r["alone"] > 0.93 and max(r["without"], r["random-alone"], r["without-random"]) < 0.6
    assert sum(int(masks[k].sum()) for k in PLANTED) > 0.7 * sum(int(m.sum()) for m in masks.values())


def test_bits_are_the_kept_values_and_a_bitmap():
    plan, variant = planned(subnetwork, model_of("llama"), penalty=0.0, steps=4, growth=2.0)
    active = sum(int((variant.matrix(*split_key(k)) != 0).sum()) for k in plan.kept)
    total = sum(variant.matrix(*split_key(k)).numel() for k in plan.kept)
    assert subnetwork.storage(variant, plan).bits == 32 * active + total


def test_written_form():
    assert parse("demo/storyteller-a~subnetwork:shown=without,on=demo/stories:train:1000x128").written == "demo/storyteller-a~subnetwork:shown=without,on=demo/stories:train:1000x128"
