"""What holds for every operator, on a tiny GPT-2 and a tiny Llama with grouped heads; and which orders a recipe may have."""

import dataclasses

import pytest
import torch

from cache.codec import decode, encode
from cache.store import Store
from models.params import fields_of
from models.progress import Quiet
from models.refusal import Refused
from models.shape import shape_of
from operators import OPERATORS, drop_layers, parse
from operators.contract import Storage
from tests.operator_bench import FAMILIES, model_of, text_for, weights_of

CHANGING = {  # where the defaults are made for larger models, or change nothing
    "drop_layers": {"blocks": (1,)}, "round_to_nearest": {"group": 8}, "gptq": {"group": 8}, "masks_2_4": {"steps": 10}, "masa": {"atoms": 2}, "relaxed_recursive": {"rank": 2}, "error_correction": {"rank": 2}, "cut_memorized": {"ratio": 0.2, "located": "all"}, "awq": {"group": 8}, "hqq": {"group": 8}, "tensor_network": {"bond": 4}, "vector_quant": {"entries": 8, "length": 2}, "slice_gpt": {"slice": 0.5},
    "tune_heads": {"choose": "random", "on_what": "text", "steps": 3, "rate": 0.1},
    "mixed_levels": {"assign": (2,), "more": "group:8"}, "skip_loop": {"chain": (0, 2, 2)},
    "contextual_sparsity": {"keep": 0.25},
    "heal": {"loss": "next token", "steps": 4, "rate": 0.05, "train": "both"},
    "subnetwork": {"penalty": 0.0, "steps": 4, "growth": 2.0},
}
AFTER = {"error_correction": "round_to_nearest"}  # those that do nothing alone, and what they are put after
EVERY = [(name, family) for name in OPERATORS for family in FAMILIES]
pytestmark = pytest.mark.parametrize("name,family", EVERY, ids=["-".join(pair) for pair in EVERY])


class Counting(Quiet):
    def __init__(self):
        self.seen = []

    def step(self, i, n, message="", live=None):
        assert 0 <= i <= n
        self.seen.append(i)


def subject(name, family, **shape):
    """The model that an operator is tried on; `start` is the one it was made from."""
    start = model = model_of(family, **shape)
    if name in AFTER:
        model = applied(AFTER[name], start, decided(AFTER[name], start))
    model.start = start
    return model


def decided(name, model, params=None, progress=None):
    operator = OPERATORS[name]
    params = params or operator.Params(**CHANGING.get(name, {}))
    operator.check(params, shape_of(model))
    text = text_for(model) if operator.calibrated(params) else None
    if text is not None:
        text.start = getattr(model, "start", None)
    return operator.decide(model, params, text, progress or Quiet())


def applied(name, model, plan):
    variant = model.copy("variant")
    OPERATORS[name].apply(variant, plan)
    return variant


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_is_described(name, family):
    operator = OPERATORS[name]
    assert operator.TITLE and len(operator.__doc__.split()) > 40 and "Use it" in operator.__doc__
    assert all(f.metadata["label"] for f, _ in fields_of(operator.Params))
    assert dataclasses.is_dataclass(operator.Plan) and operator.Plan.__dataclass_params__.frozen
    assert parse(f"demo/storyteller-a~{name}").steps[0].operator == name


def test_neutral_is_within_its_tolerance(name, family):
    if OPERATORS[name].NEUTRAL is None:
        pytest.skip("rounds; its own test shows the identity on the grid")
    params, tolerance = OPERATORS[name].NEUTRAL
    model = subject(name, family)
    ids = text_for(model).ids
    variant = applied(name, model, decided(name, model, params))
    assert (variant.logits(ids) - model.logits(ids)).abs().max() <= tolerance


def test_changes_the_variant_and_only_it_and_replays(name, family):
    model = subject(name, family)
    ids, before, bits, logits = text_for(model).ids, weights_of(model), dict(model.bits), model.logits(text_for(model).ids)
    parameters = {n: p.data_ptr() for n, p in model.module.named_parameters()}
    progress = Counting()
    plan = decided(name, model, progress=progress)
    variant = applied(name, model, plan)
    assert same(weights_of(model), before) and model.bits == bits and model.removed == frozenset()
    assert {n: p.data_ptr() for n, p in model.module.named_parameters()} == parameters
    assert torch.equal(model.logits(ids), logits)
    assert (variant.logits(ids) - logits).abs().max() > 1e-4
    assert bool(torch.isfinite(variant.logits(ids)).all())
    again = applied(name, model, decided(name, model))
    assert same(weights_of(variant), weights_of(again)) and variant.bits == again.bits
    assert progress.seen or name in ("drop_layers", "magnitude", "share_blocks")  # those are done in an instant


def test_plan_survives_the_store_bit_for_bit(name, family, tmp_path):
    model = subject(name, family)
    plan = decided(name, model)
    arrays, tables, plain = encode(plan)
    store = Store(tmp_path)
    store.put("0" * 64, arrays=arrays, tables=tables, record={"plain": plain})
    back = decode(OPERATORS[name].Plan, store.get("0" * 64))
    here, there = applied(name, model, plan), applied(name, model, back)
    assert same(weights_of(here), weights_of(there)) and here.bits == there.bits
    ids = text_for(model).ids
    assert torch.equal(here.logits(ids), there.logits(ids))


def test_storage_is_sane(name, family):
    model = subject(name, family)
    plan = decided(name, model)
    variant = applied(name, model, plan)
    kept = OPERATORS[name].storage(model, plan)
    dense = 32 * kept.weights
    assert isinstance(kept, Storage) and kept.weights > 0 and 0 <= kept.bits <= dense and len(kept.how) > 20
    assert (kept.bits == dense) == (name in ("tune_heads", "heal", "contextual_sparsity"))  # which train and compress nothing
    parameters = dict(variant.module.named_parameters(remove_duplicate=False))
    assert all(n in parameters or n.endswith("bias") for n in variant.bits)
    if name not in ("drop_layers", "share_blocks", "skip_loop", "crash", "tune_heads", "heal", "contextual_sparsity"):  # those store nothing for what they take away, and keep the rest as it is
        assert sum(variant.bits.values()) == pytest.approx(kept.bits)


def test_composes_after_removing_a_sublayer(name, family):
    """Removed sublayers stay removed, are no part of the plan, and a whole removed block does not disturb the others."""
    model = subject(name, family, n_layers=4)
    if name in ("share_blocks", "relaxed_recursive"):
        cut = drop_layers.Params(blocks=(1,))
    else:
        cut = drop_layers.Params(blocks=(1,), mlp=(2,)) if name != "drop_layers" else drop_layers.Params(attn=(3,))
    smaller = applied("drop_layers", model, drop_layers.decide(model, cut, None, Quiet()))
    smaller.start = model.start
    variant = applied(name, smaller, decided(name, smaller))
    assert variant.removed >= smaller.removed
    ids = text_for(model).ids
    assert bool(torch.isfinite(variant.logits(ids)).all())
    for layer, kind in variant.removed:
        last = model.layout.attn_output if kind == "attn" else model.layout.mlp_output
        assert variant.matrix(layer, last).abs().max() == 0
    assert (variant.logits(ids) - smaller.logits(ids)).abs().max() > 1e-5
