"""What is healed comes back, everything else keeps its bits; zeros and grids survive where they should; bits by hand; resuming."""

import numpy as np
import pytest
import torch

from analysis import run
from metrics import healing
from metrics.divergence import KL, token_divergence
from metrics.model_bits import foreseen_bits, model_bits
from models.corpus import parse as parse_corpus
from models.lab import Lab
from models.params import read_params
from models.progress import Quiet
from models.refusal import Refused
from models.shape import shape_of
from operators import OPERATORS, heal, magnitude, parse, round_to_nearest, share_blocks
from tests.operator_bench import FAMILIES, model_of, planned, text_for
from tests.test_analysis_layer_redundancy import Interrupted

every_family = pytest.mark.parametrize("family", FAMILIES)


def healed(model, start=None, progress=None, **fields):
    """(plan, variant) of healing `model` towards `start`."""
    text = text_for(model)
    text.start = start
    fields = {"steps": 12, "rate": 0.02, **fields}
    plan = heal.decide(model, heal.Params(**fields), text, progress or Quiet())
    variant = model.copy("healed")
    heal.apply(variant, plan)
    return plan, variant


def distance(a, b):
    ids = text_for(a, seed=3).ids
    return float(token_divergence(a.logits(ids).flatten(0, 1), b.logits(ids).flatten(0, 1), torch.full((ids.numel(),), -1)).nan_to_num()[:, KL].mean())


def parameters(model):
    return dict(model.module.named_parameters(remove_duplicate=False))


@every_family
def test_norms_and_biases_move_and_every_matrix_keeps_its_bits(family):
    model = model_of(family)
    _, variant = healed(model, loss="next token")
    before, after = parameters(model), parameters(variant)
    for name, tensor in before.items():
        assert tensor.dim() == 1 or torch.equal(tensor, after[name]), name
    moved = [not torch.equal(tensor, after[name]) for name, tensor in before.items() if tensor.dim() == 1]
    assert np.mean(moved) > 0.9 and model_bits(variant) == model_bits(model)


@every_family
def test_adapters_move_the_chosen_matrices_and_nothing_else(family):
    model = model_of(family)
    _, variant = healed(model, loss="next token", train="lora", which="mlp", rank=2)
    chosen = {f"{model.layout.blocks}.{m.key}.weight" for m in shape_of(model).chosen("mlp")}
    for name, tensor in parameters(model).items():
        assert torch.equal(tensor, parameters(variant)[name]) != (name in chosen), name
    m = shape_of(model).chosen("mlp")[0]
    change = variant.matrix(m.layer, m.name) - model.matrix(m.layer, m.name)
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 2 and model_bits(variant) == model_bits(model)


@every_family
def test_turned_norms_are_turned_back_and_an_undamaged_model_stays(family):
    """Planted: the final norm's scale is doubled in half of its channels. Most of the distance goes, on text that was not trained on."""
    original = model_of(family)
    name = f"{original.layout.final_norm}.weight"
    damaged = original.copy("damaged")
    scale = parameters(original)[name]
    damaged.set_parameters({name: scale * torch.tensor([2.0, 1.0]).repeat(len(scale) // 2)})
    plan, variant = healed(damaged, original, steps=60, rate=0.05)
    assert distance(original, variant) < 0.4 * distance(original, damaged)
    assert plan.held[-1] < 0.4 * plan.held[0] and plan.kept > 0
    still, same = healed(original, original)
    assert still.held[0] == pytest.approx(0, abs=1e-6) and distance(original, same) < 1e-5


@every_family
def test_adapters_bring_back_what_pruning_took_and_tails_do_too(family):
    original = model_of(family)
    _, pruned = planned(magnitude, original, sparsity=0.5)
    for fields in (dict(train="lora", rank=4), dict(train="both", rank=4, loss="tail", tail=1)):
        _, variant = healed(pruned, original, steps=40, rate=0.02, **fields)
        assert distance(original, variant) < 0.6 * distance(original, pruned)


@every_family
def test_zeros_and_grids_survive(family):
    original = model_of(family)
    _, pruned = planned(magnitude, original, sparsity=0.5)
    _, masked = healed(pruned, original, train="both", adapter="masked")
    _, beside = healed(pruned, original, train="lora")
    for layer, name, weight in pruned.matrices():
        assert (masked.matrix(layer, name)[weight == 0] == 0).all() and (beside.matrix(layer, name)[weight == 0] != 0).any()
        assert not torch.equal(masked.matrix(layer, name), weight)
    assert masked.bits == pruned.bits
    _, rounded = planned(round_to_nearest, original, bits=4, group=8)
    _, variant = healed(rounded, original)
    assert all(torch.equal(w, variant.matrix(i, n)) for i, n, w in rounded.matrices()) and variant.bits == rounded.bits


def test_bits_of_adapters_by_hand():
    """Beside a pruned 64×16 matrix: its bits and 2 · (64 + 16) numbers of 32 bits; on a dense one nothing more."""
    original = model_of("gpt2")
    _, pruned = planned(magnitude, original, sparsity=0.5, which="mlp")
    plan, variant = healed(pruned, original, train="lora", rank=2, steps=2)
    name = "transformer.h.0.mlp.c_fc.weight"
    assert variant.bits[name] == pruned.bits[name] + 2 * (64 + 16) * 32
    assert set(variant.bits) == set(pruned.bits)
    added = sum(2 * (m.n_out + m.n_in) * 32 for m in shape_of(original).chosen("mlp"))
    assert model_bits(variant) == model_bits(pruned) + added
    kept = heal.storage(variant, plan)
    assert kept.bits == added + sum(pruned.bits.values()) + sum(m.n_out * m.n_in * 32 for m in shape_of(original).chosen("attn"))


def test_an_adapter_and_the_losses_by_hand():
    weight, up, down = torch.tensor([[1.0, 0, 2], [0, 3, 0]]), torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5, 1.0, -1.0]])
    assert healing.with_adapter(weight, up, down, False).tolist() == [[1.5, 1, 1], [1, 5, -2]]
    assert healing.with_adapter(weight, up, down, True).tolist() == [[1.5, 0, 1], [0, 5, 0]]
    keep, ids = torch.tensor([[True, True, False]]), torch.tensor([[0, 1, 0]])
    teacher = torch.log(torch.tensor([[[0.5, 0.5], [0.9, 0.1], [0.5, 0.5]]]))
    student = torch.log(torch.tensor([[[0.25, 0.75], [0.9, 0.1], [0.01, 0.99]]]))
    kl = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert float(healing.loss_of(student, [], teacher, [], ids, keep)) == pytest.approx(kl / 2, rel=1e-5)
    assert float(healing.loss_of(student, [], None, [], ids, keep)) == pytest.approx(-np.log(0.75), rel=1e-5)
    mine, theirs = torch.tensor([[[3.0, 4.0], [1, 1], [9, 9]]]), torch.tensor([[[0.0, 5.0], [1, 1], [0, 1]]])
    assert float(healing.loss_of(student, [mine], teacher, [theirs], ids, keep)) == pytest.approx(kl / 2 + (9 + 1) / 25 / 2, rel=1e-5)


@every_family
def test_an_adapter_is_what_peft_computes(family):
    from peft import LoraConfig, get_peft_model

    model = model_of(family)
    plan, variant = healed(model, loss="next token", train="lora", which="mlp", rank=2, steps=3)
    names = sorted({m.name for m in shape_of(model).chosen("mlp")})
    theirs = get_peft_model(model.copy("peft").module, LoraConfig(r=2, lora_alpha=2, target_modules=[n.rpartition(".")[2] for n in names] if family == "llama" else names,
                                                                  fan_in_fan_out=family == "gpt2"))
    for key in plan.up:
        layer = theirs.base_model.model.get_submodule(f"{model.layout.blocks}.{key}")
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(plan.down[key])
            layer.lora_B["default"].weight.copy_(plan.up[key])
    ids = text_for(model).ids
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(input_ids=ids).logits, variant.logits(ids), atol=1e-4)


@every_family
def test_a_resumed_healing_is_bit_for_bit_the_whole_one(family):
    original = model_of(family)
    _, pruned = planned(magnitude, original, sparsity=0.5)
    fields = dict(train="both", loss="tail", steps=10)
    whole, _ = healed(pruned, original, **fields)
    cut = Interrupted(after=6)
    with pytest.raises(KeyboardInterrupt):
        healed(pruned, original, cut, **fields)
    assert 3 <= cut.kept["step"] < 10
    cut.after = None
    again, _ = healed(pruned, original, cut, **fields)
    assert all(torch.equal(getattr(whole, part)[n], getattr(again, part)[n]) for part in ("values", "up", "down") for n in getattr(whole, part))
    assert np.array_equal(whole.held, again.held) and whole.kept == again.kept


def test_the_kept_state_is_never_worse_on_held_out_text_than_the_start():
    original = model_of("gpt2")
    _, pruned = planned(magnitude, original, sparsity=0.5)
    plan, variant = healed(pruned, original, steps=8, rate=10.0)  # far too fast
    assert plan.held[list(plan.step).index(plan.kept)] == plan.held.min()
    if plan.kept == 0:
        assert torch.equal(variant.logits(text_for(original).ids), pruned.logits(text_for(original).ids))


def test_shared_biases_are_trained_as_one_and_removed_ones_stay():
    original = model_of("gpt2", n_layers=4)
    _, shared = planned(share_blocks, original, group=2)
    shared.remove(frozenset({(3, "mlp")}))
    _, variant = healed(shared, original)
    after = parameters(variant)
    assert torch.equal(after["transformer.h.0.mlp.c_fc.bias"], after["transformer.h.1.mlp.c_fc.bias"])
    assert not torch.equal(after["transformer.h.0.mlp.c_fc.bias"], parameters(shared)["transformer.h.0.mlp.c_fc.bias"])
    assert not torch.equal(after["transformer.h.0.ln_1.weight"], after["transformer.h.1.ln_1.weight"])
    assert (after["transformer.h.3.mlp.c_proj.bias"] == 0).all()
    assert model_bits(variant) == model_bits(shared)


@pytest.mark.parametrize("steps", ("gptq~heal", "wanda~heal:train=lora,adapter=masked", "gptq~heal:train=lora", "share_blocks~heal:train=lora", "heal~gptq",
                                   "heal~slice_gpt", "low_rank~heal:train=both", "heal:train=lora~drop_layers:blocks=1", "gptq~heal~heal:train=lora"))
def test_sensible_places_pass(steps):
    assert parse(f"demo/storyteller-a~{steps}").steps[-1]


@pytest.mark.parametrize("steps,why", (("slice_gpt~heal", "heal before slicing"), ("gptq~heal:train=lora,adapter=masked", "not a grid"),
                                       ("heal:train=lora~gptq", "heal last"), ("low_rank~heal:train=lora,adapter=masked", "factors")))
def test_senseless_places_are_refused(steps, why):
    with pytest.raises(Refused, match=why):
        parse(f"demo/storyteller-a~{steps}")


def test_what_cannot_be_healed_is_refused():
    model = model_of("gpt2")
    with pytest.raises(Refused, match="tail has 9 blocks"):
        heal.check(heal.Params(loss="tail", tail=9), shape_of(model))
    text = text_for(model, n_sequences=1, length=300)
    text.keep[:] = True
    with pytest.raises(Refused, match="at least 2 sequences"):
        heal.decide(model, heal.Params(steps=1), text, Quiet())


def test_the_recipe_heals_towards_its_own_checkpoint(home):
    """Through the lab: KL to the original of a rounded demo model falls, and the size foreseen is the size made."""
    rounded = parse("demo/storyteller-a~round_to_nearest:bits=2")
    better = parse(rounded.written + "~heal:train=both,rank=1,steps=12,on=demo/mixed:train:16x32")
    lab = Lab(home, OPERATORS)
    original, before, after = (lab.model(v) for v in (rounded.root, rounded, better))
    plan = lab.plan(better)
    ids = lab.capture(rounded, parse_corpus("demo/mixed:train:16x32")).ids[-2:]  # the eighth that is held out
    kl = lambda m: float(token_divergence(original.logits(ids).flatten(0, 1), m.logits(ids).flatten(0, 1), torch.full((ids.numel(),), -1)).nan_to_num()[:, KL].mean())
    assert kl(after) < kl(before) and plan.kept > 0 and plan.held[0] == pytest.approx(kl(before), rel=1e-4)
    assert foreseen_bits(run.foreseen(better)) == model_bits(after)
    assert read_params(heal.Params, dict(better.steps[-1].params)).steps == 12
